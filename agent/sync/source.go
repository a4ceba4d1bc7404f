package sync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	gosync "sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/cosentry/cosentry/agent/cluster"
)

// State is how a source stands with the API server.
type State string

// The states of a source.
const (
	Waiting     State = "waiting"     // there has been no answer yet
	Live        State = "live"        // changes arrive
	Absent      State = "absent"      // there is no such kind
	Refused     State = "refused"     // it may not be read
	Unreachable State = "unreachable" // no answer, or an error
)

func states() []State { return []State{Waiting, Live, Absent, Refused, Unreachable} }

// maxObjects bounds what one source holds. A cluster is made for ten thousand namespaces.
const maxObjects = 64 << 10

// sourcePace is how long is waited before it is tried again.
type sourcePace struct {
	// first is after an error, doubled up to last.
	first, last time.Duration
	// told is where the API server has said that something may not be read, or that there is no such kind, which a person
	// mends. Where there is no such kind it is doubled up to longest: on ten thousand nodes of a cluster that never has
	// it, what is asked for each minute is a load that never ends.
	told, longest time.Duration
}

var usualPace = sourcePace{first: time.Second, last: 30 * time.Second, told: time.Minute, longest: 15 * time.Minute}

// source lists and watches one thing and holds what the API server says. client-go's reflector does it, which says
// nothing of its errors; so its calls are looked at on their way.
type source struct {
	name    string // for logs
	calls   []calls
	log     *slog.Logger
	changed func()
	// appeared tells that a kind is there that was not; nil: nobody is told.
	appeared func()
	// look has one value where the kind should be looked for now.
	look chan struct{}
	now  func() time.Time
	pace func() sourcePace

	mu      gosync.Mutex
	objects map[cluster.Object]metav1.Object
	known   bool // objects are what the API server said, whole
	state   State
	err     error // for states that are not Live
	seen    time.Time
	way     int // of calls, that answered last
	over    bool
}

// view is a source at one moment. Its objects are not changed.
type view struct {
	objects map[cluster.Object]metav1.Object
	known   bool
	state   State
	err     error
	// seen is when the API server was last heard about it.
	seen time.Time
}

func (s *source) view() view {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := view{objects: maps.Clone(s.objects), known: s.known && !s.over, state: s.state, err: s.err, seen: s.seen}
	if s.over {
		v.state, v.err = Unreachable, fmt.Errorf("the API server tells of more than %d objects", maxObjects)
	}
	if v.state == "" {
		v.state = Waiting
	}
	return v
}

// run lists and watches until ctx ends.
func (s *source) run(ctx context.Context) {
	ctx = klog.NewContext(ctx, klog.Logger{}) // what there is to say is said here
	silent := klog.Logger{}
	r := cache.NewReflectorWithOptions(s, nil, s, cache.ReflectorOptions{Name: s.name, TypeDescription: s.name, Logger: &silent})
	failures, absences := 0, 0 // in a row
	for ; ctx.Err() == nil; failures++ {
		if err := r.ListAndWatchWithContext(ctx); err == nil {
			failures = 0 // it was watched for a while
		}
		p, wait := s.pace(), time.Duration(0)
		switch s.view().state {
		case Absent:
			wait = doubled(p.told, absences, p.longest)
			absences++
		case Refused:
			wait, absences = p.told, 0
		default:
			wait, absences = doubled(p.first, failures, p.last), 0
		}
		select {
		case <-ctx.Done():
		case <-s.look:
			absences = 0
		case <-time.After(wait/2 + rand.N(wait/2+1)): // many nodes are not to ask at once
		}
	}
}

// doubled is d, doubled so many times, and most at most.
func doubled(d time.Duration, times int, most time.Duration) time.Duration {
	return min(most, d<<min(times, 16))
}

// lookNow has an absent kind looked for now, and soon again. It does not wait.
func (s *source) lookNow() {
	if s.view().state != Absent {
		return
	}
	select {
	case s.look <- struct{}{}:
	default:
	}
}

// IsWatchListSemanticsUnSupported has the reflector list first and then watch: an answer of known size, and an error of
// its own where there is no such kind.
func (s *source) IsWatchListSemanticsUnSupported() bool { return true }

// List and Watch are there for an interface; the reflector calls those with a context.
func (s *source) List(o metav1.ListOptions) (runtime.Object, error) {
	return s.ListWithContext(context.Background(), o)
}

// Watch is like List.
func (s *source) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return s.WatchWithContext(context.Background(), o)
}

