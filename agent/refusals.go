package main

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/canary"
	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/agent/sight"
)

// refusals stands before the audit log and remembers the last refusal on its way there.
type refusals struct {
	to gate.Recorder

	mu     sync.Mutex
	newest *sight.Refusal
}

// Append hands the record on, and returns what the log says of it.
func (r *refusals) Append(rec audit.Record) error {
	if isRefusal(rec) {
		told := rec
		if told.Time.IsZero() {
			told.Time = time.Now() // the log's own will be later by as much as it waits
		}
		r.remember(told, true)
	}
	return r.to.Append(rec)
}

// isRefusal reports whether rec is about a call of kubelet's that was refused, or would have been. The image of sandboxes is
// judged without anybody asking for it, again and again, and has a row of its own. A canary is refused where all is well.
func isRefusal(rec audit.Record) bool {
	switch rec.Action {
	case audit.ActionPull, audit.ActionCreate, audit.ActionMount:
		return (rec.Decision == audit.DecisionDeny || rec.Decision == audit.DecisionError) && !canary.Is(rec)
	}
	return false
}

// maxRefusal bounds each text that is remembered of a refusal, in bytes.
const maxRefusal = 1024

// remember keeps rec. One that was read from the log gives way to what was decided since.
func (r *refusals) remember(rec audit.Record, live bool) {
	cut := func(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxRefusal)], "") }
	r.mu.Lock()
	defer r.mu.Unlock()
	if !live && r.newest != nil && !r.newest.Time.Before(rec.Time) {
		return
	}
	r.newest = &sight.Refusal{
		Time: rec.Time, Action: rec.Action, Decision: rec.Decision, Mode: rec.Mode, Image: cut(rec.Image),
		Namespace: cut(rec.Pod.Namespace), Pod: cut(rec.Pod.Name), Container: cut(rec.Container), Reason: cut(rec.Reason),
	}
}

// last is the newest refusal, or nil.
func (r *refusals) last() *sight.Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.newest == nil {
		return nil
	}
	found := *r.newest
	return &found
}

// lookBack is how many of the log's last records are looked through for a refusal from before the start.
const lookBack = 1000

// recall finds the last refusal from before the start: after an upgrade the owner wants to know it no less.
func (r *refusals) recall(ctx context.Context, dir string) {
	for entry, err := range audit.Read(ctx, dir, audit.ReadOptions{Last: lookBack}) {
		if err == nil && isRefusal(entry.Record) { // what is wrong with the log is told by others
			r.remember(entry.Record, false)
		}
	}
}

func refusalRow(r *sight.Refusal, row rower) {
	if r == nil {
		row("last refusal", "none")
		return
	}
	what := "refused"
	switch {
	case r.Decision == audit.DecisionError:
		what = "could not be judged"
	case r.Mode != "enforce":
		what = "would be refused"
	}
	pod := ""
	if r.Pod != "" {
		pod = " in " + r.Namespace + "/" + r.Pod
	}
	row("last refusal", "%s, %s of %s%s: %s: %s", r.Time.Format(time.RFC3339), r.Action, r.Image, pod, what, r.Reason)
}
