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
		NoMatch:        c.Policies.NoMatch,
		CachedVerdicts: a.verifier.Cached(),
		Decisions:      a.metrics.Decisions(),
		Audit: sight.Audit{
			Dir: c.Audit.Dir, Required: c.Audit.Required, Sequence: head.Seq, Hash: head.Hash,
			Queued: a.records.Queued(), Lost: a.lost.Load(),
		},
	}
	if err := a.ready(); err != nil {
		s.NotReady = err.Error()
	}
	if err := a.records.Fault(); err != nil {
		s.Audit.Fault = err.Error()
	}
	return s
}

func statusCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the agent on this node is doing",
		Long: `Show mode, runtime, policies in force, decisions so far and the head of the audit log
of the agent that runs on this node, asked on the loopback address of its settings.
Exit status: 0 it is ready, 1 it is not (no policies in force, no runtime, or audit records that are
required and cannot be written), 2 no answer.`,
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
			if s.NotReady != "" {
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
	if s.NotReady != "" {
		row("NOT READY", "%s", s.NotReady)
	}
	row("socket", "%s", s.Listen)
	row("runtime", "%s (%s)", s.Runtime, s.RuntimeState)
	row("up", "%s", time.Since(s.Started).Round(time.Second))
	if s.Policies.Revision == "" {
		row("policies", "NONE IN FORCE: gated calls are refused")
	} else {
		row("policies", "%d, revision %s, loaded %s", s.Policies.Count, s.Policies.Revision, s.Policies.Loaded.Format(time.RFC3339))
	}
	if s.Policies.Warnings > 0 {
		row("warnings", "%d about the policies; see: cosentry policy check", s.Policies.Warnings)
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
	if s.Audit.Fault != "" {
		row("AUDIT", "records are NOT BEING WRITTEN, %d wait: %s", s.Audit.Queued, s.Audit.Fault)
	}
	if s.Audit.Lost > 0 {
		row("AUDIT LOST", "%d records are in no file; the log of the agent has them", s.Audit.Lost)
	}
	return t.Flush()
}
