package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/doctor"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/verify/policy"
)

func doctorCommand() *cobra.Command {
	var output, root, namespace string
	var canary bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find what is wrong with cosentry on this node, and what to do about it",
		Long: `Look at units, files, sockets, kubelet's endpoint, who is connected to what, policies and what they refer to,
registries, clock and audit log, and say of each whether it is as it should be, and if not, what to do. It works
where the agent is dead, and changes nothing. Run it as root.

With --canary, have an unsigned image pulled, from a registry that the command itself serves on loopback, and see whether
it is refused: the proof that policy is enforced. The image is removed again.
Exit status: 0 all is well, 1 there are warnings, 2 something is wrong.`,
		Example: "  cosentry doctor\n  cosentry doctor --canary\n  cosentry doctor --host-root /host -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := cmd.Flags().GetString("config")
			if err != nil {
				return err
			}
			if settings == "" {
				settings = defaultConfig
			}
			if root, err = filepath.Abs(root); err != nil {
				return err
			}
			if root == "/" {
				if settings, err = filepath.Abs(settings); err != nil {
					return err
				}
			}
			found, err := doctor.Examine(cmd.Context(), doctor.Options{
				Root: root, Settings: settings, Version: buildVersion(), Built: builtFrom(), Trust: fetchTrust,
				Registries: func(c config.Config) (doctor.Registries, error) { return newFetcher(c, quiet(), nil) },
				Canary:     canary, Namespace: namespace, Log: quiet(),
			})
			if err != nil {
				return err
			}
			if err := printFindings(cmd.OutOrStdout(), found, output); err != nil {
				return err
			}
			if worst := doctor.Worst(found); worst > doctor.OK {
				return exitError(worst)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&root, "host-root", "/", "where the host's root is mounted; paths of the settings are the host's")
	cmd.Flags().BoolVar(&canary, "canary", false, "prove that an unsigned image is refused")
	cmd.Flags().StringVar(&namespace, "namespace", "", "with --canary: the namespace that the pull is for (default: none, which is judged wherever any is)")
	outputFlag(cmd, &output)
	return cmd
}

// fetchTrust finds out what policies refer to without an agent. What is fetched is not kept.
func fetchTrust(ctx context.Context, c config.Trust, set *policy.Set) ([]sight.Trust, error) {
	dir, err := os.MkdirTemp("", "cosentry-trust-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c.CacheDir = dir
	keeper, err := newKeeper(c, false, quiet(), nil)
	if err != nil {
		return nil, err
	}
	keeper.FetchNow(ctx, set)
	keeper.Resolve(set)
	var all []sight.Trust
	for _, s := range keeper.Status() {
		all = append(all, sight.Trust{Name: s.Name, Kind: s.Kind, OK: s.OK, Error: s.Error, Fetched: s.Fetched, Expires: s.Expires, Ends: s.Ends, Disk: s.Disk, From: s.From})
	}
	return all, nil
}

func printFindings(w io.Writer, found []doctor.Finding, output string) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(struct {
			Level    doctor.Level     `json:"level"`
			Findings []doctor.Finding `json:"findings"`
		}{doctor.Worst(found), found})
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, f := range found {
		level := f.Level.String()
		if f.Level > doctor.OK {
			level = strings.ToUpper(level)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", level, f.ID, f.Saw)
		if f.Do != "" {
			fmt.Fprintf(t, "\t\tto do: %s\n", f.Do)
		}
	}
	return t.Flush()
}
