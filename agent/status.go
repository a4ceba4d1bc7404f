package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/connectivity"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/metrics"
	"github.com/cosentry/cosentry/agent/reload"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/verify"
)

var started = time.Now()

// ready says why the agent cannot judge what it is asked to judge, or nil.
func ready(proxy *criproxy.Proxy, policies *reload.Policies) error {
	if s := proxy.RuntimeState(); s != connectivity.Ready {
		return fmt.Errorf("the runtime cannot be reached: connection is %s", s)
	}
	if s := policies.State(); s.Revision == "" {
		return fmt.Errorf("no policies are in force: %s", s.Broken)
	}
	return nil
}

func statusOf(c config.Config, proxy *criproxy.Proxy, policies *reload.Policies, v *verify.Verifier, records *audit.Log, m *metrics.Metrics) sight.Status {
	head := records.Head()
	return sight.Status{
		Version:        buildVersion(),
		Node:           c.Node,
		Mode:           string(c.Mode),
		Listen:         c.Listen,
		Runtime:        c.Runtime.Endpoint,
		RuntimeState:   proxy.RuntimeState().String(),
		Started:        started,
		Policies:       policies.State(),
		NoMatch:        c.Policies.NoMatch,
		CachedVerdicts: v.Cached(),
		Decisions:      m.Decisions(),
		Audit:          sight.Audit{Dir: c.Audit.Dir, Sequence: head.Seq, Hash: head.Hash, Failures: m.AuditFailures()},
	}
}

func statusCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the agent on this node is doing",
		Long: `Show mode, runtime, policies in force, decisions so far and the head of the audit log
of the agent that runs on this node, asked on the loopback address of its settings.
Exit status: 0 it can judge, 1 it cannot (no policies in force, or no runtime), 2 no answer.`,
		Example: "  cosentry status\n  cosentry status -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := settings(cmd)
			if err != nil {
				return err
			}
			if c.HTTP.Address == "" {
				return errors.New("http.address is empty in the settings, so the agent cannot be asked")
			}
			s, err := sight.Ask(cmd.Context(), c.HTTP.Address)
			if err != nil {
				return err
			}
			if err := printStatus(cmd.OutOrStdout(), s, output); err != nil {
				return err
			}
			if s.Policies.Revision == "" || s.RuntimeState != connectivity.Ready.String() {
				return exitError(exitRefused)
			}
			return nil
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func printStatus(w io.Writer, s sight.Status, output string) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("version", "%s", s.Version)
	row("node", "%s", s.Node)
	row("mode", "%s", s.Mode)
	row("socket", "%s", s.Listen)
	row("runtime", "%s (%s)", s.Runtime, s.RuntimeState)
	row("up", "%s", time.Since(s.Started).Round(time.Second))
	if s.Policies.Revision == "" {
		row("policies", "NONE IN FORCE: gated calls are refused")
	} else {
		row("policies", "%d, revision %s, loaded %s", s.Policies.Count, s.Policies.Revision, s.Policies.Loaded.Format(time.RFC3339))
	}
	if s.Policies.Broken != "" {
		row("BROKEN", "the files on disk are not in force: %s", s.Policies.Broken)
	}
	row("no match", "%s", s.NoMatch)
	row("cache", "%d verdicts", s.CachedVerdicts)
	for _, action := range slices.Sorted(maps.Keys(s.Decisions)) {
		for _, decision := range slices.Sorted(maps.Keys(s.Decisions[action])) {
			row(action+" "+decision, "%d", s.Decisions[action][decision])
		}
	}
	row("audit", "%s, %d records, head %s", s.Audit.Dir, s.Audit.Sequence, s.Audit.Hash)
	if s.Audit.Failures > 0 {
		row("AUDIT", "%d records could not be written when they were due", s.Audit.Failures)
	}
	return t.Flush()
}
