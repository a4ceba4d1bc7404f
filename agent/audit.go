package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/cosentry/cosentry/agent/audit"
)

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "audit",
		Short:   "Read and check the record of decisions",
		Example: "  cosentry audit tail -f\n  cosentry audit verify",
	}
	cmd.PersistentFlags().String("dir", "", "folder of the audit log (default: audit.dir of the settings)")
	cmd.AddCommand(auditVerifyCommand(), auditTailCommand())
	return cmd
}

// auditDir is --dir, or the folder that the settings name.
func auditDir(cmd *cobra.Command) (string, error) {
	dir, err := cmd.Flags().GetString("dir")
	if err != nil || dir != "" {
		return dir, err
	}
	c, err := settings(cmd)
	return c.Audit.Dir, err
}

// noLog words that there is no folder yet.
func noLog(dir string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no audit log in %s yet; --dir names another folder", dir)
	}
	return err
}

func auditVerifyCommand() *cobra.Command {
	var head string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that no record was changed, removed, added or moved",
		Long: `Check every record of the audit log against its own hash and the one before it, across
rotated files, and name the first that is broken.

The chain cannot show that its end was cut off: note the head that this command prints somewhere
else, and give it back with --head.
Exit status: 0 intact, 1 broken, 2 could not be read.`,
		Example: "  cosentry audit verify\n  cosentry audit verify --dir /var/log/cosentry --head 4711:9f86d081…",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := auditDir(cmd)
			if err != nil {
				return err
			}
			var known []audit.Head
			if head != "" {
				h, err := audit.ParseHead(head)
				if err != nil {
					return err
				}
				known = append(known, h)
			}
			report, err := audit.VerifyDir(dir, known...)
			var broken *audit.BrokenError
			if errors.As(err, &broken) {
				fmt.Fprintln(cmd.OutOrStdout(), "BROKEN:", broken)
				return exitError(exitRefused)
			}
			if err != nil {
				return noLog(dir, err)
			}
			printReport(cmd.OutOrStdout(), report)
			return nil
		},
	}
	cmd.Flags().StringVar(&head, "head", "", "a head noted earlier, SEQ:HASH, that must be part of the log")
	return cmd
}

func auditTailCommand() *cobra.Command {
	var (
		output string
		follow bool
		last   int
	)
	cmd := &cobra.Command{
		Use:     "tail",
		Short:   "Print the latest decisions",
		Example: "  cosentry audit tail\n  cosentry audit tail -n 100 -f\n  cosentry audit tail -o json | jq 'select(.decision == \"deny\")'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := auditDir(cmd)
			if err != nil {
				return err
			}
			var broken *audit.BrokenError
			damaged := false
			for entry, err := range audit.Read(cmd.Context(), dir, audit.ReadOptions{Last: last, Follow: follow}) {
				switch {
				case errors.As(err, &broken):
					damaged = true
					fmt.Fprintln(cmd.ErrOrStderr(), "BROKEN:", broken)
				case err != nil:
					return noLog(dir, err)
				case output == "json":
					fmt.Fprintln(cmd.OutOrStdout(), string(entry.Raw))
				default:
					fmt.Fprintln(cmd.OutOrStdout(), audit.Format(entry))
				}
			}
			if damaged {
				return exitError(exitRefused)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new records")
	cmd.Flags().IntVarP(&last, "lines", "n", 20, "how many records to begin with; 0 for all")
	outputFlag(cmd, &output)
	return cmd
}

func printReport(w io.Writer, r audit.Report) {
	if r.Records == 0 {
		fmt.Fprintln(w, "intact: no records yet")
		return
	}
	fmt.Fprintf(w, "intact: %d records in %d files, %d to %d, %s to %s\n", r.Records, r.Files,
		r.FirstSeq, r.Head.Seq, r.First.Format(time.RFC3339), r.Last.Format(time.RFC3339))
	if r.FirstSeq > 1 {
		fmt.Fprintf(w, "records before %d were removed by rotation\n", r.FirstSeq)
	}
	if r.Lost > 0 {
		fmt.Fprintf(w, "%d records are missing because they could not be written; the log says where\n", r.Lost)
	}
	if r.Notices > 0 {
		fmt.Fprintf(w, "%d notices by the log itself\n", r.Notices)
	}
	if r.TornBytes > 0 {
		fmt.Fprintf(w, "%d bytes follow the last whole record\n", r.TornBytes)
	}
	fmt.Fprintln(w, "head", r.Head)
}
