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
	"os"
	"sync"
	"time"

	"github.com/cosentry/cosentry/agent/watch"
	"github.com/cosentry/cosentry/verify/policy"
)

// Verifier takes policies. *verify.Verifier is one.
type Verifier interface {
	SetPolicies(*policy.Set)
	SetUnusable(error)
}

// Observer is told of every attempt to load the policies, whether or not they had changed.
// *metrics.Metrics is one.
type Observer interface {
	PoliciesLoaded(revision string, count int, at time.Time)
	PoliciesBroken()
}

// maxWarnings bounds the log lines of one load.
const maxWarnings = 20

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
	Revision string // in force; empty if none is
	Count    int
	Loaded   time.Time // when Revision was put in force
	Names    []string
	Warnings int // of policy.Set.Warnings
	// Broken is why the files on disk are not in force; empty if they are.
	Broken string
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
	now := time.Now()
	defer p.observer.PoliciesLoaded(set.Revision(), len(set.Policies()), now)
	if set.Revision() == p.last {
		return
	}
	p.verifier.SetPolicies(set)
	p.last = set.Revision()
	p.inForce(set, now)
}

func (p *Policies) inForce(set *policy.Set, now time.Time) {
	warnings := set.Warnings()
	p.state = State{Revision: set.Revision(), Count: len(set.Policies()), Loaded: now, Warnings: len(warnings)}
	for _, pol := range set.Policies() {
		p.state.Names = append(p.state.Names, pol.Name)
	}
	p.log.Info("policies in force", "revision", set.Revision(), "count", len(set.Policies()), "dir", p.dir)
	if p.state.Count == 0 {
		p.log.Warn("the policy folder holds no policies: policies.noMatch decides about every image", "dir", p.dir)
	}
	for i, w := range warnings {
		if i == maxWarnings {
			p.log.Warn("more policies are legal and probably not what is meant; see: cosentry policy check", "dir", p.dir, "warnings", len(warnings)-maxWarnings)
			break
		}
		p.log.Warn("a policy is legal and probably not what is meant", "policy", w.Policy, "warning", w.String())
	}
}

func (p *Policies) broken(err error) {
	p.observer.PoliciesBroken()
	if p.last == err.Error() {
		return
	}
	p.last = err.Error()
	p.state.Broken = err.Error()
	if p.state.Revision == "" {
		p.verifier.SetUnusable(err)
		p.log.Error("policies cannot be loaded: every gated call is refused", "dir", p.dir, "error", err)
		return
	}
	p.log.Error("policies cannot be loaded: the last good set stays in force", "dir", p.dir, "revision", p.state.Revision, "error", err)
}

// Watch loads the policies again whenever the folder changes or again is signalled, until ctx
// ends.
func (p *Policies) Watch(ctx context.Context, again <-chan os.Signal) error {
	watch.Folder(ctx, p.dir, again, p.log, p.Load)
	return nil
}
