package sync

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/cosentry/cosentry/agent/cluster"
)

// kind is a kind that may be defined later.
type kind struct {
	source  *source
	defined atomic.Bool
	asked   atomic.Int64
}

// newKind is looked for at the usual pace.
func newKind(name string) *kind {
	k := &kind{}
	resource := schema.GroupVersionResource{Group: group, Version: "v1beta1", Resource: name}
	k.source = &source{
		name: name, log: slog.New(slog.DiscardHandler), changed: func() {}, look: make(chan struct{}, 1), now: time.Now,
		pace: func() sourcePace { return usualPace },
		calls: []calls{{
			list: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
				k.asked.Add(1)
				if !k.defined.Load() {
					return nil, apierrors.NewNotFound(resource.GroupResource(), "")
				}
				return &unstructured.UnstructuredList{Object: map[string]any{"metadata": map[string]any{"resourceVersion": "1"}}}, nil
			},
			watch: func(ctx context.Context, _ metav1.ListOptions) (watch.Interface, error) {
				w := watch.NewFake()
				context.AfterFunc(ctx, w.Stop)
				return w, nil
			},
		}},
	}
	return k
}

// A cluster that never has the kinds is asked for them by each of its nodes, for ever.
func TestAKindThatIsNotThereIsLookedForLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newKind(policies)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { a.source.run(ctx); close(done) }()
		time.Sleep(5 * time.Minute)
		if n := a.asked.Load(); n < 3 {
			t.Errorf("asked for %d times in the first five minutes: who creates the kind then waits for long", n)
		}
		time.Sleep(time.Hour)
		before := a.asked.Load()
		time.Sleep(10 * time.Hour)
		if n := a.asked.Load() - before; n < 10*4 || n > 10*8 {
			t.Errorf("asked for %d times in ten hours, which is not once in 7 to 15 minutes", n)
		}
		a.defined.Store(true)
		time.Sleep(usualPace.longest + time.Minute)
		if s := a.source.view().state; s != Live {
			t.Errorf("it has been there for a quarter of an hour, and is %s", s)
		}
		cancel()
		<-done
	})
}

// Whoever creates one definition creates the other beside it, at once or a moment later.
func TestWhereOneKindAppearsTheOtherIsLookedForAtOnce(t *testing.T) {
	for name, later := range map[string]bool{"together": false, "one after the other": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newKind(policies), newKind(trustRoots)
				s := &Sync{kinds: map[string]*source{policies: a.source, trustRoots: b.source}}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{}, 2)
				for _, k := range []*kind{a, b} {
					k.source.appeared = s.lookForAll
					go func() { k.source.run(ctx); done <- struct{}{} }()
				}
				live := func(k *kind) bool { return k.source.view().state == Live }
				time.Sleep(10 * time.Hour)
				a.defined.Store(true)
				b.defined.Store(!later)
				for !live(a) && !live(b) {
					time.Sleep(time.Second)
				}
				wait := 2 * time.Second
				if later {
					time.Sleep(wait)
					b.defined.Store(true)
					wait = usualPace.told
				}
				time.Sleep(wait)
				if !live(a) || !live(b) {
					t.Errorf("%s later only one of them was found", wait)
				}
				cancel()
				<-done
				<-done
			})
		})
	}
}

// That there is no such kind is looked for rarely, and is no reason to say that the node's copy is old.
func TestAKindThatIsNotThereDoesNotMakeTheCopyOld(t *testing.T) {
	now := time.Now()
	dir := t.TempDir()
	w, err := cluster.OpenWriter(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for state, want := range map[State]time.Time{Absent: now.Add(-2 * time.Minute), Live: now.Add(-17 * time.Minute)} {
		s := &Sync{writer: w, o: Options{Log: slog.New(slog.DiscardHandler)}, pace: pace{source: usualPace}}
		seen := func(state State, ago time.Duration) *source {
			return &source{state: state, known: state == Live, seen: now.Add(-ago), err: errors.New("no such kind")}
		}
		s.kinds = map[string]*source{policies: seen(state, 17*time.Minute), trustRoots: seen(Absent, time.Minute)}
		b, err := s.build()
		if err != nil || !b.seen.Equal(want) || len(b.unsure) > 0 {
			t.Errorf("%s: up to date at %s, want %s; %v, %v", state, b.seen, want, b.unsure, err)
		}
	}
}

// Ten thousand nodes would each hold all namespaces of a cluster for nothing. A list that stays from before would grow old.
func TestNamespacesAreWatchedOnlyWhereTheyAreWanted(t *testing.T) {
	a := newAPIServer(t)
	a.policy("a", static("fail"))
	a.namespace("shop", map[string]any{include: "true"})
	dir := t.TempDir()
	n := start(t, a, dir)
	n.upToDate()
	n.eventually("namespaces", n.has(cluster.Namespaces))
	n.stop()

	before := len(a.requests())
	n = startWith(t, a, dir, false)
	n.upToDate()
	n.eventually("that there is no list of namespaces", n.hasNot(cluster.Namespaces))
	if !n.has(fileA)() {
		t.Error("the policy is gone with it")
	}
	a.bookmark(policyPath, rootPath)
	n.rounds(3)
	for _, r := range a.requests()[before:] {
		if strings.Contains(r, "/namespaces") {
			t.Errorf("asked: %s", r)
		}
	}
	a.answer(http.StatusForbidden, namespacePath) // a role without them is enough
	n.rounds(2)
	n.upToDate()
}
