package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/agent/report"
	"github.com/cosentry/cosentry/criproxy"
)

func reportCommand() *cobra.Command {
	var (
		output  string
		since   time.Duration
		running bool
	)
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Sum up what was, or would have been, refused",
		Long: `Sum up the audit log: which images were refused, would have been refused in observe mode, could not be judged or were
warned of, why, how often and in which pods. Read it before a node goes from observe to enforce.

With --running, judge the containers that run on this node now instead, as if each were created again. Policies are
asked when a container is created and not again: this shows what was started before cosentry, past it, or before a
policy became stricter. Nothing is recorded and nothing is stopped.

Canaries, the unsigned images by which cosentry install and cosentry doctor --canary prove that the agent judges, have a line of
their own and are no refusals.
Exit status: 0 nothing is refused, 1 something is, 2 could not be read.`,
		Example: "  cosentry report\n  cosentry report --since 24h -o json\n  cosentry report --running",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := settings(cmd)
			if err != nil {
				return err
			}
			if running && cmd.Flags().Changed("since") {
				return errors.New("--running is about now: leave --since out")
			}
			var r *report.Report
			if running {
				r, err = reportRunning(cmd.Context(), c)
			} else {
				r, err = reportLog(cmd.Context(), c.Audit.Dir, since)
			}
			if err != nil {
				return err
			}
			if err := printSum(cmd.OutOrStdout(), r, running, output); err != nil {
				return err
			}
			if r.Refusals() > 0 {
				return exitError(exitRefused)
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&since, "since", 0, "only what was decided in this time, such as 24h (default: all that the log holds)")
	cmd.Flags().BoolVar(&running, "running", false, "judge the containers that run now")
	outputFlag(cmd, &output)
	return cmd
}

// reportLog sums the audit log up.
func reportLog(ctx context.Context, dir string, since time.Duration) (*report.Report, error) {
	o := audit.ReadOptions{}
	if since > 0 {
		o.Since = time.Now().Add(-since)
	}
	r := &report.Report{}
	for entry, err := range audit.Read(ctx, dir, o) {
		var broken *audit.BrokenError
		switch {
		case errors.As(err, &broken):
			return nil, fmt.Errorf("the log is not whole, so no sum of it can be believed; see cosentry audit verify: %w", err)
		case err != nil:
			return nil, noLog(dir, err)
		}
		r.Add(entry.Record)
	}
	r.Sort()
	return r, ctx.Err()
}

// reportRunning judges what runs. It is an agent of its own, without a socket and without a log, that keeps nothing.
func reportRunning(ctx context.Context, c config.Config) (_ *report.Report, err error) {
	c.Evidence.Dir = "" // the agent's own, which no second process writes to
	a := &agent{config: c, log: quiet(), metrics: newMetrics(c)}
	defer a.close()
	for _, set := range []func() error{a.setUpTrust, a.setUpVerifier, a.setUpNamespaces} {
		if err := set(); err != nil {
			return nil, err
		}
	}
	if s := a.policies.State(); s.Broken != "" {
		return nil, fmt.Errorf("the policies cannot be loaded: %s", s.Broken)
	}
	if a.conn, err = criproxy.Dial(c.Runtime.Endpoint); err != nil {
		return nil, err
	}
	images, err := node.New(a.conn, node.Type(c.Runtime.Type), c.Runtime.Namespace)
	if err != nil {
		return nil, err
	}
	return report.Running(ctx, a.conn, gate.Options{
		Verifier:      a.verifier,
		Resolver:      a.fetcher,
		Images:        images,
		Namespaces:    a.namespaces,
		Node:          c.Node,
		CreateTimeout: time.Duration(c.Verification.CreateTimeout),
		PullTimeout:   time.Duration(c.Verification.PullTimeout),
		Log:           a.log,
	})
}

func printSum(w io.Writer, r *report.Report, running bool, output string) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	total := 0
	for _, n := range r.Decisions {
		total += n
	}
	what := "decisions"
	if running {
		what = "images in containers that run"
	}
	fmt.Fprintf(w, "%d %s", total, what)
	if !running && total > 0 {
		fmt.Fprintf(w, ", %s to %s", r.Since.Format(time.RFC3339), r.Until.Format(time.RFC3339))
	}
	fmt.Fprintf(w, ": %d allow, %d warn, %d deny, %d error\n", r.Decisions[audit.DecisionAllow], r.Decisions[audit.DecisionWarn],
		r.Decisions[audit.DecisionDeny], r.Decisions[audit.DecisionError])
	for _, row := range r.Rows {
		fmt.Fprintf(w, "\n%-5s %s\n", row.Decision, gate.Printable(row.Image))
		fmt.Fprintf(w, "      %s\n", gate.Printable(row.Reason))
		line := fmt.Sprintf("%d times", row.Count)
		if row.Count == 1 {
			line = "once"
		}
		if !running {
			line += ", last " + row.Last.Format(time.RFC3339)
			if row.Observed > 0 {
				line += fmt.Sprintf(", %d let through", row.Observed)
			}
		}
		if len(row.Pods) > 0 {
			line += ": " + strings.Join(row.Pods, ", ")
			if row.MorePods {
				line += " and others"
			}
		}
		fmt.Fprintf(w, "      %s\n", gate.Printable(line))
	}
	if c := r.Canaries; c != nil {
		fmt.Fprintf(w, "\nnot counted: canaries, sent to prove that the agent judges, last %s: %d allow, %d warn, %d deny, %d error\n", c.Last.Format(time.RFC3339),
			c.Decisions[audit.DecisionAllow], c.Decisions[audit.DecisionWarn], c.Decisions[audit.DecisionDeny], c.Decisions[audit.DecisionError])
	}
	if r.Omitted > 0 {
		fmt.Fprintf(w, "\n%d more decisions are in no row: there were more than %d different ones\n", r.Omitted, report.MaxRows)
	}
	return nil
}
