package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/cosentry/cosentry/verify/policy"
)

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Work with ClusterImagePolicy files", Example: "  cosentry policy check /etc/cosentry/policies"}
	cmd.AddCommand(policyCheckCommand())
	return cmd
}

func policyCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE…",
		Short: "Check policy files as strictly as the agent does",
		Long: `Read ClusterImagePolicy files, or folders of them, exactly as the agent would, and print every
fault with its file, line and field. Warnings are things that are legal and probably not meant.
Exit status: 0 good (perhaps with warnings), 1 faulty, 2 could not be read.`,
		Example: "  cosentry policy check /etc/cosentry/policies\n  cosentry policy check release.yaml base.yaml",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := readPolicies(args)
			var faults policy.Errors
			if errors.As(err, &faults) {
				fmt.Fprintln(cmd.ErrOrStderr(), err)
				return exitError(exitRefused)
			}
			if err != nil {
				return err
			}
			for _, w := range set.Warnings() {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
			}
			word := "policies"
			if len(set.Policies()) == 1 {
				word = "policy"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d %s, revision %s\n", len(set.Policies()), word, set.Revision())
			return nil
		},
	}
}

// readPolicies reads files and folders as one set.
func readPolicies(paths []string) (*policy.Set, error) {
	var all []policy.Documents
	var faults []error
	for _, path := range paths {
		found, err := readDocuments(path)
		var wrong policy.Errors
		if errors.As(err, &wrong) {
			faults = append(faults, err) // go on: everything there is to mend is shown at once
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, found)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return policy.NewSet(all...)
}

func readDocuments(path string) (policy.Documents, error) {
	info, err := os.Stat(path)
	if err != nil {
		return policy.Documents{}, err
	}
	if !info.IsDir() {
		return policy.LoadFile(path)
	}
	set, err := policy.Load(path)
	if err != nil {
		return policy.Documents{}, err
	}
	return set.Documents(), nil
}
