package evidence

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func openStoreWith(t *testing.T, dir string, log *lines, c *clock) *Store {
	t.Helper()
	s, err := newStore(dir, 4, log.logger(), c.now)
	if err != nil {
		t.Fatal(err)
	}
	s.work()
	return s
}

func recalled(s *Store, e *Evidence) bool {
	return s.Recall(context.Background(), e.question()) != nil
}

// blocked is a folder that cannot be made, even by root, until unblock.
func blocked(t *testing.T) (dir string, unblock func()) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(file, "evidence"), func() {
		t.Helper()
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAStoreThatCannotBeOpenedTriesAgainByItself(t *testing.T) {
	dir, unblock := blocked(t)
	c, log := newClock(), &lines{}
	s, e := openStoreWith(t, dir, log, c), kept(1)
	for range 20 {
		keepNow(s, e)
		if recalled(s, e) {
			t.Fatal("recalled from nowhere")
		}
	}
	if got := log.since(); len(got) != 1 || !strings.Contains(got[0], "cannot be used") {
		t.Errorf("%d lines of a folder that cannot be made: %q", len(got), got)
	}
	unblock()
	if keepNow(s, e); recalled(s, e) {
		t.Error("tried again sooner than a minute later")
	}
	c.advance(openAgain)
	if keepNow(s, e); !recalled(s, e) {
		t.Error("not kept once the folder could be made")
	}
	if got := log.since(); len(got) != 1 || !strings.Contains(got[0], "this is over") {
		t.Errorf("%d lines of the end of it: %q", len(got), got)
	}
}

// What is there already is found by a store that opens late, too.
func TestAStoreThatOpensLateKnowsWhatWasKept(t *testing.T) {
	away, e, dir := t.TempDir(), kept(1), filepath.Join(t.TempDir(), "evidence")
	keepNow(openStore(t, away, 4), e)
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := newClock()
	s := openStoreWith(t, dir, &lines{}, c)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, dir); err != nil { // as a volume that is mounted late
		t.Fatal(err)
	}
	c.advance(openAgain)
	if !recalled(s, e) {
		t.Error("not recalled")
	}
}

func TestAFolderThatGoesAwayIsMadeAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "evidence")
	c, log := newClock(), &lines{}
	s := openStoreWith(t, dir, log, c)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	c.advance(openAgain)
	keepNow(s, kept(1)) // finds it gone
	if keepNow(s, kept(2)); !recalled(s, kept(2)) {
		t.Error("not kept")
	}
	if got := log.since(); len(got) != 2 {
		t.Errorf("%d lines, want one of the trouble and one of its end: %q", len(got), got)
	}
}

// A full disk, or one that is read-only, is there for every decision.
func TestAFolderThatTakesNothingIsReportedOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "evidence")
	c, log := newClock(), &lines{}
	s := openStoreWith(t, dir, log, c)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // fails for root too, as permissions would not
		t.Fatal(err)
	}
	for n := range 100 {
		keepNow(s, kept(n))
	}
	if got := log.since(); len(got) != 1 || !strings.Contains(got[0], "could not be kept") {
		t.Errorf("%d lines: %q", len(got), got)
	}
	c.advance(troubleAgain)
	for n := range 100 {
		keepNow(s, kept(n))
	}
	if got := log.since(); len(got) != 1 {
		t.Errorf("%d lines ten minutes later: %q", len(got), got)
	}
}

func TestOpenStoreFailsForBadArgumentsAlone(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, open := range map[string]func() (*Store, error){
		"no folder": func() (*Store, error) { return OpenStore("", 4, log) },
		"no size":   func() (*Store, error) { return OpenStore(t.TempDir(), 0, log) },
		"no log":    func() (*Store, error) { return OpenStore(t.TempDir(), 4, nil) },
	} {
		if s, err := open(); err == nil || s != nil {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	dir, _ := blocked(t)
	s, err := OpenStore(dir, 4, log)
	if err != nil {
		t.Fatalf("a folder that cannot be made: %v", err)
	}
	closed(t, s)
}
