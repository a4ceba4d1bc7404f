package main

import (
	"context"
	"time"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/agent/metrics"
	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/agent/pause"
	"github.com/cosentry/cosentry/agent/sight"
)

// sandboxes knows the image of sandboxes by the node's settings, or else by the runtime.
type sandboxes struct {
	*node.Node
	named string
}

func (s sandboxes) SandboxImages(ctx context.Context) ([]string, error) {
	if s.named != "" {
		return []string{s.named}, nil
	}
	return s.Node.SandboxImages(ctx)
}

// watchSandboxes makes what watches the image of sandboxes.
func (a *agent) watchSandboxes(g *gate.Gate, of sandboxes) {
	a.pause = pause.New(pause.Options{
		Names: of.SandboxImages, Judge: g.JudgeSandbox, Record: g.RecordSandbox, Log: a.log,
		Enforcing: a.config.Mode == config.Enforce,
		Changed: func() pause.Inputs {
			return pause.Inputs{Revision: a.verifier.Revision(), Images: a.images.Changes()}
		},
	})
	a.metrics.WatchSandbox(func() (judged []metrics.Sandbox) {
		for _, s := range a.pause.State().Images {
			if !s.Absent {
				judged = append(judged, metrics.Sandbox{Image: s.Name, Allowed: s.Allowed})
			}
		}
		return judged
	})
}

func (a *agent) sandboxStatus() sight.Sandbox {
	s := a.pause.State()
	told := sight.Sandbox{Refuse: a.config.Sandbox.Refuse, Looked: s.Looked, Fault: s.Fault}
	for _, i := range s.Images {
		told.Images = append(told.Images, sight.SandboxImage{Name: i.Name, Digest: i.Digest.String(), Allowed: i.Allowed, Absent: i.Absent, Reason: i.Reason})
	}
	return told
}

func sandboxRows(s sight.Sandbox, row rower) {
	for _, i := range s.Images {
		name := i.Name
		if i.Digest != "" {
			name += " (" + i.Digest + ")"
		}
		switch {
		case i.Absent:
			row("sandboxes", "%s is not on this node yet", name)
		case i.Allowed && i.Reason != "":
			row("sandboxes", "%s is accepted with a warning: %s", name, i.Reason)
		case i.Allowed:
			row("sandboxes", "%s is accepted", name)
		case s.Refuse:
			row("SANDBOXES", "NO POD STARTS, %s is not accepted: %s", name, i.Reason)
		default:
			row("SANDBOXES", "%s is NOT ACCEPTED, and in every pod: %s", name, i.Reason)
		}
	}
	switch {
	case s.Fault != "":
		row("SANDBOXES", "their image is not known: %s", s.Fault)
	case s.Looked.IsZero():
		row("sandboxes", "their image was not judged yet")
	}
}

func breakGlassRow(g *sight.BreakGlass, now time.Time, row rower) {
	if g != nil {
		row("BREAK-GLASS", "EVERYTHING IS LET THROUGH until %s (%s), by %s since %s: %s", g.Until.Format(time.RFC3339),
			g.Until.Sub(now).Round(time.Second), g.By, g.Begun.Format(time.RFC3339), g.Reason)
	}
}
