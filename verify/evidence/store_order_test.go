package evidence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/rescue"
)

func entryDir(dir string, n int) string { return filepath.Join(dir, entryName(kept(n).question())) }

// A file system that is frozen can be read, and holds who writes to it. Pods that restart need what it has.
func TestADiskThatTakesNoWritesIsRead(t *testing.T) {
	const entries = 2 * maxReaders
	dir, disk := folderWith(t, entries), newStuck()
	s := openStore(t, dir, entries)
	s.disk.mark = func(string, time.Time) error { t.Error("who reads writes to the disk"); return nil }
	recallAll := func() {
		t.Helper()
		for i := range entries {
			if !recalled(s, kept(i)) {
				t.Errorf("%d is not recalled", i)
			}
		}
	}
	recallAll()
	if t.Failed() {
		t.FailNow() // the rest would wait for ever
	}
	s.disk.mark = func(dir string, used time.Time) error { disk.hang(); return markUsed(dir, used) }
	running(t, s)
	<-disk.entered // now the writer hangs
	recallAll()
	s.Keep(kept(entries))
	if !recalled(s, kept(entries)) {
		t.Error("what waits to be written is not recalled")
	}
	close(disk.letGo)
}

// The order of use is worth less than evidence: what is to be written is written first.
func TestUsesAreMarkedAfterWhatIsToBeWritten(t *testing.T) {
	dir := folderWith(t, 4)
	s := openStore(t, dir, 8)
	var did []string
	note := func(what, path string) {
		for i := range 8 {
			if path == entryDir(dir, i) {
				did = append(did, fmt.Sprint(what, i))
			}
		}
	}
	s.disk.save = func(e *Evidence, tmp string) error {
		note("save", filepath.Join(dir, entryName(e.question())))
		return e.Save(tmp)
	}
	s.disk.mark = func(path string, used time.Time) error {
		if note("mark", path); len(did) == 3 {
			s.Keep(kept(5))
		}
		return markUsed(path, used)
	}
	before := time.Now()
	for _, i := range []int{0, 1, 0, 2} {
		if !recalled(s, kept(i)) {
			t.Fatalf("%d is not recalled", i)
		}
	}
	s.Keep(kept(4))
	s.Keep(kept(2)) // being written is its use
	s.work()
	s.work() // all is done already
	if len(did) != 5 || did[0] != "save4" || did[1] != "save2" || !strings.HasPrefix(did[2], "mark") || did[3] != "save5" || !strings.HasPrefix(did[4], "mark") {
		t.Errorf("the disk did %q", did)
	}
	for i := range 2 {
		if info, err := os.Stat(entryDir(dir, i)); err != nil || info.ModTime().Before(before.Truncate(time.Second)) {
			t.Errorf("%d is not marked: %v", i, err)
		}
	}
	if len(s.marks) != 0 {
		t.Errorf("%d marks are left", len(s.marks))
	}
}

// An error of the disk, or of a process that has no file descriptors left, says nothing about what is kept.
func TestAnErrorOfTheDiskDropsNothing(t *testing.T) {
	for _, cause := range []error{syscall.EMFILE, syscall.EIO, syscall.ENOMEM, syscall.ESTALE, os.ErrPermission, io.ErrUnexpectedEOF} {
		t.Run(cause.Error(), func(t *testing.T) {
			for name, open := range map[string]func(dir string, log *slog.Logger) *Store{
				"before stock was taken": func(dir string, log *slog.Logger) *Store { return unopened(t, dir, 4, log) },
				"after":                  func(dir string, log *slog.Logger) *Store { s := unopened(t, dir, 4, log); s.work(); return s },
			} {
				dir, log := folderWith(t, 2), &lines{}
				s := open(dir, log.logger())
				s.disk.read = func(string) (*Evidence, error) { return nil, fmt.Errorf("reading: %w", cause) }
				if recalled(s, kept(0)) || recalled(s, kept(1)) {
					t.Errorf("%s: recalled", name)
				}
				s.work()
				onlyOnDisk(t, dir, 0, 1)
				if got := log.since(); len(got) != 1 || !strings.Contains(got[0], unread) || !strings.Contains(got[0], cause.Error()) {
					t.Errorf("%s: %d lines, want one: %q", name, len(got), got)
				}
				s.disk.read = Saved
				if !recalled(s, kept(0)) || !recalled(s, kept(1)) {
					t.Errorf("%s: not recalled once the disk answers", name)
				}
				if got := log.since(); len(got) != 1 || !strings.Contains(got[0], "this is over") {
					t.Errorf("%s: %d lines of the end of it: %q", name, len(got), got)
				}
			}
		})
	}
}

