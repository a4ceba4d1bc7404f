package trust

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/trust/kmstest"
)

// each runs a test with a key of each service.
func each(t *testing.T, test func(t *testing.T, s *kmstest.Service, name string)) {
	for kind, s := range map[string]*kmstest.Service{"vault": services.Vault, "aws": services.AWS, "google": services.Google, "azure": services.Azure} {
		t.Run(kind, func(t *testing.T) {
			t.Cleanup(func() { s.Behave(kmstest.Serving) })
			test(t, s, strings.ToLower(strings.NewReplacer("/", "", "_", "").Replace(t.Name())))
		})
	}
}

func TestKMSKeyIsFetchedInTheBackgroundAndReplacedWhenItIsRotated(t *testing.T) {
	each(t, func(t *testing.T, s *kmstest.Service, name string) {
		first, _ := newKey(t)
		s.Put(name, first)
		n, p := fresh(t), kmsPolicy(t, s.URI(name))

		before := n.Resolve(p)
		_, err := before.Keys(keyOf(p))
		mustFail(t, err, ErrUnavailable, "not fetched yet")

		n.start(t)
		until(t, "the key is there", isKey(n, p, first))
		at := n.Resolve(p).Revision()
		if at == before.Revision() {
			t.Error("the revision is the same with and without the key")
		}
		if st := n.find(t, KindKMS, s.URI(name)); !st.OK || st.Error != "" || st.Fetched.IsZero() {
			t.Errorf("state is %+v", st)
		}

		second, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		s.Put(name, second.Public())
		n.later(2 * time.Hour)
		until(t, "the new key is there", isKey(n, p, second.Public()))
		if n.Resolve(p).Revision() == at {
			t.Error("the revision is the same for another key")
		}
	})
}

func TestKMSKeyIsUsedWhileTheServiceIsAwayAndAfterARestart(t *testing.T) {
	each(t, func(t *testing.T, s *kmstest.Service, name string) {
		key, _ := newKey(t)
		s.Put(name, key)
		n, p := fresh(t), kmsPolicy(t, s.URI(name))
		n.FetchNow(t.Context(), p)
		mustBe(t, n, p, key)

		for how, b := range map[string]kmstest.Behaviour{"away": kmstest.Away, "garbage": kmstest.Garbage, "denying": kmstest.Denying} {
			s.Behave(b)
			again := newNode(t, n.dir, n.cache)
			mustBe(t, again, p, key)
			for _, it := range again.items {
				it.limit = time.Second // the libraries try again for as long as they may
			}
			again.FetchNow(t.Context(), p)
			mustBe(t, again, p, key)
			if st := again.find(t, KindKMS, s.URI(name)); !st.OK || st.Error == "" {
				t.Errorf("%s: state is %+v, want one that is usable and tells of the failure", how, st)
			}
		}
	})
}

func TestKMSThatWasNeverReachedIsCouldNotVerify(t *testing.T) {
	each(t, func(t *testing.T, s *kmstest.Service, name string) {
		for how, b := range map[string]kmstest.Behaviour{"away": kmstest.Away, "garbage": kmstest.Garbage, "huge": kmstest.Huge, "hanging": kmstest.Hanging} {
			key, _ := newKey(t)
			s.Put(name, key)
			s.Behave(b)
			n, p := fresh(t), kmsPolicy(t, s.URI(name))
			n.Resolve(p)
			for _, it := range n.items {
				it.limit = time.Second
			}
			snapshot := n.Resolve(p)
			n.FetchNow(t.Context(), p)
			keys, err := snapshot.Keys(keyOf(p)) // the reason is as it is now
			if len(keys) > 0 {
				t.Errorf("%s: got keys", how)
			}
			mustFail(t, err, ErrUnavailable, s.URI(name))
			if strings.Contains(err.Error(), notFetchedYet) || len(err.Error()) > 1000 {
				t.Errorf("%s: the last reason is not told: %v", how, err)
			}
			if at := n.Resolve(p).Revision(); at != snapshot.Revision() {
				t.Errorf("%s: the revision changes with a reason", how)
			}
		}
	})
}

