package firsthand

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/canary"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/host/peers"
	"github.com/cosentry/cosentry/agent/sight"
)

// Proofs are what an installation has to show on a host.
type Proofs struct {
	// Root is where the host's root is mounted.
	Root string
	// Healthz is the URL at which kubelet says that it is well.
	Healthz string
}

var _ host.Proofs = Proofs{}

// Canary has an unsigned image pulled.
func (p Proofs) Canary(ctx context.Context, socket string) error {
	c, err := settings(p.Root)
	if err != nil {
		return err
	}
	r, err := canary.Pull(ctx, canary.Options{Socket: socket, AuditDir: filepath.Join(p.Root, c.Audit.Dir)})
	if err != nil {
		return err
	}
	return judged(r, c.Mode)
}

// judged says why what became of an unsigned image does not show that this node judges images as its mode says.
func judged(r canary.Result, mode config.Mode) error {
	switch {
	case !r.Seen():
		return fmt.Errorf("an unsigned image was pulled and the agent did not see it: %s", r.Why)
	case r.Outcome == canary.Recorded && mode == config.Enforce && r.Record.Mode != audit.ModeBreakGlass:
		return fmt.Errorf("an unsigned image was let through although policy refuses it and the settings say enforce: %s", r.Why)
	case r.Outcome == canary.Undecided && r.Answer == "" && mode == config.Enforce:
		return fmt.Errorf("an unsigned image was let through although it could not be judged: %s", r.Why)
	}
	return nil
}

// Connected says whether the kubelet of the unit is a client of the socket. Another process in its control group is not it.
func (p Proofs) Connected(ctx context.Context, socket, unit string) (bool, error) {
	return peers.Connected(ctx, p.Root, socket, func(process peers.Process) bool {
		return process.Unit == unit && process.IsKubelet()
	})
}

// Ready asks the agent.
func (p Proofs) Ready(ctx context.Context) error { return Agent{Root: p.Root}.Ready(ctx) }

// Healthy asks kubelet, on the loopback address that is its own as long as nobody else takes it.
func (p Proofs) Healthy(ctx context.Context) error {
	const maxHealth = 64 << 10 // bytes; it says ok
	_, err := sight.Server{URL: p.Healthz}.Get(ctx, "", maxHealth)
	var unwell *sight.StatusError
	switch {
	case errors.As(err, &unwell):
		return fmt.Errorf("kubelet says that it is not well: %w", err)
	case err != nil:
		return fmt.Errorf("%w: %w", host.ErrUntold, err)
	}
	return nil
}
