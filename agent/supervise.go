package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/firsthand"
	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/agent/supervise"
)

func superviseCommand() *cobra.Command {
	var f hostFlags
	var listen, health, sync string
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "supervise",
		Short: "Keep a host as cosentry install left it",
		Long: `Look at the host again and again: is the binary there, are settings, units and kubelet's drop-in as they were
written, do socket and agent run, is kubelet told the agent's socket and connected to it? What stays wrong is mended by
installing once more, as after a boot that lost /etc. cosentry is never taken off, and a host from which somebody took it
is left alone. /metrics, for the network, has the agent's metrics, those of sync and the host's. On the address of --health,
for kubelet's probes alone, /healthz says that this command lives, /readyz that the host is as installed and the agent ready; if not,
the log says why.

It runs in a pod of the DaemonSet, in the host's network, until SIGTERM.`,
		Example: "  cosentry supervise --host-root /host",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			surviveSignals()
			log := newLog(config.Default().Log, os.Stderr)
			o, err := f.options(cmd.Context(), supervise.Steps(log))
			if err != nil {
				return err
			}
			h, err := host.New(o)
			if err != nil {
				return err
			}
			defer h.Close()
			s := &host.Supervisor{Host: h, Log: log, Every: every, Patience: 3, Longest: 5 * time.Minute, RepairTimeout: 8 * time.Minute}
			log.Info("watching the host", "root", o.Root, "interval", every, "version", buildVersion())
			group, ctx := errgroup.WithContext(cmd.Context())
			group.Go(func() error { return s.Run(ctx) })
			agent := firsthand.Agent{Root: o.Root}
			if listen != "" {
				from := supervise.Sources{Agent: agent, Sync: firsthand.Sync{Root: o.Root, Address: sync}, Version: buildVersion(), Log: log}
				group.Go(func() error { return sight.ServePublic(ctx, listen, supervise.Metrics(s.Seen, from), log) })
			}
			if health != "" {
				group.Go(func() error { return sight.ServeProbes(ctx, health, supervise.Probes(s, agent, log), log) })
			}
			return group.Wait()
		},
	}
	f.addInstall(cmd)
	cmd.Flags().StringVar(&listen, "listen", ":9478", "address of /metrics; empty: none")
	cmd.Flags().StringVar(&health, "health", "127.0.0.1:9480", "loopback address of /healthz and /readyz; empty: none")
	cmd.Flags().StringVar(&sync, "sync", "127.0.0.1:9479", "address of the metrics of cosentry sync, which are shown as well; empty: they are not")
	cmd.Flags().DurationVar(&every, "interval", 10*time.Second, "how often to look")
	return cmd
}
