package trustroot

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/trustroot/tuftest"
)

func TestRemoteCopyThatWasTamperedWithGrantsNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, s served, copy []byte) []byte
	}{
		{"a byte", func(_ *testing.T, _ served, copy []byte) []byte { copy[len(copy)/2] ^= 1; return copy }},
		{"half of it", func(_ *testing.T, _ served, copy []byte) []byte { return copy[:len(copy)/2] }},
		{"nothing in it", func(*testing.T, served, []byte) []byte { return []byte{} }},
		{"another repository", func(t *testing.T, _ served, _ []byte) []byte {
			return tuftest.Pack(t, "", tuftest.WithTrustedRoot(t, trustedRoot(t)).Files())
		}},
		{"another trusted root in it", func(t *testing.T, s served, _ []byte) []byte {
			all := s.Files()
			all[targetName(t, s.Repository)] = trustedRoot(t)
			return tuftest.Pack(t, "", all)
		}},
		{"without end", func(*testing.T, served, []byte) []byte { return make([]byte, limits.TUFArchive.Max()+1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t)
			want := s.refresh(t)
			copy, err := os.ReadFile(s.Remote.path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(s.Remote.path, c.change(t, s, copy), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := s.again().Kept(time.Now())
			refused(t, r, err, "the copy")
			if errors.Is(err, ErrNotKept) {
				t.Error("it is passed off as not fetched")
			}
			// The next refresh heals it.
			if again := s.refresh(t); again.Revision != want.Revision {
				t.Error("another root")
			}
			s.still(t, want)
		})
	}
}

func TestRemoteCopyThatIsNoFileIsNotRead(t *testing.T) {
	s := serve(t)
	if err := os.MkdirAll(s.Remote.path, 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := s.Kept(time.Now())
	refused(t, r, err, "is no file")
}

func TestRemoteCopyThatWasPutBackIsRefused(t *testing.T) {
	s := serve(t)
	s.refresh(t)
	older, err := os.ReadFile(s.Remote.path)
	if err != nil {
		t.Fatal(err)
	}
	s.Set("trusted_root.json", trustedRoot(t), nil)
	s.Publish()
	newer := s.refresh(t)
	if err := os.WriteFile(s.Remote.path, older, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := s.Kept(time.Now())
	refused(t, r, err, "put back")
	if r := s.refresh(t); r.Revision != newer.Revision {
		t.Error("another root")
	}
	s.still(t, newer)
}

func TestRemoteBeginsAnewWithAnotherRoot(t *testing.T) {
	s := serve(t)
	s.refresh(t)
	other := tuftest.WithTrustedRoot(t, trustedRoot(t))
	at := s.at
	at.Root = other.Root()
	remote := NewRemote(at, s.Remote.dir, RemoteOptions{})
	r, err := remote.Kept(time.Now())
	if refused(t, r, err, ""); !errors.Is(err, ErrNotKept) {
		t.Errorf("got %v", err)
	}
	r, err = remote.Refresh(t.Context())
	refused(t, r, err, "not accepted")
	if _, err := s.Kept(time.Now()); err != nil {
		t.Errorf("the one it is beside: %v", err)
	}
}

func TestRemoteWorksWithoutADisk(t *testing.T) {
	s := serve(t)
	// A file where the folder should be: nothing can be written, even by root.
	if err := os.WriteFile(s.Remote.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	first := s.refresh(t)
	r, err := s.Kept(time.Now())
	if accepted(t, r, err); r.Revision != first.Revision {
		t.Error("another root")
	}
	older := s.Files()
	s.Set("trusted_root.json", trustedRoot(t), nil)
	s.Publish()
	second := s.refresh(t)
	s.Restore(older)
	r, err = s.Refresh(t.Context())
	refused(t, r, err, "version")
	if r, err = s.Kept(time.Now()); accepted(t, r, err).Revision != second.Revision {
		t.Error("another root")
	}
	// Once there is a disk again it is used.
	if err := os.Remove(s.Remote.dir); err != nil {
		t.Fatal(err)
	}
	s.Publish()
	s.Publish()
	s.still(t, s.refresh(t))
}

func TestRemoteTidiesUpAfterACrash(t *testing.T) {
	s := serve(t)
	s.refresh(t)
	for _, name := range []string{s.Remote.unfinished() + "1", s.Remote.unfinished() + "2/timestamp.json"} {
		path := filepath.Join(s.Remote.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.refresh(t)
	if left, err := os.ReadDir(s.Remote.dir); err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v, %v", left, err)
	}
}
