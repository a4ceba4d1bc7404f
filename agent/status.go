package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/connectivity"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/reload"
	"github.com/cosentry/cosentry/agent/sight"
)

var started = time.Now()

// ready says why the agent cannot judge what it is asked to judge, or would refuse all of it; or nil.
func (a *agent) ready() error {
	if s := a.proxy.RuntimeState(); s != connectivity.Ready {
		return fmt.Errorf("the runtime cannot be reached: connection is %s", s)
	}
	if s := a.policies.State(); s.Revision == "" {
		return fmt.Errorf("no policies are in force: %s", s.Broken)
	}
	if a.cluster != nil {
		if s := a.cluster.State(); s.State == reload.ClusterBroken && s.Revision == "" {
			return fmt.Errorf("the cluster's policies cannot be loaded: %s", s.Broken)
		}
	}
	if err := a.records.Fault(); err != nil && a.config.Audit.Required {
		return fmt.Errorf("audit.required is set and records cannot be written: %w", err)
	}
	return nil
}

func (a *agent) status() sight.Status {
	c, p, head := a.config, a.policies.State(), a.records.Head()
	s := sight.Status{
		Version:      buildVersion(),
		Node:         c.Node,
		Mode:         string(c.Mode),
		Listen:       a.socket,
		Runtime:      c.Runtime.Endpoint,
		RuntimeState: a.proxy.RuntimeState().String(),
		Started:      started,
		Policies: sight.Policies{
			Revision: p.Revision, Count: p.Count, Loaded: p.Loaded, Names: p.Names, Warnings: p.Warnings, Broken: p.Broken,
		},
		ClusterPolicies: a.clusterStatus(),
		Namespaces:      a.namespacesStatus(),
		Trust:           a.trustStatus(),
		NoMatch:         c.Policies.NoMatch,
		CachedVerdicts:  a.verifier.Cached(),
		Decisions:       a.metrics.Decisions(),
		Audit: sight.Audit{
			Dir: c.Audit.Dir, Required: c.Audit.Required, Sequence: head.Seq, Hash: head.Hash,
			Queued: a.records.Queued(), Lost: a.lost.Load(),
		},
		Peers:       a.peersStatus(),
		LastRefusal: a.refusals.last(),
		Sandbox:     a.sandboxStatus(),
		BreakGlass:  a.breakGlassStatus(),

		SettingsBroken: a.settings.status(),
	}
	if err := a.ready(); err != nil {
		s.NotReady = err.Error()
	}
	if err := a.records.Fault(); err != nil {
		s.Audit.Fault = err.Error()
	}
	return s
}

func (a *agent) namespacesStatus() sight.Namespaces {
	c, s := a.config.Namespaces, a.namespaces.State()
	n := sight.Namespaces{Enforce: c.Enforce.String(), Exempt: c.Exempt, ForCluster: s.ForCluster}
	if c.Enforce.Mode == config.ScopeLabelled {
		n.File, n.State, n.Count, n.Labelled, n.Loaded, n.Fault = c.File, s.File, s.Count, s.Labelled, s.Loaded, s.Fault
	}
	return n
}

func statusCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the agent on this node is doing",
		Long: `Show mode, runtime, policies in force and what they refer to, namespaces, decisions so far and the
head of the audit log of the agent that runs on this node, asked on its socket agent.sock beside the one that it serves. Run it as root.
Exit status: 0 it is ready, 1 it is not (no policies in force, no runtime, or audit records that are
required and cannot be written) or its settings are faulty and older ones hold, 2 no answer.`,
		Example: "  cosentry status\n  cosentry status -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := settings(cmd)
			if err != nil {
				return err
			}
			s, err := sight.Agent{Socket: c.AgentSocket()}.Status(cmd.Context())
			if err != nil {
				return err
			}
			if err := printStatus(cmd.OutOrStdout(), s, output); err != nil {
				return err
			}
			if s.NotReady != "" || s.SettingsBroken != nil {
				return exitError(exitRefused)
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}
