package trust

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/testing/ca"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trustroot"
	"github.com/cosentry/cosentry/verify/trustroot/tuftest"
)

// publicGoodAt lets a repository be the public-good instance's.
func (n *node) publicGoodAt(r *tuftest.Repository, mirror string) *node {
	n.publicGood = policy.TUFRemote{Root: r.Root(), Mirror: mirror, Targets: "targets", Target: "trusted_root.json"}
	return n
}

func updating(o *Options) { o.UpdatePublicGood = true }

// trusts checks whose certificates are accepted where no root is named. Nil: those of the root that is built in.
func trusts(t *testing.T, s *Snapshot, want *ca.VirtualSigstore) {
	t.Helper()
	m, err := s.Root("")
	if err != nil {
		t.Fatal(err)
	}
	if want != nil {
		if !sameCA(m, want) {
			t.Error("it is not the root that was fetched")
		}
		return
	}
	if got, want := len(m.FulcioCertificateAuthorities()), len(trustroot.PublicGood().FulcioCertificateAuthorities()); got != want {
		t.Errorf("%d certificate authorities, the root that is built in has %d", got, want)
	}
	for id := range trustroot.PublicGood().RekorLogs() {
		if m.RekorLogs()[id] == nil {
			t.Errorf("log %s of the root that is built in is missing", id)
		}
	}
}

func changes(t *testing.T, n *node) {
	t.Helper()
	select {
	case <-n.Changed():
	case <-time.After(30 * time.Second):
		t.Fatalf("after 30 s still nothing has changed; states are %+v", n.Status())
	}
}

func TestPublicGoodRootUpdatesItself(t *testing.T) {
	first, second := newSigstore(t), newSigstore(t)
	repository := tuftest.WithTrustedRoot(t, tuftest.TrustedRootJSON(t, first))
	mirror, s := repository.Serve(), set(t, keylessPolicy)
	n := fresh(t, updating).publicGoodAt(repository, mirror)
	builtIn := n.Resolve(s)
	trusts(t, builtIn, nil)
	if st := n.find(t, KindRoot, publicGoodName); !st.OK || !st.Fetched.IsZero() || !strings.Contains(st.From, "built in") {
		t.Errorf("before it was fetched the state is %+v", st)
	}

	// Nothing but the fetch can tell of a change here: no file is watched.
	began := n.now()
	stop := n.start(t)
	changes(t, n)
	fetched := n.Resolve(s)
	trusts(t, fetched, first)
	trusts(t, builtIn, nil) // a Snapshot stays what it was
	if fetched.Revision() == builtIn.Revision() {
		t.Error("the revision is that of the root that is built in")
	}
	st := n.find(t, KindRoot, publicGoodName)
	if !st.OK || st.Error != "" || st.Disk != "" || st.Fetched.Before(began) || st.Fetched.After(n.now()) || !strings.Contains(st.From, mirror) || !st.Expires.Equal(repository.Expires["snapshot"]) {
		t.Errorf("once it was fetched the state is %+v", st)
	}

	repository.Set("trusted_root.json", tuftest.TrustedRootJSON(t, second), nil)
	repository.Publish()
	n.later(27 * time.Hour)
	changes(t, n)
	trusts(t, n.Resolve(s), second)
	stop()

	// A restart of a node that is cut off is no step back to what was built in.
	repository.Rewrite(func(string, []byte) []byte { return nil })
	away := newNode(t, n.dir, n.cache, updating).publicGoodAt(repository, mirror)
	trusts(t, away.Resolve(s), second)
	away.FetchNow(t.Context(), s)
	trusts(t, away.Resolve(s), second)
	if st := away.find(t, KindRoot, publicGoodName); !st.OK || st.Error == "" || !strings.Contains(st.From, mirror) {
		t.Errorf("with the mirror away the state is %+v", st)
	}
}

// Whoever answers in place of the mirror is not believed: what is fetched is signed by the keys that are built in.
func TestPublicGoodRootOfOtherKeysDoesNotReplaceTheOneBuiltIn(t *testing.T) {
	mine := tuftest.WithTrustedRoot(t, tuftest.TrustedRootJSON(t, newSigstore(t)))
	thief := tuftest.WithTrustedRoot(t, tuftest.TrustedRootJSON(t, newSigstore(t)))
	n, s := fresh(t, updating).publicGoodAt(mine, thief.Serve()), set(t, keylessPolicy)
	n.FetchNow(t.Context(), s)
	if len(thief.Asked()) == 0 {
		t.Fatal("nobody asked: this shows nothing")
	}
	trusts(t, n.Resolve(s), nil)
	if st := n.find(t, KindRoot, publicGoodName); !st.OK || st.Error == "" || !strings.Contains(st.From, "built in") {
		t.Errorf("state is %+v", st)
	}
}

// Who has switched it off may have done so because nothing may leave the node, or to stay with what was reviewed. What an
// earlier setting has fetched does not count either.
func TestPublicGoodRootIsNeverAskedForWhenThatIsOff(t *testing.T) {
	first := newSigstore(t)
	repository := tuftest.WithTrustedRoot(t, tuftest.TrustedRootJSON(t, first))
	mirror, s := repository.Serve(), set(t, keylessPolicy)
	dir, cache := t.TempDir(), filepath.Join(t.TempDir(), "trust")
	on := newNode(t, dir, cache, updating).publicGoodAt(repository, mirror)
	on.FetchNow(t.Context(), s)
	trusts(t, on.Resolve(s), first)
	if len(repository.Asked()) == 0 {
		t.Fatal("nobody asked: this shows nothing")
	}
	for name, off := range map[string]func(*Options){
		"the setting is off":               func(*Options) {},
		"there is no folder to keep it in": func(o *Options) { o.UpdatePublicGood, o.CacheDir = true, "" },
	} {
		n := newNode(t, dir, cache, off).publicGoodAt(repository, mirror)
		n.FetchNow(t.Context(), s) // waits for whatever it tries
		trusts(t, n.Resolve(s), nil)
		n.mu.Lock()
		fetches := len(n.items)
		n.mu.Unlock()
		if asked := repository.Asked(); len(asked) > 0 || fetches > 0 {
			t.Errorf("%s: %d things are fetched, and asked for was %q", name, fetches, asked)
		}
	}
}