// What is wrong with the content is as wrong the next time.
func TestWhatIsWrongWithTheContentDropsIt(t *testing.T) {
	for _, cause := range []error{ErrMismatch, ErrNotFound, &limits.Exceeded{Bound: limits.Manifest}, rescue.ErrPanicked} {
		dir := folderWith(t, 2)
		s := openStore(t, dir, 4)
		// As where several files could not be read, each for its own reason.
		s.disk.read = func(string) (*Evidence, error) { return nil, join(syscall.EIO, fmt.Errorf("reading: %w", cause)) }
		if recalled(s, kept(0)) {
			t.Errorf("%v: recalled", cause)
		}
		s.work()
		onlyOnDisk(t, dir, 1)
	}
}

// A disk that could not be asked about an entry while stock was taken may have it all the same.
func TestWhatCannotBeMeasuredIsStillRecalled(t *testing.T) {
	dir := folderWith(t, 3)
	s := unopened(t, dir, 4, slog.New(slog.DiscardHandler))
	s.disk.measure = func(path string) (time.Time, int64, error) {
		switch path {
		case entryDir(dir, 0):
			return time.Time{}, 0, syscall.EIO
		case entryDir(dir, 1):
			return time.Time{}, 0, os.ErrNotExist
		}
		return onDisk(path)
	}
	s.work()
	if s.stock != nil || !recalled(s, kept(0)) || recalled(s, kept(1)) || !recalled(s, kept(2)) {
		t.Error("recalled what is gone, or not what is there")
	}
}

// A store that was made much smaller has all its folder to remove: what is to be kept does not wait for that.
func TestWhatIsKeptDoesNotWaitForRemovals(t *testing.T) {
	dir := folderWith(t, 20)
	s := unopened(t, dir, 1, slog.New(slog.DiscardHandler))
	removed := 0
	s.disk.remove = func(path string) error {
		switch removed++; removed {
		case 1:
			s.Keep(kept(50))
		case 2:
			if !isOnDisk(dir, kept(50)) {
				t.Error("a second entry is removed before what came meanwhile is written")
			}
		}
		return os.RemoveAll(path)
	}
	s.work()
	onlyOnDisk(t, dir, 50)
}

// The end of the agent has two seconds, which are for what would be lost. What fell falls again at the next start.
func TestNothingIsRemovedOrMarkedAtTheEnd(t *testing.T) {
	dir := folderWith(t, 20)
	s := unopened(t, dir, 1, slog.New(slog.DiscardHandler))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	removed := 0
	s.disk.mark = func(string, time.Time) error { t.Error("a use is marked"); return nil }
	s.disk.remove = func(path string) error {
		if removed++; removed == 1 {
			if !recalled(s, kept(19)) {
				t.Error("not recalled")
			}
			s.Keep(kept(50))
			s.Keep(kept(51))
			if err := s.Close(gone); !errors.Is(err, context.Canceled) {
				t.Errorf("closing while it removes: %v", err)
			}
		}
		return os.RemoveAll(path)
	}
	s.start()
	<-s.done
	if removed != 1 || !isOnDisk(dir, kept(50)) || !isOnDisk(dir, kept(51)) {
		t.Errorf("%d removed", removed)
	}
	openStore(t, dir, 1)
	onlyOnDisk(t, dir, 51)
}

// A disk that has always something to write still loses what fell, or it would fill.
func TestRemovalsGoOnBetweenWrites(t *testing.T) {
	dir := folderWith(t, 20)
	s := openStore(t, dir, 20)
	const writes = 10
	saved, removed, mostLeft := 0, 0, 0
	s.disk.remove = func(path string) error { removed++; return os.RemoveAll(path) }
	s.disk.save = func(e *Evidence, tmp string) error {
		if saved++; saved < writes {
			s.Keep(kept(50 + saved))
		}
		mostLeft = max(mostLeft, saved-1-removed)
		return e.Save(tmp)
	}
	keepNow(s, kept(50))
	if saved != writes || mostLeft > 0 || removed != writes {
		t.Errorf("%d written, %d removed, and up to %d left meanwhile", saved, removed, mostLeft)
	}
}
