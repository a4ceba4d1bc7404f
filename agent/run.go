package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/connectivity"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/agent/metrics"
	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/agent/reload"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
)

func runCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Serve the CRI socket and judge what is to run",
		Long: `Serve the CRI socket in front of the runtime until SIGTERM. Policies are read again
when their folder changes and on SIGHUP. Under systemd the socket may be handed over, and
readiness is reported.`,
		Example: "  cosentry run --config /etc/cosentry/config.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := settings(cmd)
			if err != nil {
				return err
			}
			return run(cmd.Context(), c, newLog(c.Log))
		},
	}
}

// run serves until ctx ends. Policies that cannot be loaded and a runtime that is not
// there are no reasons to stop: kubelet needs the socket for all the rest.
func run(ctx context.Context, c config.Config, log *slog.Logger) error {
	var proxy *criproxy.Proxy // the metrics ask it; set below, before anything is served
	m := metrics.New(buildVersion(), string(c.Mode), func() bool { return proxy.RuntimeState() == connectivity.Ready })

	records, err := audit.Open(audit.Options{
		Dir:         c.Audit.Dir,
		MaxFileSize: int64(c.Audit.MaxFileSize),
		MaxFiles:    c.Audit.MaxFiles,
		Required:    c.Audit.Required,
		Log:         log,
		Fault:       m.AuditFailed,
	})
	if err != nil {
		return err
	}
	defer func() { // last of all: what is still in flight is recorded
		if err := records.Close(); err != nil {
			log.Error("closing the audit log", "error", err)
		}
	}()

	fetcher, err := newFetcher(c, log, m)
	if err != nil {
		return err
	}
	var keeper verify.Keeper
	if c.Evidence.Dir != "" {
		if store, err := evidence.OpenStore(c.Evidence.Dir, c.Evidence.Size, log); err != nil {
			log.Warn("signatures are not kept on disk", "error", err)
		} else {
			keeper = store
		}
	}
	verifier, err := newVerifier(c, fetcher, keeper, m)
	if err != nil {
		return err
	}
	policies := reload.New(c.Policies.Dir, verifier, m, log)
	policies.Load()

	conn, err := criproxy.Dial(c.Runtime.Endpoint) // for the gate's own look-ups
	if err != nil {
		return err
	}
	defer conn.Close()
	images, err := node.New(conn, node.Type(c.Runtime.Type), c.Runtime.Namespace)
	if err != nil {
		return err
	}
	g, err := gate.New(gate.Options{
		Verifier:      verifier,
		Resolver:      fetcher,
		Images:        images,
		Recorder:      records,
		Observe:       c.Mode == config.Observe,
		Node:          c.Node,
		CreateTimeout: time.Duration(c.Verification.CreateTimeout),
		PullTimeout:   time.Duration(c.Verification.PullTimeout),
		Log:           log,
		Decided:       m.Decided,
	})
	if err != nil {
		return err
	}
	proxy, err = criproxy.New(criproxy.Options{
		Endpoint:              c.Runtime.Endpoint,
		Gate:                  g,
		ForwardUnknownMethods: c.Runtime.UnknownMethods == "forward",
		Log:                   log,
		Forwarded:             m.Forwarded,
	})
	if err != nil {
		return err
	}
	listener, err := listen(c.Listen)
	if err != nil {
		return err
	}
	if c.Mode == config.Observe {
		log.Warn("mode observe: nothing is refused, decisions are only recorded")
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return proxy.Serve(ctx, listener) })
	group.Go(func() error { return policies.Watch(ctx, hangups(ctx)) })
	group.Go(func() error { images.Watch(ctx); return nil })
	if c.HTTP.Address != "" {
		group.Go(func() error {
			return sight.Serve(ctx, c.HTTP.Address, sight.Sources{
				Metrics: m.Handler(),
				Ready:   func() error { return ready(proxy, policies) },
				Status:  func() sight.Status { return statusOf(c, proxy, policies, verifier, records, m) },
			}, log)
		})
	}
	log.Info("serving", "socket", c.Listen, "runtime", c.Runtime.Endpoint, "mode", c.Mode, "version", buildVersion())
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("telling systemd", "error", err)
	}
	err = group.Wait()
	log.Info("stopped")
	return err
}

func newFetcher(c config.Config, log *slog.Logger, m *metrics.Metrics) (*evidence.Fetcher, error) {
	o := evidence.Options{
		HostsDir:     c.Registry.HostsDir,
		DockerConfig: c.Registry.DockerConfig,
		UserAgent:    "cosentry/" + buildVersion(),
		Log:          log,
	}
	if m != nil {
		o.Observe = m.Registry
	}
	f, err := evidence.New(o)
	if err != nil {
		return nil, fmt.Errorf("setting up registry access: %w", err)
	}
	return f, nil
}

func newVerifier(c config.Config, source verify.Source, keeper verify.Keeper, m *metrics.Metrics) (*verify.Verifier, error) {
	o := verify.Options{
		Source:       source,
		Keeper:       keeper,
		NoMatch:      verify.NoMatch(c.Policies.NoMatch),
		CacheSize:    c.Cache.Size,
		AllowTTL:     time.Duration(c.Cache.AllowTTL),
		DenyTTL:      time.Duration(c.Cache.DenyTTL),
		FetchTimeout: time.Duration(max(c.Verification.CreateTimeout, c.Verification.PullTimeout)),
	}
	if m != nil {
		o.Cache, o.Judged = m.Cache, m.Judged
	}
	return verify.New(o)
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

// hangups turns SIGHUPs into wake-ups; several at once are one.
func hangups(ctx context.Context) <-chan struct{} {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	again := make(chan struct{}, 1)
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
				select {
				case again <- struct{}{}:
				default:
				}
			}
		}
	}()
	return again
}
