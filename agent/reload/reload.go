// Package reload keeps the policies in force the same as those on disk, and what they refer to the same as it is
// known to be now.
//
// A set is put in force whole or not at all. Files that cannot be loaded leave the last good
// set in force, whose references are still kept up to date; if there never was one, the verifier is told why, and
// refuses. The folder is watched for changes, and read again every minute in case a watch was lost, as happens when the
// folder itself is replaced.
package reload

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/cosentry/cosentry/agent/watch"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust"
)

// Verifier takes policies with what they refer to. *verify.Verifier is one.
type Verifier interface {
	SetPolicies(*policy.Set, *trust.Snapshot)
	SetUnusable(error)
}

// References finds what policies refer to and do not hold. It waits for no network. *trust.Keeper is one.
type References interface {
	Resolve(*policy.Set) *trust.Snapshot
}

// Observer is told of every attempt to load the policies, whether or not they had changed.
// *metrics.Metrics is one.
type Observer interface {
	PoliciesLoaded(revision string, count int, at time.Time)
	PoliciesBroken()
}

// Policies loads the policies of one folder.
type Policies struct {
	dir        string
	references References
	verifier   Verifier
	observer   Observer
	log        *slog.Logger

	mu    sync.Mutex
	set   *policy.Set // in force; nil if none is
	refs  string      // the revision of what it refers to
	state State
	last  string // what the last attempt ended in, so that nothing is logged twice
	tell  teller
}

// State is what is in force and what is on disk.
type State struct {
	Revision string // in force; empty if none is
	Count    int
	Loaded   time.Time // when Revision was put in force
	Names    []string
	Warnings int // of policy.Set.Warnings and trust.Snapshot.Warnings
	// Broken is why the files on disk are not in force; empty if they are.
	Broken string
}

// New returns Policies that have loaded nothing yet.
func New(dir string, r References, v Verifier, o Observer, log *slog.Logger) *Policies {
	return &Policies{dir: dir, references: r, verifier: v, observer: o, log: log, tell: teller{log: log, see: "cosentry policy check", dir: dir}}
}

// State returns what is in force.
func (p *Policies) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Load reads the folder and puts its policies in force if all of them are good, with what they refer to as it is
// known now.
func (p *Policies) Load() {
	p.mu.Lock()
	defer p.mu.Unlock()
	set, err := policy.Load(p.dir)
	if err != nil {
		p.broken(err)
		if p.set != nil {
			// A key that was rotated, or taken away, counts for the policies that stay in force.
			p.put(p.set)
		}
		return
	}
	if p.set != nil && p.state.Broken != "" {
		p.log.Info("policies on disk can be loaded again", "dir", p.dir)
	}
	p.put(set)
	p.last, p.state.Broken = set.Revision(), ""
	p.observer.PoliciesLoaded(set.Revision(), len(set.Policies()), time.Now())
}

// put puts set in force, if it or what it refers to is not what is in force.
func (p *Policies) put(set *policy.Set) {
	refs := p.references.Resolve(set)
	again := p.set != nil && p.set.Revision() == set.Revision()
	if again && p.refs == refs.Revision() {
		return
	}
	p.verifier.SetPolicies(set, refs)
	p.set, p.refs = set, refs.Revision()
	written, references := set.Warnings(), refs.References(set)
	p.state.Warnings = warnings(written, references)
	if again {
		p.log.Info("what policies refer to has changed", "revision", set.Revision(), "references", p.refs)
	} else {
		p.inForce(set)
	}
	p.tell.all(written, references)
}

func (p *Policies) inForce(set *policy.Set) {
	p.tell.anew()
	p.state = State{Revision: set.Revision(), Count: len(set.Policies()), Loaded: time.Now(), Warnings: p.state.Warnings}
	for _, pol := range set.Policies() {
		p.state.Names = append(p.state.Names, pol.Name)
	}
	p.log.Info("policies in force", "revision", set.Revision(), "references", p.refs, "count", len(set.Policies()), "dir", p.dir)
	if p.state.Count == 0 {
		p.log.Warn("the policy folder holds no policies: policies.noMatch decides about every image", "dir", p.dir)
	}
}

func (p *Policies) broken(err error) {
	p.observer.PoliciesBroken()
	if p.last == err.Error() {
		return
	}
	p.last = err.Error()
	p.state.Broken = err.Error()
	if p.set == nil {
		p.verifier.SetUnusable(err)
		p.log.Error("policies cannot be loaded: every gated call is refused", "dir", p.dir, "error", err)
		return
	}
	p.log.Error("policies cannot be loaded: the last good set stays in force", "dir", p.dir, "revision", p.state.Revision, "error", err)
}

// Follow loads the policies again whenever what they refer to has changed, until ctx ends.
func (p *Policies) Follow(ctx context.Context, changed <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			p.Load()
		}
	}
}

// Watch loads the policies again whenever the folder changes or again is signalled, until ctx
// ends.
func (p *Policies) Watch(ctx context.Context, again <-chan os.Signal) error {
	watch.Folder(ctx, p.dir, again, p.log, p.Load)
	return nil
}
