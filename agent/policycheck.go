package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/cosentry/cosentry/verify/policy"
)

func policyCheckCommand() *cobra.Command {
	var online bool
	var held string
	cmd := &cobra.Command{
		Use:   "check FILE…",
		Short: "Check policy files as strictly as the agent does",
		Long: `Read ClusterImagePolicy and TrustRoot files, or folders of them, exactly as the agent would, and print
every fault with its file, line and field. Warnings are things that are legal and probably not meant,
files that the agent would leave out because of their names, and secrets, ConfigMaps, keys, rules and trust roots that policies refer to and that are not there.

No network is asked, so that files can be checked in CI: a key of a key management service, a remote
rule or a remote trust root that this machine has not fetched before is warned of. With --online they are
fetched now.
Exit status: 0 good (perhaps with warnings), 1 faulty, 2 could not be read.`,
		Example: `  cosentry policy check /etc/cosentry/policies
  cosentry policy check release.yaml base.yaml
  cosentry policy check --online --trust ./trust ./policies`,
		Args: cobra.MinimumNArgs(1),
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
			c, err := policySettings(cmd, held)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Duration(c.Verification.PullTimeout))
			defer cancel()
			refs, err := references(ctx, c.Trust, set, online)
			if err != nil {
				return err
			}
			warnings := slices.Concat(set.Warnings(), refs.Warnings(set))
			for _, path := range args {
				warnings = append(warnings, policy.Unread(path)...)
			}
			for _, w := range warnings {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
			}
			word := "policies"
			switch len(set.Policies()) {
			case 0:
				fmt.Fprintln(cmd.ErrOrStderr(), "warning: there are no policies: policies.noMatch of the settings would decide about every image")
			case 1:
				word = "policy"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d %s, revision %s\n", len(set.Policies()), word, set.Revision())
			return nil
		},
	}
	cmd.Flags().BoolVar(&online, "online", false, "fetch what policies refer to: keys, remote rules, trust roots")
	trustFlag(cmd, &held)
	return cmd
}
