package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/breakglass"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/agent/sight"
)

// setUpBreakGlass makes what knows whether the glass is broken. It is looked for beside the socket, which the folder is made for
// by whoever makes the socket.
func (a *agent) setUpBreakGlass(socket string) (letThrough func(action, decision string)) {
	a.glass = breakglass.NewWatch(breakglass.Options{
		Path: breakglass.Path(socket), Log: a.log, Now: breakglass.Now,
		Record: func(words string) { a.note(audit.ActionBreakGlass, words) },
	})
	return a.metrics.WatchBreakGlass(actions(), a.glass.Open)
}

// actions are what decisions are about.
func actions() []string {
	return []string{audit.ActionPull, audit.ActionCreate, audit.ActionMount, audit.ActionSandbox}
}

// note records what happened to the agent. The log of decisions tells its own trouble.
func (a *agent) note(action, words string) {
	_ = a.records.Append(audit.Record{Node: a.config.Node, Action: action, Mode: string(a.config.Mode), Reason: words, Revision: a.verifier.Revision()})
}

// noteStart records that the agent started, and how: whoever reads that a node enforces must be able to read since when.
func (a *agent) noteStart() {
	c := a.config
	a.note(audit.ActionStart, fmt.Sprintf("version %s, mode %s, policies in %s, noMatch %s, namespaces %s, exempt %s, unknown methods %s",
		buildVersion(), c.Mode, c.Policies.Dir, c.Policies.NoMatch, c.Namespaces.Enforce, c.Namespaces.Exempt, c.Runtime.UnknownMethods)+a.settings.words())
}

func (a *agent) breakGlassStatus() *sight.BreakGlass {
	g, _ := a.glass.State()
	if g == nil {
		return nil
	}
	return &sight.BreakGlass{Begun: g.Begun, Until: g.Until, Reason: g.Reason, By: g.By.String()}
}

func breakGlassCommand() *cobra.Command {
	var (
		reason string
		length time.Duration
		end    bool
	)
	cmd := &cobra.Command{
		Use:   "break-glass {--reason TEXT --for TIME | --end}",
		Short: "Let everything run on this node for a while, for a reason that is recorded",
		Long: `Let everything run on this node for a while that its policies refuse, as in mode observe: each decision
is still made and recorded. Only root on the node can do so. The reason, how long, who did it and who ended it are in the audit log;
status, metrics and log tell of it while it lasts. It ends by itself, at the latest with the next start of the node.
Exit status: 0 the agent has taken it over, 1 it has not yet, 2 it could not be done.`,
		Example: "  cosentry break-glass --reason 'INC-4711: signing service is down' --for 1h\n  cosentry break-glass --end",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := settings(cmd)
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errors.New("only root on this node can break the glass")
			}
			path := breakglass.Path(c.Listen)
			if end {
				if reason != "" || length != 0 {
					return errors.New("--end goes without --reason and --for")
				}
				return endBreakGlass(cmd, c, path)
			}
			if c.Mode == config.Observe {
				return errors.New("this node is in mode observe: nothing is refused on it anyway")
			}
			if reason == "" || length == 0 {
				return fmt.Errorf("say why and for how long: --reason TEXT --for TIME, from %v to %v", breakglass.MinTime, breakglass.MaxTime)
			}
			now, err := breakglass.Now()
			if err != nil {
				return err
			}
			g, err := breakglass.Begin(path, reason, length, whoIAm(), now)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "everything is let through until %s: %s\n", g.Until.Format(time.RFC3339), gate.Printable(g.Reason))
			return await(cmd, c, func(s sight.Status) bool {
				return s.BreakGlass != nil && s.BreakGlass.Begun.Equal(g.Begun) && s.BreakGlass.Reason == g.Reason
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why: at most "+strconv.Itoa(breakglass.MaxReason)+" bytes, for the audit log")
	cmd.Flags().DurationVar(&length, "for", 0, "for how long, such as 30m or 2h: at most "+breakglass.MaxTime.String())
	cmd.Flags().BoolVar(&end, "end", false, "end it now")
	return cmd
}

func endBreakGlass(cmd *cobra.Command, c config.Config, path string) error {
	now, err := breakglass.Now()
	if err != nil {
		return err
	}
	_, err = breakglass.End(path, whoIAm(), now)
	if errors.Is(err, breakglass.ErrWhole) {
		fmt.Fprintln(cmd.OutOrStdout(), "the glass is not broken; nothing was done")
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), "the glass is whole again")
	return await(cmd, c, func(s sight.Status) bool { return s.BreakGlass == nil })
}

// takeOver is how long the agent is waited for; it looks once a second.
const takeOver = 10 * time.Second

// await waits until the agent says that it does what was asked of it.
func await(cmd *cobra.Command, c config.Config, done func(sight.Status) bool) error {
	notYet := func(why string) error {
		fmt.Fprintln(cmd.ErrOrStderr(), "not taken over by an agent yet:", gate.Printable(why))
		return exitError(exitRefused)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), takeOver)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := sight.Agent{Socket: c.AgentSocket()}.Status(ctx)
		if err == nil && done(s) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if err != nil {
				return notYet(err.Error())
			}
			return notYet("it answers, and says nothing of it; see its log")
		}
	}
}

// whoIAm is the user of this process, and who logged in to become that user: proc_pid_loginuid in proc(5), which only root
// can set, and only once on most systems.
func whoIAm() breakglass.Who {
	who := breakglass.Who{UID: os.Getuid(), LoginUID: -1}
	f, err := os.Open("/proc/self/loginuid")
	if err != nil {
		return who // a kernel without audit
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return who
	}
	const unset = 1<<32 - 1
	if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32); err == nil && n != unset {
		who.LoginUID = int(n)
	}
	return who
}
