// Package sync brings the cluster's documents to a node: ClusterImagePolicies and TrustRoots (policy.sigstore.dev), the
// Secrets and ConfigMaps that these name, and the namespaces with policy-controller's label. It writes them as package
// cluster says, from where the agent takes them as restrictions beside the node's own policies.
//
// It promises that the node's copy only ever changes to what the API server said in as many words, and that all of it
// loads. What it does not know it leaves as it was:
//
//   - An API server that is gone, or answers with an error, changes nothing. How old the copy is stands in the heartbeat.
//   - A kind of which the API server says that there is none (the definition was removed), and one that may not be read
//     (RBAC), is not a kind without objects: what the node holds of it stays.
//   - Deleting a definition deletes its objects first, one by one, and nobody meant to delete policies. So before a document is
//     taken off the node, its definition is looked at: it must be there and not about to go.
//   - Objects that do not load, one by one or together, are no reason to go on without them. The set that is in force
//     stays until all of them load.
//
// Deleting a ClusterImagePolicy deletes it on the node as well: what the cluster may add, it may take back. What it must not
// take away belongs into the node's own policies.
//
// Only objects that policies name are read, each with a watch of its own, so that its rights can be as small as that and
// no other secret comes to the node.
package sync

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/cosentry/cosentry/agent/cluster"
)

const (
	// settle is how long changes are collected: kubectl apply makes several at once. patience is the longest that a
	// stream of changes can keep one from the node.
	settle   = 500 * time.Millisecond
	patience = 5 * time.Second
	// recheck is how often the node's copy is compared without a change, and the heartbeat written.
	recheck = 30 * time.Second
	// firstAnswer is how long a new reference is waited for before a set is written without it.
	firstAnswer = 10 * time.Second
	// hung is how long the loop may take for one round before /healthz says so.
	hung = 5 * time.Minute
)

// The kinds that are watched, as in logs and metrics.
const (
	policies   = "clusterimagepolicies"
	trustRoots = "trustroots"
	namespaces = "namespaces"
)

const group = "policy.sigstore.dev"

// Options say from where and to where.
type Options struct {
	API API
	// Dir is the folder of package cluster.
	Dir string
	// Load loads the set in a folder just as an agent would, and fails where the agent would.
	Load func(folder string) error
	// Signed says that agents take only signed documents (clusterPolicies.publicKey). They take neither Secrets nor
	// ConfigMaps of the cluster then, so none are read; and what is not signed is no reason not to go on, because they
	// leave it out.
	Signed bool
	// Namespaces says that the namespaces' labels are wanted. Where they are not, the set has no file of them, so that whoever
	// goes by them all the same judges in all namespaces: every node of a large cluster would hold them all for nothing.
	Namespaces bool
	Log        *slog.Logger
}

// Sync brings the cluster's documents to a node.
type Sync struct {
	o       Options
	writer  *cluster.Writer
	metrics *Metrics
	wake    chan struct{}
	pace    pace
	kinds   map[string]*source
	running context.Context // while Run is
	watches *sync.WaitGroup // that were started

	refs     map[reference]*watchedReference
	parsed   map[parsedKey]parsed
	lastWord string // of the last round, so that nothing is logged twice
	// round is when the last one ended, by a clock that nobody sets: a step of the other would make a loop that runs look hung, or one
	// that hangs look as if it ran.
	round atomic.Pointer[time.Time]
}

// pace is how long is waited for what. Tests wait less.
type pace struct {
	settle, patience, recheck, firstAnswer time.Duration
	source                                 sourcePace
}

// New opens the folder; it waits, until ctx ends, for another that writes it.
func New(ctx context.Context, o Options) (*Sync, error) {
	if o.Log == nil || o.Load == nil || o.API.Objects == nil || o.API.Metadata == nil {
		return nil, errors.New("bringing the cluster's documents: a log, a loader and clients are needed")
	}
	w, err := cluster.OpenWriter(ctx, o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Sync{
		o: o, writer: w, metrics: newMetrics(), wake: make(chan struct{}, 1),
		pace: pace{settle, patience, recheck, firstAnswer, usualPace},
		refs: map[reference]*watchedReference{}, parsed: map[parsedKey]parsed{}, watches: &sync.WaitGroup{},
	}
	s.kinds = map[string]*source{
		policies:   s.newSource(policies, o.API.of(allOf(group, policies, "v1beta1", "v1alpha1"))),
		trustRoots: s.newSource(trustRoots, o.API.of(allOf(group, trustRoots, "v1alpha1"))),
	}
	for _, k := range s.kinds {
		k.appeared = s.lookForAll
	}
	if o.Namespaces {
		s.kinds[namespaces] = s.newSource(namespaces, o.API.namesOf(schema.GroupVersionResource{Version: "v1", Resource: namespaces}))
	}
	s.metrics.watch(s.kinds)
	s.roundEnded()
	return s, nil
}

func (s *Sync) roundEnded() {
	now := time.Now()
	s.round.Store(&now)
}

func (s *Sync) newSource(name string, calls []calls) *source {
	return &source{
		name: name, calls: calls, log: s.o.Log, changed: s.signal, look: make(chan struct{}, 1), now: time.Now,
		pace: func() sourcePace { return s.pace.source },
	}
}

// lookForAll has kinds looked for that are not there: where one is defined, others are about to be.
func (s *Sync) lookForAll() {
	for _, k := range s.kinds {
		k.lookNow()
	}
}

// signal wakes the loop. It does not wait.
func (s *Sync) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run brings documents until ctx ends.
func (s *Sync) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	s.running = ctx
	for _, k := range s.kinds {
		group.Go(func() error { k.run(ctx); return nil })
	}
	group.Go(func() error { s.loop(ctx); return nil })
	err := group.Wait()
	s.watches.Wait()
	return errors.Join(err, s.writer.Close())
}

// loop makes a round whenever something changed, when changes have settled, and every now and then.
func (s *Sync) loop(ctx context.Context) {
	tick := time.NewTicker(s.pace.recheck)
	defer tick.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	var first time.Time // of the changes that are collected
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			now := time.Now()
			if first.IsZero() {
				first = now
			}
			due.Reset(max(0, min(s.pace.settle, s.pace.patience-now.Sub(first))))
			continue
		case <-tick.C:
		case <-due.C:
		}
		first = time.Time{}
		s.update(ctx)
		s.roundEnded()
	}
}