// A key that was destroyed because it was stolen must not be trusted for as long as nodes live.
func TestKMSKeyThatTheServiceNoLongerHasIsNotTrusted(t *testing.T) {
	each(t, func(t *testing.T, s *kmstest.Service, name string) {
		key, _ := newKey(t)
		s.Put(name, key)
		n, p := fresh(t), kmsPolicy(t, s.URI(name))
		n.FetchNow(t.Context(), p)
		mustBe(t, n, p, key)

		// Nor must its end be hushed up because something else went wrong just before.
		s.Behave(kmstest.Denying)
		for _, it := range n.items {
			it.limit = time.Second
		}
		n.FetchNow(t.Context(), p)
		mustBe(t, n, p, key)
		s.Behave(kmstest.Serving)
		for _, it := range n.items {
			it.limit = keyLimit
		}
		s.Remove(name)
		n.FetchNow(t.Context(), p)
		_, err := n.Resolve(p).Keys(keyOf(p))
		mustFail(t, err, ErrMissing, "no such key")
		if strings.Count(n.log.String(), "level=ERROR") != 1 || !strings.Contains(n.log.String(), "is gone, as its source says") {
			t.Errorf("the log says %s", n.log)
		}

		s.Behave(kmstest.Away)
		_, err = newNode(t, n.dir, n.cache).Resolve(p).Keys(keyOf(p))
		mustFail(t, err, ErrUnavailable, notFetchedYet)
	})
}

func TestKMSKeyThatNoPolicyMayHoldIsNotTaken(t *testing.T) {
	weak := &rsa.PublicKey{N: weakModulus(t), E: 65537}
	s := services.Vault
	s.Put("weak", weak)
	n, p := fresh(t), kmsPolicy(t, s.URI("weak"))
	n.FetchNow(t.Context(), p)
	_, err := n.Resolve(p).Keys(keyOf(p))
	mustFail(t, err, ErrUnavailable, "1024 bits")

	good, _ := newKey(t)
	s.Put("weak", good)
	n.FetchNow(t.Context(), p)
	s.Put("weak", weak)
	n.FetchNow(t.Context(), p)
	mustBe(t, n, p, good)
}

func TestHangingKMSHoldsNothingElseUp(t *testing.T) {
	t.Cleanup(func() { services.Vault.Behave(kmstest.Serving) })
	services.Vault.Behave(kmstest.Hanging)
	key, _ := newKey(t)
	services.AWS.Put("beside", key)
	var authorities []string
	for i := range 2 * cap(fresh(t).slots) {
		authorities = append(authorities, "  - key:\n      kms: "+services.Vault.URI("hanging"+string(rune('a'+i))))
	}
	p := set(t, append([]string{"  - key:\n      kms: " + services.AWS.URI("beside")}, authorities...)...)
	n := fresh(t)
	n.Resolve(p)
	for id, it := range n.items {
		if strings.HasPrefix(id.name, "hashivault:") {
			it.limit = 100 * time.Millisecond
		}
	}
	n.start(t)
	until(t, "the key of the service that answers is there", isKey(n, p, key))
}

// A library that does not even end with its context is left behind, and not called again until it comes back.
func TestLibraryThatNeverComesBackHoldsNothingElseUp(t *testing.T) {
	_, text := newKey(t)
	n := fresh(t)
	free, calls := make(chan struct{}), make(chan string, 100)
	n.fetchKey = func(_ context.Context, uri string) (string, error) {
		if uri == "hashivault://good" {
			return text, nil
		}
		calls <- uri
		<-free
		return text, nil
	}
	authorities := []string{"  - key:\n      kms: hashivault://good"}
	const stuck = 8
	if stuck <= cap(n.slots) {
		t.Fatal("fewer keys than places")
	}
	for i := range stuck {
		authorities = append(authorities, "  - key:\n      kms: hashivault://stuck"+string(rune('a'+i)))
	}
	p := set(t, authorities...)
	n.Resolve(p)
	for id, it := range n.items {
		if it.limit = 10 * time.Millisecond; strings.HasSuffix(id.name, "good") {
			it.limit = time.Minute
		}
	}
	n.start(t)
	until(t, "all are called", func() bool { return len(calls) == stuck })
	all := func() bool {
		snapshot := n.Resolve(p)
		for _, policy := range p.Policies() {
			if _, err := snapshot.Keys(policy.Authorities[0].Key); err != nil {
				return false
			}
		}
		return true
	}
	until(t, "the good key is there", func() bool { _, err := n.Resolve(p).Keys(keyOf(p)); return err == nil })
	until(t, "the others have failed", func() bool {
		failed := 0
		for _, s := range n.Status() {
			if strings.Contains(s.Error, "no answer within") {
				failed++
			}
		}
		return failed == stuck
	})
	n.later(time.Hour)
	n.FetchNow(t.Context(), p)
	if len(calls) != stuck {
		t.Errorf("%d calls while %d have not come back", len(calls), stuck)
	}
	close(free)
	until(t, "all are there", func() bool { n.later(time.Hour); return all() })
}

