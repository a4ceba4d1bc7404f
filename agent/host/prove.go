package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cosentry/cosentry/systemd"
)

// proveAgent makes sure that on the agent's socket the runtime answers, that what answers is the binary b, and that an unsigned image
// comes to an end there. kubelet has not been touched. An agent that is not ready, as without policies, proves nothing; only where
// it was not before either, and kubelet would be left without it, is that a warning.
func (h *Host) proveAgent(ctx context.Context, f Facts, b Binary, ready bool) error {
	here, err := h.tree.Path(f.Socket)
	if err != nil {
		return err
	}
	err = wait(ctx, h.o.Wait, func(ctx context.Context) error {
		u, err := h.o.Systemd.Unit(ctx, systemd.Service)
		if err != nil {
			return err
		}
		if u.Active != "active" {
			return fmt.Errorf("%s is %s (%s)", systemd.Service, u.Active, u.Result)
		}
		if running := h.running(u.MainPID); running != b.Path {
			return fmt.Errorf("%s runs %q and not %s", systemd.Service, running, b.Path)
		}
		a, err := ask(ctx, here)
		if err != nil {
			return fmt.Errorf("on %s: %w", f.Socket, err)
		}
		if a.name() != f.Runtime.Name || a.version != f.Runtime.Version {
			return fmt.Errorf("on %s %.64s %.64s answers, and the runtime is %s %s", f.Socket, a.runtime, a.version, f.Runtime.Name, f.Runtime.Version)
		}
		if !ready {
			return nil
		}
		return h.o.Proofs.Ready(ctx)
	})
	if err != nil {
		return fmt.Errorf("proving that the agent answers for the runtime: %w", err)
	}
	if err := h.o.Proofs.Ready(ctx); err != nil {
		h.say("warning: the agent is not ready, as it was not before: %v", err)
	}
	if err := h.o.Proofs.Canary(ctx, here); err != nil {
		return fmt.Errorf("proving that the agent meets an unsigned image: %w", err)
	}
	return nil
}

// proveKubelet makes sure that kubelet runs, is well if it ever said so, and is connected to socket unless that is empty. One that
// never said so, or cannot be heard, has to go on running: that is what systemd and the kernel say, and no user of the host can.
func (h *Host) proveKubelet(ctx context.Context, unit string, healthy bool, socket string) error {
	pid, since, warning := 0, time.Time{}, ""
	err := wait(ctx, h.o.Wait, func(ctx context.Context) error {
		u, err := h.o.Systemd.Unit(ctx, unit)
		if err != nil {
			return err
		}
		if u.Active != "active" || u.MainPID == 0 {
			pid = 0
			return fmt.Errorf("%s is %s (%s)", unit, u.Active, u.Result)
		}
		if u.MainPID != pid { // one that ends and is started again and again is not well
			pid, since = u.MainPID, time.Now()
			return fmt.Errorf("%s was started a moment ago", unit)
		}
		if socket != "" {
			if err := h.connected(ctx, socket, unit); err != nil {
				return err
			}
		}
		err = h.o.Proofs.Healthy(ctx)
		if err != nil && (errors.Is(err, ErrUntold) || !healthy) && time.Since(since) >= h.o.Wait/steady {
			warning = fmt.Sprintf("%v; that %s goes on running as process %d has to do", err, unit, pid)
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("proving that kubelet is well: %w", err)
	}
	if warning != "" {
		h.say("warning: %s", warning)
	}
	return nil
}

// steady is for which part of the time for a proof such a kubelet must run: one that cannot work with what it was given ends before.
const steady = 3

// connected returns nil if a process of kubelet's unit is a client of the agent's socket.
func (h *Host) connected(ctx context.Context, socket, unit string) error {
	yes, err := h.o.Proofs.Connected(ctx, socket, unit)
	if err != nil {
		return fmt.Errorf("it cannot be told whether kubelet is connected to the agent: %w", err)
	}
	if !yes {
		return errBypassed
	}
	return nil
}

// errBypassed says that kubelet is known not to be a client of the agent.
var errBypassed = errors.New("kubelet is not connected to the agent")
