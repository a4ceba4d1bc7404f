package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/criproxy"
)

func runCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Serve the CRI socket and judge what is to run",
		Long: `Serve the CRI socket in front of the runtime until SIGTERM. Policies and the namespaces file are
read again when they change and on SIGHUP, which also has keys, rules and trust roots that are kept
elsewhere asked for again. Under systemd the socket may be handed over, and readiness is reported.

As a service it keeps a copy of the settings with which it started well. Settings that are faulty or missing at a later start
are not in force then: it goes on with the copy, and says so in log, status, metrics and audit log. Without a copy it does not start.`,
		Example: "  cosentry run --config /etc/cosentry/config.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hangups := surviveSignals()
			spareMemory()
			path, err := settingsPath(cmd)
			if err != nil {
				return err
			}
			s, err := settingsToRun(path, stateFolder())
			if err != nil {
				return err
			}
			return run(cmd.Context(), s, os.Stderr, hangups)
		},
	}
}

// settingsForRun reads the settings at path and makes the log, on w, that they ask for. It knows of no copy.
func settingsForRun(path string, w io.Writer) (config.Config, *slog.Logger, error) {
	s, err := settingsToRun(path, "")
	if err != nil {
		return config.Config{}, nil, err
	}
	return s.Config, s.log(w), nil
}

// surviveSignals keeps the process alive where it would die for no good reason, from now until
// its end, the drain included: a restarted log reader closes the pipe that standard error is (Go dies of
// a write to it), and SIGHUP, by which others are told to read their settings again, kills who does not
// listen yet or any more. The channel has the SIGHUPs; several at once are one.
func surviveSignals() <-chan os.Signal {
	signal.Ignore(syscall.SIGPIPE)
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	return hangups
}

// moreHangups has the SIGHUPs from now on for one more who reads something again. Like surviveSignals it is not undone.
func moreHangups() <-chan os.Signal {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	return hangups
}

// run serves until ctx ends. Policies that cannot be loaded, a runtime that is not
// there, and settings that are faulty where older ones were good, are no reasons to stop: kubelet needs the socket for all the rest.
func run(ctx context.Context, s runWith, w io.Writer, hangups <-chan os.Signal) error {
	a, err := begin(s, w)
	if err != nil {
		return err
	}
	defer a.close()
	listener, err := listen(a.config.Listen)
	if err != nil {
		return err
	}
	return a.serve(ctx, listener, hangups)
}

// begin puts an agent together; of the copy, if it cannot be made of settings that looked good.
func begin(s runWith, w io.Writer) (*agent, error) {
	a, err := assemble(s, s.log(w))
	if err == nil || s.fault != nil || s.data == nil {
		return a, err
	}
	if s, err = lastGood(s.path, s.state, err); err != nil {
		return nil, err
	}
	return assemble(s, s.log(w))
}

// listen takes the socket that systemd hands over, or makes one.
func listen(path string) (net.Listener, error) {
	if os.Getenv("LISTEN_FDS") != "" {
		return criproxy.ListenSystemd("")
	}
	// /run is empty after a boot.
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the socket's folder: %w", err)
	}
	return criproxy.Listen(path)
}

// serve starts everything that runs until ctx ends, and waits for its end.
func (a *agent) serve(ctx context.Context, listener net.Listener, hangups <-chan os.Signal) error {
	// Not the one of the settings: systemd may have handed over another.
	a.socket = listener.Addr().String()
	c, log := a.config, a.log
	if c.Mode == config.Observe {
		log.Warn("mode observe: nothing is refused, decisions are only recorded")
	}
	if a.namespaces.State().ForCluster {
		log.Info("the cluster's policies hold where its labels say so, the node's own in all namespaces that are not exempt", "file", c.Namespaces.File, "exempt", c.Namespaces.Exempt.String())
	} else if len(c.Namespaces.Exempt) > 0 || c.Namespaces.Enforce.Mode != config.ScopeAll {
		log.Info("images are not judged in all namespaces", "enforce", c.Namespaces.Enforce.String(), "exempt", c.Namespaces.Exempt.String())
	}
	a.noteStart()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.proxy.Serve(ctx, listener) })
	group.Go(func() error { return a.policies.Watch(ctx, hangups) })
	group.Go(func() error { return a.keeper.Run(ctx) })
	group.Go(func() error { a.policies.Follow(ctx, a.keeper.Changed()); return nil })
	if a.cluster != nil {
		group.Go(func() error { a.cluster.Watch(ctx, moreHangups()); return nil })
		group.Go(func() error { return a.clusterKeeper.Run(ctx) })
		group.Go(func() error { a.cluster.Follow(ctx, a.clusterKeeper.Changed()); return nil })
	}
	group.Go(func() error { a.askAgain(ctx, moreHangups()); return nil })
	group.Go(func() error { a.namespaces.Watch(ctx, moreHangups()); return nil })
	group.Go(func() error { a.images.Watch(ctx); return nil })
	group.Go(func() error { a.pause.Run(ctx); return nil })
	group.Go(func() error { a.glass.Run(ctx); return nil })
	group.Go(func() error { a.refusals.recall(ctx, c.Audit.Dir); return nil })
	group.Go(func() error { a.settings.keep(ctx, a.socket, log); return nil })
	group.Go(func() error { giveMemoryBack(ctx, giveBackEvery); return nil })
	shown := sight.Sources{Metrics: a.metrics.Handler(), Ready: a.inOrder, Status: a.status}
	group.Go(func() error { return sight.ServeRoot(ctx, c.AgentSocket(), shown, log) })
	if c.HTTP.Address != "" {
		group.Go(func() error { return sight.Serve(ctx, c.HTTP.Address, shown, log) })
	}
	if systemd := newReporter(a.socket, a.statusLine, log); systemd != nil {
		group.Go(func() error { systemd.run(ctx); return nil })
	}
	log.Info("serving", "socket", a.socket, "runtime", c.Runtime.Endpoint, "mode", c.Mode, "version", buildVersion())
	err := group.Wait()
	log.Info("stopped")
	return err
}
