package trustroot

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trustroot/tuftest"
)

// served is a repository on a server and a Remote of it.
type served struct {
	*tuftest.Repository
	*Remote
	at policy.TUFRemote
}

func serve(t *testing.T) served {
	t.Helper()
	repository := tuftest.WithTrustedRoot(t, trustedRoot(t))
	at := policy.TUFRemote{Root: repository.Root(), Mirror: repository.Serve()}
	return served{repository, NewRemote(at, filepath.Join(t.TempDir(), "roots"), RemoteOptions{}), at}
}

// again is the Remote of a process that was started anew.
func (s served) again() *Remote { return NewRemote(s.at, s.Remote.dir, RemoteOptions{}) }

func (s served) refresh(t *testing.T) *Root {
	t.Helper()
	r, err := s.Refresh(t.Context())
	return accepted(t, r, err)
}

// still checks that what was kept before is what is used now, after a restart as well.
func (s served) still(t *testing.T, want *Root) {
	t.Helper()
	for name, remote := range map[string]*Remote{"kept": s.Remote, "kept after a restart": s.again()} {
		r, err := remote.Kept(time.Now())
		if accepted(t, r, err); r.Revision != want.Revision {
			t.Errorf("%s: another root", name)
		}
	}
}

func TestRemoteHasNothingBeforeItIsFetched(t *testing.T) {
	s := serve(t)
	r, err := s.Kept(time.Now())
	if refused(t, r, err, "not fetched yet"); !errors.Is(err, ErrNotKept) {
		t.Errorf("got %v, want ErrNotKept", err)
	}
	if asked := s.Asked(); len(asked) != 0 {
		t.Errorf("Kept asked for %v", asked)
	}
}

func TestRemoteIsKeptAndReadWithoutNetwork(t *testing.T) {
	s := serve(t)
	want := s.refresh(t)
	s.Asked()
	s.still(t, want)
	if asked := s.Asked(); len(asked) != 0 {
		t.Errorf("Kept asked for %v", asked)
	}
	if !want.Expires.Equal(s.Expires["snapshot"]) || !strings.Contains(want.From, s.at.Mirror) {
		t.Errorf("expires %v, from %q", want.Expires, want.From)
	}
	dir, err := os.Stat(s.Remote.dir)
	if err != nil || dir.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v, %v", dir.Mode(), err)
	}
	left, err := os.ReadDir(s.Remote.dir)
	if err != nil || len(left) != 1 {
		t.Fatalf("the folder holds %v, %v", left, err)
	}
	if info, err := left[0].Info(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy: %v, %v", info.Mode(), err)
	}
}

func TestRemoteFollowsWhatIsPublished(t *testing.T) {
	s := serve(t)
	first := s.refresh(t)
	s.Asked()

	// Signed anew with nothing changed: the same revision, another end; the target is not fetched again.
	s.Expires["snapshot"] = s.Expires["snapshot"].Add(time.Hour)
	s.Publish()
	second := s.refresh(t)
	if second.Revision != first.Revision || !second.Expires.Equal(first.Expires.Add(time.Hour)) {
		t.Errorf("revision %q, expires %v", second.Revision, second.Expires)
	}
	if asked := s.Asked(); slices.ContainsFunc(asked, func(name string) bool { return strings.HasPrefix(name, "targets/") }) {
		t.Errorf("asked for %v", asked)
	}

	data := trustedRoot(t)
	s.Set("trusted_root.json", data, nil)
	s.Publish()
	third := s.refresh(t)
	if want, _ := FromJSON(data); third.Revision != want.Revision || third.Revision == first.Revision {
		t.Error("the new trusted root is not the one in use")
	}
	s.still(t, third)
	// Nothing new is no error.
	if again := s.refresh(t); again.Revision != third.Revision {
		t.Error("another root without another version")
	}
}

func TestRemoteWithoutConsistentSnapshots(t *testing.T) {
	repository := tuftest.New(t)
	repository.Consistent = false
	repository.PublishRoot()
	at := policy.TUFRemote{Root: repository.Root(), Mirror: repository.Serve()}
	remote := NewRemote(at, t.TempDir(), RemoteOptions{})
	for range 2 {
		data := trustedRoot(t)
		repository.Set("trusted_root.json", data, nil)
		repository.Publish()
		r, err := remote.Refresh(t.Context())
		want, _ := FromJSON(data)
		if accepted(t, r, err).Revision != want.Revision {
			t.Error("the newest trusted root is not the one in use")
		}
	}
}

func TestRemoteFollowsRootRotation(t *testing.T) {
	s := serve(t)
	s.refresh(t)
	for range 3 {
		s.Rotate("root", "targets", "snapshot", "timestamp")
		s.Publish()
	}
	r := s.refresh(t)
	if !strings.Contains(r.From, "root 4") {
		t.Errorf("from %q", r.From)
	}
	s.still(t, r)
	// Roots that are known are not fetched again.
	s.Asked()
	s.refresh(t)
	if asked := s.Asked(); slices.Contains(asked, "2.root.json") || !slices.Contains(asked, "5.root.json") {
		t.Errorf("asked for %v", asked)
	}
}