// What is in CacheDir is believed, so it must be the agent's own.
func TestKeptKeyThatSomebodyElseCouldHaveWrittenIsNotUsed(t *testing.T) {
	s := services.Vault
	t.Cleanup(func() { s.Behave(kmstest.Serving) })
	key, _ := newKey(t)
	_, evil := newKey(t)
	for name, spoil := range map[string]func(n *node, file string) error{
		"a file that others may write":   func(_ *node, f string) error { return os.Chmod(f, 0o666) },
		"a folder that others may write": func(n *node, _ string) error { return os.Chmod(n.cache, 0o777) },
		"a kind's folder that others may write": func(n *node, _ string) error {
			return os.Chmod(filepath.Join(n.cache, keysFolder), 0o770)
		},
		"a file of somebody else": func(_ *node, f string) error { return os.Chown(f, 65534, 65534) },
		"a link": func(_ *node, f string) error {
			if err := os.Rename(f, f+"x"); err != nil {
				return err
			}
			return os.Symlink(f+"x", f)
		},
		"the file of another key": func(_ *node, f string) error {
			return os.WriteFile(f, []byte(`{"uri":"hashivault://other","pem":`+quote(evil)+`}`), 0o600)
		},
		"half a file":  func(_ *node, f string) error { return os.Truncate(f, 40) },
		"a huge file":  func(_ *node, f string) error { return os.Truncate(f, 1<<20) },
		"several keys": func(_ *node, f string) error { return os.WriteFile(f, twoKeys(t, s.URI("kept")), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			s.Behave(kmstest.Serving)
			s.Put("kept", key)
			n, p := fresh(t), kmsPolicy(t, s.URI("kept"))
			n.FetchNow(t.Context(), p)
			file := filepath.Join(n.cache, keysFolder, fileName(s.URI("kept")))
			info, err := os.Stat(file)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Fatalf("the kept key is %v, error %v", info, err)
			}
			s.Behave(kmstest.Away)
			mustBe(t, newNode(t, n.dir, n.cache), p, key)
			if err := spoil(n, file); err != nil {
				t.Fatal(err)
			}
			again := newNode(t, n.dir, n.cache)
			_, err = again.Resolve(p).Keys(keyOf(p))
			mustFail(t, err, ErrUnavailable, notFetchedYet)
			if !strings.Contains(again.log.String(), "cannot be used and is fetched again") {
				t.Errorf("the log is silent: %s", again.log)
			}
		})
	}
}

func TestHashOfAKeyIsThePolicys(t *testing.T) {
	key, text := newKey(t)
	services.Vault.Put("hashed", key)
	n := fresh(t)
	n.write(t, cosignSecret+"k", text)
	p := set(t, "  - key:\n      kms: "+services.Vault.URI("hashed")+"\n      hashAlgorithm: sha512", secretPolicy)
	n.FetchNow(t.Context(), p)
	for i, want := range []crypto.Hash{crypto.SHA512, crypto.SHA256} {
		keys, err := n.Resolve(p).Keys(p.Policies()[i].Authorities[0].Key)
		if err != nil || keys[0].Hash != want || keys[0].HashWritten != (i == 0) {
			t.Errorf("policy %d: keys %+v, error %v", i, keys, err)
		}
	}
}