// ListWithContext asks in each way until there is an answer: by the newest version, which may need a conversion that is
// not at work, and then by older ones.
func (s *source) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	o.Limit, o.Continue = 0, "" // one answer, which has a bound
	var errs []error
	for i, c := range s.calls {
		list, err := c.list(ctx, o)
		if err == nil {
			s.mu.Lock()
			s.way, s.seen = i, s.now()
			s.mu.Unlock()
			return list, nil
		}
		errs = append(errs, err)
	}
	s.failed(ctx, true, errs)
	return nil, errors.Join(errs...)
}

// WatchWithContext watches in the way in which was listed.
func (s *source) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	s.mu.Lock()
	c := s.calls[s.way]
	s.mu.Unlock()
	w, err := c.watch(ctx, o)
	if err != nil {
		s.failed(ctx, false, []error{err})
		return nil, err
	}
	s.mu.Lock()
	before := s.state
	s.state, s.err, s.seen = Live, nil, s.now()
	s.mu.Unlock()
	if before != Live {
		s.log.Info("changes in the cluster arrive", "what", s.name)
		s.changed()
	}
	if before == Absent && s.appeared != nil {
		s.appeared()
	}
	return w, nil
}

// failed takes note of why there was no answer.
func (s *source) failed(ctx context.Context, listing bool, errs []error) {
	if ctx.Err() != nil || len(errs) == 0 {
		return
	}
	state, absent := Unreachable, listing
	for _, err := range errs {
		absent = absent && apierrors.IsNotFound(err)
		if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
			state = Refused
		}
	}
	if absent {
		state = Absent
	}
	s.mu.Lock()
	before := s.state
	s.state, s.err = state, errors.Join(errs...)
	if state == Absent {
		// That there were none left before the kind went says nothing; see the package's words.
		s.known, s.objects, s.seen = false, nil, s.now()
	}
	s.mu.Unlock()
	if before == state {
		return
	}
	switch state {
	case Absent:
		s.log.Warn("the cluster has no such kind: what the node holds of it stays, and it is looked for again", "what", s.name)
	case Refused:
		s.log.Error("it may not be read in the cluster: what the node holds of it stays; see the role of the service account", "what", s.name, "error", brief(s.err))
	default:
		s.log.Warn("the API server does not answer: what the node holds stays", "what", s.name, "error", brief(s.err))
	}
	s.changed()
}

// The reflector writes what follows.

// Replace takes a whole list.
func (s *source) Replace(list []any, _ string) error {
	objects := map[cluster.Object]metav1.Object{}
	for _, item := range list {
		if o, id, ok := s.accept(item); ok {
			objects[id] = o
		}
	}
	s.mu.Lock()
	s.objects, s.known, s.over, s.seen = objects, true, len(objects) > maxObjects, s.now()
	s.mu.Unlock()
	s.changed()
	return nil
}

// Add takes an object that is new.
func (s *source) Add(item any) error { return s.put(item) }

// Update takes an object that changed.
func (s *source) Update(item any) error { return s.put(item) }

func (s *source) put(item any) error {
	o, id, ok := s.accept(item)
	if !ok {
		return nil
	}
	s.mu.Lock()
	s.objects[id], s.seen = o, s.now()
	if len(s.objects) > maxObjects {
		delete(s.objects, id)
		s.over = true // until the next list
	}
	s.mu.Unlock()
	s.changed()
	return nil
}

// Delete takes an object away.
func (s *source) Delete(item any) error {
	if _, id, ok := s.accept(item); ok {
		s.mu.Lock()
		delete(s.objects, id)
		s.seen = s.now()
		s.mu.Unlock()
		s.changed()
	}
	return nil
}

// Bookmark is the API server's word that nothing changed.
func (s *source) Bookmark(string) error {
	s.mu.Lock()
	s.seen = s.now()
	s.mu.Unlock()
	return nil
}

// Resync is nothing here.
func (s *source) Resync() error { return nil }

func (s *source) accept(item any) (metav1.Object, cluster.Object, bool) {
	o, err := meta.Accessor(item)
	if err != nil {
		return nil, cluster.Object{}, false
	}
	id := cluster.Object{Namespace: o.GetNamespace(), Name: o.GetName()}
	if only := s.calls[0].only; only != nil && !only(id.Namespace, id.Name) {
		return nil, id, false
	}
	o.SetManagedFields(nil) // most of an object's bytes
	return o, id, true
}
