package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/criproxy"
)

// reportEvery is how often systemd is told how the agent does, where it has no watchdog that wants it more often.
const reportEvery = 10 * time.Second

// reporter tells systemd that the agent is ready, how it does, and that it is alive: sd_notify(3), sd_watchdog_enabled(3).
//
// The watchdog is fed only while the agent answers a call on its own socket as kubelet would make it, so that an agent
// that hangs is ended and started anew. Whatever lies beyond the agent is no reason to end it: a runtime that is down, policies that
// are broken, and the socket's file that somebody removed, which a new agent could not mend either, because the
// socket is systemd's.
type reporter struct {
	socket string
	every  time.Duration
	feed   bool // there is a watchdog
	status func() string
	// ping and notify are criproxy.Ping and the message to systemd.
	ping   func(ctx context.Context, path string) error
	notify func(state string) error
	log    *slog.Logger

	ready bool   // systemd was told
	said  string // the status that systemd was told last
	mute  bool   // the last ping was not answered, and that was logged
}

// newReporter returns what reports to the systemd that started this process; nil if none did.
func newReporter(socket string, status func() string, log *slog.Logger) *reporter {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("what systemd says of its watchdog cannot be read, so it is not fed", "error", err)
	}
	r := &reporter{
		socket: socket, every: reportEvery, feed: interval > 0, status: status, ping: criproxy.Ping, log: log,
		notify: func(state string) error { _, err := daemon.SdNotify(false, state); return err },
	}
	if r.feed {
		// Three in the time that systemd waits: two may be late before the agent is ended.
		r.every = min(r.every, interval/3)
	}
	return r
}

// run reports until ctx ends. It says that the agent is ready as soon as that answers.
func (r *reporter) run(ctx context.Context) {
	tick := time.NewTicker(r.every)
	defer tick.Stop()
	for {
		r.once(ctx)
		select {
		case <-ctx.Done():
			r.send(daemon.SdNotifyStopping)
			return
		case <-tick.C:
		}
	}
}

// once tells systemd how the agent does, if it answers.
func (r *reporter) once(ctx context.Context) {
	if r.answers(ctx) {
		r.tell()
	}
}

// answers asks the agent on its own socket.
func (r *reporter) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, r.every)
	defer cancel()
	err := r.ping(ctx, r.socket)
	absent := errors.Is(err, criproxy.ErrNotListening)
	switch {
	case err == nil:
		r.mute = false
	case absent && !r.mute:
		r.log.Error("the socket's file is gone or is another's: kubelet cannot connect again; restart the socket's unit", "error", err)
		r.mute = true
	case !r.mute && ctx.Err() != context.Canceled:
		r.log.Error("the agent does not answer on its own socket", "error", err)
		r.mute = true
	}
	return err == nil || absent
}

func (r *reporter) tell() {
	state := ""
	if !r.ready {
		state, r.ready = daemon.SdNotifyReady+"\n", true
	}
	if r.feed {
		state += daemon.SdNotifyWatchdog + "\n"
	}
	status := r.status()
	if r.mute {
		status = "NOT REACHABLE: the socket's file is gone or is another's; restart the socket's unit"
	}
	if status != r.said {
		state += "STATUS=" + status + "\n"
		r.said = status
	}
	if state != "" {
		r.send(state)
	}
}

func (r *reporter) send(state string) {
	if err := r.notify(state); err != nil {
		r.log.Warn("telling systemd", "error", err)
	}
}

// statusLine is what `systemctl status` shows of the agent.
func (a *agent) statusLine() string {
	p := a.policies.State()
	line := fmt.Sprintf("mode %s, %d policies, runtime %s", a.config.Mode, p.Count, a.proxy.RuntimeState())
	if g, _ := a.glass.State(); g != nil {
		line = "BREAK-GLASS until " + g.Until.Format(time.RFC3339) + ": everything is let through; " + line
	}
	if b := a.settings.status(); b != nil {
		line = "SETTINGS BROKEN: " + b.File + " is not in force, a copy kept at " + b.Kept.Format(time.RFC3339) + " is; see cosentry config check; " + line
	}
	if err := a.ready(); err != nil {
		line = "NOT READY: " + err.Error() + "; " + line
	}
	return gate.Printable(line)
}
