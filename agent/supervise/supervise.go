// Package supervise shows what is known of a host that a [host.Supervisor] watches: metrics to the network, probes to kubelet,
// reasons to the log.
//
// It promises:
//
//   - Ready is only a host that was looked at, is as it was installed, and whose agent says at first hand that it is ready. Every
//     doubt is a reason, and the next rollout waits for it.
//   - The agent's and sync's metrics are passed on whole or not at all, and none of them under a name of the host's own.
//   - However many ask for metrics, the agent and sync are asked once a second at most. What they answer is bounded by package
//     firsthand.
//
// It refuses to tell the network why a host is not ready: reasons have paths and errors in them, and go to the log, each once.
// It changes nothing on the host; that is package host's. docs/metrics.md lists the metrics that are its own.
package supervise

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/cosentry/cosentry/agent/firsthand"
	"github.com/cosentry/cosentry/agent/host"
)

// notReady says why this host is not guarded as it was installed; "" if it is.
func notReady(ctx context.Context, seen host.Seen, agent firsthand.Agent) string {
	switch {
	case seen.At.IsZero():
		return "the host was not looked at yet"
	case seen.Left:
		return "cosentry was taken off this host"
	case seen.Phase != host.Installed:
		return "cosentry is not installed on this host"
	}
	var all []string
	for _, f := range seen.Faults {
		if f.What == host.FaultPolicies {
			continue // the node is guarded, by its own. Pods that are not ready would let the next rollout go to all nodes at once
		}
		all = append(all, f.What+": "+f.Why)
	}
	if len(all) == 0 {
		if err := agent.Ready(ctx); err != nil {
			all = append(all, err.Error())
		}
	}
	return strings.Join(all, "\n")
}

// Steps writes the lines of an installation to a log.
func Steps(log *slog.Logger) io.Writer { return steps{log} }

type steps struct{ log *slog.Logger }

func (s steps) Write(p []byte) (int, error) {
	s.log.Info("installing", "step", strings.TrimSpace(string(p)))
	return len(p), nil
}
