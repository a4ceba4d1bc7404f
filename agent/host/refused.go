package host

import (
	"context"
	"fmt"
	"time"

	"github.com/cosentry/cosentry/agent/host/files"
)

// Refused is an upgrade that did not prove itself. To try it costs the node its agent for as long as the proof takes, and a pod that
// fails is started again and again: it is not tried before Until.
type Refused struct {
	// What names binary and settings together: with other settings it is another upgrade.
	What    string    `json:"what"`
	Version string    `json:"version"`
	Why     string    `json:"why"`
	Times   int       `json:"times"`
	At      time.Time `json:"at"`
	Until   time.Time `json:"until"`
}

// How long an upgrade is not tried again after it first failed, and at most.
const (
	refusedFirst = 10 * time.Minute
	refusedMost  = 24 * time.Hour
	maxWhy       = 500 // bytes
)

// upgrade names what a plan puts in the place of the agent that proved itself last; "" if it is that one.
func (p Plan) upgrade(s State) string {
	if !s.proved() || p.Binary.SHA256 == s.Agent.SHA256 {
		return ""
	}
	text := p.Binary.SHA256
	for _, c := range p.Settings {
		text += "\n" + c.Path + " " + files.Hash(c.After)
	}
	return files.Hash([]byte(text))
}

// refused says why the upgrade is not tried now.
func (h *Host) refused(s State, p Plan) error {
	r := s.Refused
	if r == nil || h.o.Again || r.What != p.upgrade(s) || !time.Now().Before(r.Until) {
		return nil
	}
	return fmt.Errorf("cosentry %s did not prove itself on this node at %s (%s), and %s goes on running: it is tried again after %s, "+
		"with other settings, or at once by cosentry install --again",
		r.Version, r.At.Format(time.RFC3339), r.Why, s.Agent.Version, r.Until.Format(time.RFC3339))
}

// refuse remembers that the upgrade failed. Who stopped the run in the middle, by hand or by deleting a pod, showed nothing by that.
func (r *run) refuse(ctx context.Context, why error) {
	what := r.plan.upgrade(r.was)
	if what == "" || !r.proving || ctx.Err() != nil {
		return
	}
	times := 1
	if old := r.was.Refused; old != nil && old.What == what {
		times = min(old.Times+1, 16)
	}
	text := why.Error()
	if len(text) > maxWhy {
		text = text[:maxWhy] + "…"
	}
	now := time.Now().UTC().Truncate(time.Second)
	r.was.Refused = &Refused{What: what, Version: r.plan.Binary.Version, Why: text, Times: times, At: now,
		Until: now.Add(min(refusedFirst<<(times-1), refusedMost))}
}
