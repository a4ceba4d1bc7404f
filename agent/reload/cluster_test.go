package reload

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cosentry/cosentry/agent/cluster"
	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust"
)

// clusterVerifier keeps what was put in force.
type clusterVerifier struct {
	mu       sync.Mutex
	set      *policy.Set
	unusable error
	puts     int
}

func (v *clusterVerifier) SetCluster(s *policy.Set, _ *trust.Snapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.set, v.unusable = s, nil
	v.puts++
}

func (v *clusterVerifier) SetClusterUnusable(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.set, v.unusable = nil, err
}

func (v *clusterVerifier) now() (names string, puts int, unusable error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []string
	if v.set != nil {
		for _, p := range v.set.Policies() {
			all = append(all, p.Name)
		}
	}
	return strings.Join(all, " "), v.puts, v.unusable
}

// site is a folder as sync writes it, and what is made of it.
type site struct {
	*Cluster
	dir string
	v   *clusterVerifier
	log bytes.Buffer
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{dir: filepath.Join(t.TempDir(), "cluster"), v: &clusterVerifier{}}
	keeper, err := trust.New(trust.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.Cluster = NewCluster(ClusterOptions{Dir: s.dir, References: keeper, Verifier: s.v, Log: slog.New(slog.NewTextHandler(&s.log, nil))})
	return s
}

// write puts a set of policies in force, as sync would if it did not look at them.
func (s *site) write(t *testing.T, documents ...string) {
	t.Helper()
	var c cluster.Contents
	for _, d := range documents {
		name := "x"
		if _, rest, ok := strings.Cut(d, "{name: "); ok {
			name, _, _ = strings.Cut(rest, "}")
		}
		c.Documents = append(c.Documents, cluster.File{Kind: cluster.KindPolicy, Name: name, Data: []byte(d)})
	}
	w, err := cluster.OpenWriter(t.Context(), s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(c, func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

func (s *site) check(t *testing.T, what, names string, refuses bool, state string) {
	t.Helper()
	got, _, unusable := s.v.now()
	if got != names || (unusable != nil) != refuses || s.State().State != state {
		t.Errorf("%s: in force %q, unusable %v, state %+v; want %q, %v, %s", what, got, unusable, s.State(), names, refuses, state)
	}
}

// A fresh node has the node's own policies alone. From then on no state of the folder takes a restriction away.
func TestTheClustersPoliciesStayInForce(t *testing.T) {
	s := newSite(t)
	s.Load()
	s.check(t, "no folder", "", false, ClusterNone)
	s.Load()
	if n := strings.Count(s.log.String(), "the node's own hold alone"); n != 1 {
		t.Errorf("told %d times", n)
	}
	s.write(t, document("one"))
	s.Load()
	s.check(t, "the first set", "one", false, ClusterGood)
	for what, change := range map[string]func() error{
		"a faulty set":       func() error { s.write(t, document("two"), "kind: Nonsense\n"); return nil },
		"the link is gone":   func() error { return os.Remove(filepath.Join(s.dir, cluster.Current)) },
		"the folder is gone": func() error { return os.RemoveAll(s.dir) },
		"a file in its place": func() error {
			return errors.Join(os.RemoveAll(s.dir), os.WriteFile(s.dir, nil, 0o600))
		},
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		s.Load()
		s.check(t, what, "one", false, ClusterBroken)
		if got := s.State(); got.Broken == "" || got.Count != 1 || got.Revision == "" {
			t.Errorf("%s: %+v", what, got)
		}
		if err := os.RemoveAll(s.dir); err != nil {
			t.Fatal(err)
		}
		s.write(t, document("one"))
		s.Load()
		s.check(t, "mended after: "+what, "one", false, ClusterGood)
	}
	s.write(t)
	s.Load()
	s.check(t, "a set of none", "", false, ClusterGood)
}

// At start there is no last good set. What is there and cannot be read holds restrictions that nobody knows.
func TestASetThatCannotBeLoadedAtStartAllowsNothing(t *testing.T) {
	s := newSite(t)
	s.write(t, "kind: Nonsense\n")
	s.Start(deadline)
	s.check(t, "at start", "", true, ClusterBroken)
	s.Load()
	s.check(t, "and again", "", true, ClusterBroken)
	s.write(t, document("one"))
	s.Load()
	s.check(t, "mended", "one", false, ClusterGood)
}

// slow is what resolves references, when it is let.
type slow struct{ release chan struct{} }

func (r slow) ResolveIn(*policy.Set, trust.Files) *trust.Snapshot {
	<-r.release
	return nil
}

// A set that takes its time must not keep kubelet from its runtime; until it is read, nothing is allowed.
func TestTheStartDoesNotWaitForTheClusterForLong(t *testing.T) {
	s := newSite(t)
	s.write(t, document("one"))
	r := slow{make(chan struct{})}
	s.o.References = r
	s.Start(time.Millisecond)
	s.check(t, "while it is read", "", true, ClusterBroken)
	close(r.release)
	eventually(t, "it is read", func() bool { names, _, _ := s.v.now(); return names == "one" })
	eventually(t, "and said to be", func() bool { return s.State().State == ClusterGood })
}

// panics is what resolves references of a set that was crafted.
type panics struct{ names map[string]bool }

func (r panics) ResolveIn(set *policy.Set, _ trust.Files) *trust.Snapshot {
	for _, p := range set.Policies() {
		if r.names[p.Name] {
			panic("crafted")
		}
	}
	return nil
}

// The agent must not end over what came from the cluster: systemd would start it again, and it would end again.
func TestAPanicOverTheClustersSetIsAFault(t *testing.T) {
	s := newSite(t)
	bad := map[string]bool{"crafted": true}
	s.o.References = panics{bad}
	s.write(t, document("one"))
	s.Load()
	s.write(t, document("crafted"))
	s.Load()
	s.check(t, "after a panic", "one", false, ClusterBroken)
	bad["one"] = true
	s.Load()
	s.check(t, "after two", "one", false, ClusterBroken)
	s = newSite(t)
	s.o.References = panics{bad}
	s.write(t, document("crafted"))
	s.Start(deadline)
	s.check(t, "at start", "", true, ClusterBroken)
}

// Sync replaces the link; the heartbeat, which it writes beside it, puts nothing in force anew.
func TestTheLinkIsWatched(t *testing.T) {
	s := newSite(t)
	s.write(t, document("one"))
	s.Start(deadline)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Watch(ctx, nil)
	}()
	defer func() { cancel(); <-done }()
	s.write(t, document("two"))
	eventually(t, "the second set is in force", func() bool { names, _, _ := s.v.now(); return names == "two" })
	_, before, _ := s.v.now()
	w, err := cluster.OpenWriter(t.Context(), s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for range 5 {
		if err := w.Beat(time.Now()); err != nil {
			t.Fatal(err)
		}
		s.Load()
	}
	if _, after, _ := s.v.now(); after != before {
		t.Errorf("put in force %d times more", after-before)
	}
}

// With keys, what is not signed is not taken, and is told of.
func TestWhatIsNotSignedIsToldOf(t *testing.T) {
	s := newSite(t)
	s.o.Keys = []policy.PublicKey{} // none can have signed anything
	s.write(t, document("one"))
	s.Load()
	s.check(t, "nothing signed", "", false, ClusterGood)
	if got := s.State(); len(got.Skipped) != 1 || got.Skipped[0].File != "clusterimagepolicy.one.yaml" || got.Count != 0 {
		t.Errorf("%+v", got)
	}
	if !strings.Contains(s.log.String(), "is not taken") {
		t.Error(s.log.String())
	}
}

// Whoever has taken sync over can leave a set that nobody could read to its end. At each start of the agent it is the same as any
// other that cannot be loaded, and when sync is itself again what it writes is taken.
func TestASetWithoutEndIsOneThatCannotBeLoaded(t *testing.T) {
	s := newSite(t)
	endless := func() {
		set := filepath.Join(s.dir, cluster.Sets, "endless")
		first := filepath.Join(set, cluster.Policies, "0")
		must(t, errors.Join(os.RemoveAll(set), os.MkdirAll(filepath.Dir(first), 0o700), os.WriteFile(first, nil, 0o600)))
		for i := range limits.SyncedEntries.Max() + 1 {
			must(t, os.Link(first, filepath.Join(set, cluster.Policies, strconv.Itoa(int(i)+1))))
		}
		current := filepath.Join(s.dir, cluster.Current)
		must(t, os.RemoveAll(current))
		must(t, os.Symlink(cluster.Sets+"/endless", current))
	}
	endless()
	s.Start(time.Minute)
	s.check(t, "at the start", "", true, ClusterBroken)
	if broken := s.State().Broken; !strings.Contains(broken, "is exceeded") {
		t.Error(broken)
	}
	s.write(t, document("one"))
	s.Load()
	s.check(t, "a good one", "one", false, ClusterGood)
	endless()
	s.Load()
	s.check(t, "another", "one", false, ClusterBroken)
	s.write(t, document("two"))
	s.Load()
	s.check(t, "a good one again", "two", false, ClusterGood)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
