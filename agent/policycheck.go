package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust"
)

func policyCheckCommand() *cobra.Command {
	var online, fromCluster bool
	var held string
	cmd := &cobra.Command{
		Use:   "check {FILE… | --cluster}",
		Short: "Check policy files as strictly as the agent does",
		Long: `Read ClusterImagePolicy and TrustRoot files, or folders of them, exactly as the agent would, and print
every fault with its file, line and field. Warnings are things that are legal and probably not meant,
files that the agent would leave out because of their names, and secrets, ConfigMaps, keys, rules and trust roots that policies refer to and that are not there.

With --cluster it is what came from the cluster that is checked, in clusterPolicies.dir of the settings: documents that
are not taken because nobody signed them are warnings.

No network is asked, so that files can be checked in CI: a key of a key management service, a remote
rule or a remote trust root that this machine has not fetched before is warned of. With --online they are
fetched now.
Exit status: 0 good (perhaps with warnings), 1 faulty, 2 could not be read.`,
		Example: `  cosentry policy check /etc/cosentry/policies
  cosentry policy check release.yaml base.yaml
  cosentry policy check --cluster
  cosentry policy check --online --trust ./trust ./policies`,
		Args: func(_ *cobra.Command, args []string) error {
			if fromCluster == (len(args) > 0) {
				return errors.New("name files as arguments, or give --cluster, and not both")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := policySettings(cmd, held)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Duration(c.Verification.PullTimeout))
			defer cancel()
			check := checked{cmd: cmd, online: online, trust: c.Trust, held: trust.Folder(c.Trust.Dir)}
			if fromCluster {
				return check.cluster(ctx, c)
			}
			set, err := readPolicies(args)
			for _, path := range args {
				check.more = append(check.more, policy.Unread(path)...)
			}
			if err == nil && len(set.Policies()) == 0 {
				check.empty = "policies.noMatch of the settings would decide about every image"
			}
			return check.say(ctx, set, err)
		},
	}
	cmd.Flags().BoolVar(&online, "online", false, "fetch what policies refer to: keys, remote rules, trust roots")
	cmd.Flags().BoolVar(&fromCluster, "cluster", false, "check what came from the cluster, in clusterPolicies.dir of the settings")
	trustFlag(cmd, &held)
	return cmd
}

// checked is what `policy check` says of a set.
type checked struct {
	cmd    *cobra.Command
	online bool
	trust  config.Trust
	held   trust.Files
	more   []policy.Warning // beside those of the set
	empty  string           // what it means that there are no policies
}

// cluster checks what sync has written.
func (c checked) cluster(ctx context.Context, settings config.Config) error {
	if settings.ClusterPolicies.Dir == "" {
		return errors.New("clusterPolicies.dir is empty in the settings: the cluster has no say")
	}
	layer, err := clusterOnDisk(ctx, settings)
	if err == nil && layer.policies == nil {
		return fmt.Errorf("no policies have come from the cluster yet to %s: see the logs of cosentry sync", settings.ClusterPolicies.Dir)
	}
	c.trust, c.held, c.empty = layer.trust, layer.held, "only the node's own decide"
	for _, s := range layer.skipped {
		c.more = append(c.more, policy.Warning{Source: s.File, Text: "is not taken: " + s.Why})
	}
	return c.say(ctx, layer.policies, err)
}

// say prints what there is to be said of a set, or of why there is none.
func (c checked) say(ctx context.Context, set *policy.Set, err error) error {
	var faults policy.Errors
	if errors.As(err, &faults) {
		fmt.Fprintln(c.cmd.ErrOrStderr(), err)
		return exitError(exitRefused)
	}
	if err != nil {
		return err
	}
	refs, err := referencesIn(ctx, c.trust, c.held, set, c.online)
	if err != nil {
		return err
	}
	for _, w := range slices.Concat(set.Warnings(), refs.Warnings(set), c.more) {
		fmt.Fprintln(c.cmd.ErrOrStderr(), "warning:", w)
	}
	word := "policies"
	switch len(set.Policies()) {
	case 0:
		fmt.Fprintln(c.cmd.ErrOrStderr(), "warning: there are no policies: "+c.empty)
	case 1:
		word = "policy"
	}
	fmt.Fprintf(c.cmd.OutOrStdout(), "%d %s, revision %s\n", len(set.Policies()), word, set.Revision())
	return nil
}
