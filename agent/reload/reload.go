// Package reload keeps the policies in force the same as those on disk.
//
// A set is put in force whole or not at all. Files that cannot be loaded leave the last good
// set in force; if there never was one, the verifier is told why, and refuses. The folder is
// watched for changes, and read again every minute in case a watch was lost, as happens when the folder
// itself is replaced.
package reload

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/cosentry/cosentry/verify/policy"
)

// Verifier takes policies. *verify.Verifier is one.
type Verifier interface {
	SetPolicies(*policy.Set)
	SetUnusable(error)
}

// Observer is told of every change. *metrics.Metrics is one.
type Observer interface {
	PoliciesLoaded(revision string, count int, at time.Time)
	PoliciesBroken()
}

const (
	// settle is how long changes are collected: editors and ConfigMap mounts make several at once.
	settle = 50 * time.Millisecond
	// recheck is how often the folder is read without being told.
	recheck = time.Minute
)

// Policies loads the policies of one folder.
type Policies struct {
	dir      string
	verifier Verifier
	observer Observer
	log      *slog.Logger

	mu    sync.Mutex
	state State
	last  string // what the last attempt ended in, so that nothing is logged twice
}

// State is what is in force and what is on disk.
type State struct {
	Revision string    `json:"revision,omitempty"` // in force; empty if none is
	Count    int       `json:"count"`
	Loaded   time.Time `json:"loaded,omitzero"`
	Names    []string  `json:"names,omitempty"`
	// Broken is why the files on disk are not in force; empty if they are.
	Broken string `json:"broken,omitempty"`
}

// New returns Policies that have loaded nothing yet.
func New(dir string, v Verifier, o Observer, log *slog.Logger) *Policies {
	return &Policies{dir: dir, verifier: v, observer: o, log: log}
}

// State returns what is in force.
func (p *Policies) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Load reads the folder and puts its policies in force if all of them are good.
func (p *Policies) Load() {
	p.mu.Lock()
	defer p.mu.Unlock()
	set, err := policy.Load(p.dir)
	if err != nil {
		p.broken(err)
		return
	}
	if set.Revision() == p.last {
		return
	}
	p.verifier.SetPolicies(set)
	p.last = set.Revision()
	p.state = State{Revision: set.Revision(), Count: len(set.Policies()), Loaded: time.Now()}
	for _, pol := range set.Policies() {
		p.state.Names = append(p.state.Names, pol.Name)
	}
	p.observer.PoliciesLoaded(set.Revision(), len(set.Policies()), p.state.Loaded)
	p.log.Info("policies in force", "revision", set.Revision(), "count", len(set.Policies()), "dir", p.dir)
	if p.state.Count == 0 {
		p.log.Warn("the policy folder holds no policies: policies.noMatch decides about every image", "dir", p.dir)
	}
}

func (p *Policies) broken(err error) {
	if p.last == err.Error() {
		return
	}
	p.last = err.Error()
	p.state.Broken = err.Error()
	p.observer.PoliciesBroken()
	if p.state.Revision == "" {
		p.verifier.SetUnusable(err)
		p.log.Error("policies cannot be loaded: every gated call is refused", "dir", p.dir, "error", err)
		return
	}
	p.log.Error("policies cannot be loaded: the last good set stays in force", "dir", p.dir, "revision", p.state.Revision, "error", err)
}

// Watch loads the policies again whenever the folder changes or again is signalled, until ctx
// ends.
func (p *Policies) Watch(ctx context.Context, again <-chan struct{}) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		// Out of inotify instances: a busy node, not a reason to stop. The clock is left.
		p.log.Warn("the policy folder cannot be watched; it is read every minute", "error", err)
		w = &fsnotify.Watcher{}
	} else {
		defer w.Close()
	}
	changed := time.NewTimer(0)
	defer changed.Stop()
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		if w.Events != nil {
			// Adding twice is nothing; a folder that was replaced is found again.
			if err := w.Add(p.dir); err != nil {
				p.log.Debug("watching the policy folder", "dir", p.dir, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.Events:
			changed.Reset(settle)
		case <-w.Errors:
			changed.Reset(settle)
		case <-tick.C:
			changed.Reset(0)
		case <-again:
			changed.Reset(0)
		case <-changed.C:
			p.Load()
		}
	}
}