// Whoever stole the online keys and counted their versions up is got rid of by replacing the keys: versions begin anew.
func TestRemoteRecoversFromVersionsCountedUpByAThief(t *testing.T) {
	s := serve(t)
	for _, role := range []string{"timestamp", "snapshot", "targets"} {
		s.Versions[role] = 1_000_000
	}
	s.Publish()
	s.refresh(t)
	for _, role := range []string{"timestamp", "snapshot", "targets"} {
		s.Versions[role] = 5
	}
	s.Rotate("timestamp", "snapshot")
	s.Publish()
	s.still(t, s.refresh(t))
}

func TestRemoteGoesOnWithWhatItHasUntilThatExpires(t *testing.T) {
	s := serve(t)
	want := s.refresh(t)
	// The network goes away.
	s.Rewrite(func(string, []byte) []byte { return nil })
	r, err := s.Refresh(t.Context())
	refused(t, r, err, "could not be reached")
	s.still(t, want)
	// So does the timestamp's week, and then all.
	for _, remote := range []*Remote{s.Remote, s.again()} {
		r, err = remote.Kept(s.Expires["timestamp"].Add(24 * time.Hour))
		accepted(t, r, err)
		r, err = remote.Kept(want.Expires)
		accepted(t, r, err)
		r, err = remote.Kept(want.Expires.Add(time.Second))
		expiredAt(t, r, err, want.Expires)
	}
}

func TestRemoteRefusesWhatIsNotFresh(t *testing.T) {
	for _, role := range []string{"timestamp", "snapshot", "targets", "root"} {
		t.Run(role, func(t *testing.T) {
			s := serve(t)
			want := s.refresh(t)
			when := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
			s.Expires[role] = when
			s.PublishRoot()
			s.Set("trusted_root.json", trustedRoot(t), nil)
			s.Publish()
			r, err := s.Refresh(t.Context())
			expiredAt(t, r, err, when)
			s.still(t, want)

			fresh := NewRemote(s.at, t.TempDir(), RemoteOptions{})
			r, err = fresh.Refresh(t.Context())
			expiredAt(t, r, err, when)
			r, err = fresh.Kept(time.Now())
			refused(t, r, err, "not fetched yet")
		})
	}
}

func TestRemoteRefusesAServerThatGoesBack(t *testing.T) {
	for _, restart := range []bool{false, true} {
		s := serve(t)
		older := s.Files()
		s.Set("trusted_root.json", trustedRoot(t), nil)
		s.Publish()
		want := s.refresh(t)
		s.Restore(older)
		if restart {
			s.Remote = s.again()
		}
		r, err := s.Refresh(t.Context())
		refused(t, r, err, "version")
		s.still(t, want)
	}
}

func TestRemoteRefusesAnOlderSnapshotUnderANewTimestamp(t *testing.T) {
	s := serve(t)
	s.Set("trusted_root.json", trustedRoot(t), nil)
	s.Publish()
	want := s.refresh(t)
	// The thief of the timestamp's and snapshot's keys wants the old targets back.
	s.Versions["targets"], s.Versions["snapshot"] = 0, 9
	s.Publish()
	r, err := s.Refresh(t.Context())
	refused(t, r, err, "version")
	s.still(t, want)
}

func TestRemoteRefusesWhatItsKeysDidNotSign(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, s served)
		why    string
	}{
		{"another's repository", func(t *testing.T, s served) {
			other := tuftest.WithTrustedRoot(t, trustedRoot(t))
			other.Publish()
			s.Restore(other.Files())
		}, "not accepted"},
		{"a new root without the old keys", func(t *testing.T, s served) {
			s.Keys["root"] = tuftest.New(t).Keys["root"]
			s.PublishRoot()
			s.Publish()
		}, "not accepted"},
		{"too few of the keys", func(t *testing.T, s served) {
			s.Keys["targets"] = append(s.Keys["targets"], tuftest.NewKey(t))
			s.Threshold["targets"] = 2
			s.PublishRoot()
			s.Keys["targets"] = s.Keys["targets"][1:]
			s.Publish()
		}, "not accepted"},
		{"targets by the snapshot's key", func(t *testing.T, s served) {
			s.Keys["targets"] = s.Keys["snapshot"]
			s.Publish()
		}, "not accepted"},
		{"another trusted root under the signed name", func(t *testing.T, s served) {
			s.Set("trusted_root.json", trustedRoot(t), nil)
			s.Publish()
			s.Rewrite(func(name string, data []byte) []byte {
				if strings.HasPrefix(name, "targets/") {
					return []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`)
				}
				return data
			})
		}, "is not what the metadata says"},
		{"a trusted root that is none", func(t *testing.T, s served) {
			s.Set("trusted_root.json", []byte("\x1b[31m{}\n"), nil)
			s.Publish()
		}, "not a trusted_root.json"},
		{"a trusted root taken away", func(t *testing.T, s served) {
			s.Set("trusted_root.json", nil, nil)
			s.Publish()
		}, "neither a target"},
		{"metadata that is nonsense", func(t *testing.T, s served) { s.Put("timestamp.json", []byte("\x1b[31mno\n")) }, "not accepted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t)
			want := s.refresh(t)
			c.change(t, s)
			r, err := s.Refresh(t.Context())
			refused(t, r, err, c.why)
			s.still(t, want)
		})
	}
}

func TestRemoteIsSafeForConcurrentUse(t *testing.T) {
	s := serve(t)
	s.refresh(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := s.Kept(time.Now()); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := s.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
