package evidence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// folderWith holds evidence 0 to n-1, of which 0 was not used for the longest time.
func folderWith(t *testing.T, n int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s := openStore(t, dir, n)
	for i := range n {
		keepNow(s, kept(i))
		at := time.Now().Add(time.Duration(i-n) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, entryName(kept(i).question())), at, at); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func isOnDisk(dir string, e *Evidence) bool {
	_, err := os.Stat(filepath.Join(dir, entryName(e.question()), "index.json"))
	return err == nil
}

// onlyOnDisk checks which of the evidence of folderWith is there.
func onlyOnDisk(t *testing.T, dir string, want ...int) {
	t.Helper()
	var got []int
	for i := range 100 {
		if isOnDisk(dir, kept(i)) {
			got = append(got, i)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("on disk: %v, want %v", got, want)
	}
}

// An agent starts within seconds, or its node has no runtime; a cold disk takes minutes to look at a hundred thousand files.
func TestAStoreIsOpenBeforeStockWasTaken(t *testing.T) {
	fresh := filepath.Join(t.TempDir(), "evidence")
	unopened(t, fresh, 4, slog.New(slog.DiscardHandler))
	if _, err := os.Stat(fresh); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the disk was asked before the store was open: %v", err)
	}

	dir, disk := folderWith(t, 3), newStuck()
	s := unopened(t, dir, 2, slog.New(slog.DiscardHandler))
	s.disk.measure = func(dir string) (time.Time, int64, error) { disk.hang(); return onDisk(dir) }
	running(t, s)
	<-disk.entered
	for i := range 3 {
		if !recalled(s, kept(i)) {
			t.Errorf("%d is not recalled while stock is taken", i)
		}
	}
	if recalled(s, kept(3)) {
		t.Error("recalled what never was kept")
	}
	onlyOnDisk(t, dir, 0, 1, 2)
	close(disk.letGo)
}

// A node that is shut down while stock is taken does not wait for that, and loses nothing that was to be kept.
func TestAStoreIsClosedBeforeStockWasTaken(t *testing.T) {
	dir, disk := folderWith(t, 5), newStuck()
	s := unopened(t, dir, 8, slog.New(slog.DiscardHandler))
	looked := 0
	s.disk.measure = func(dir string) (time.Time, int64, error) { looked++; disk.hang(); return onDisk(dir) }
	s.start()
	<-disk.entered
	s.Keep(kept(5))
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Close(gone); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "1 entries not written") {
		t.Errorf("closing while the disk hangs: %v", err)
	}
	close(disk.letGo)
	closed(t, s)
	onlyOnDisk(t, dir, 0, 1, 2, 3, 4, 5)
	if looked != 1 {
		t.Errorf("%d entries were looked at after the end", looked)
	}
}

// What is written does not wait for the stock-taking, which takes minutes where it takes long.
func TestEvidenceIsWrittenWhileStockIsTaken(t *testing.T) {
	dir := folderWith(t, 3)
	s := unopened(t, dir, 3, slog.New(slog.DiscardHandler))
	looked := 0
	s.disk.measure = func(path string) (time.Time, int64, error) {
		switch looked++; looked {
		case 1:
			for i := 10; i < 16; i++ {
				s.Keep(kept(i))
			}
		case 2:
			// No more than may be there at all, and nothing is removed for it: what is the oldest is not known yet.
			onlyOnDisk(t, dir, 0, 1, 2, 10, 11, 12)
		}
		return onDisk(path)
	}
	s.work()
	onlyOnDisk(t, dir, 10, 11, 12)
	again := openStore(t, dir, 3)
	if again.stored != s.stored || s.stored == 0 {
		t.Errorf("%d bytes counted, want %d", s.stored, again.stored)
	}
}

// What is written while stock is taken is bounded in bytes, too: images with attestations are large.
func TestEvidenceIsWrittenWithinBoundsWhileStockIsTaken(t *testing.T) {
	dir, log := folderWith(t, 2), &lines{}
	s := unopened(t, dir, 50, log.logger())
	s.maxStored = 50 << 10
	looked := 0
	s.disk.measure = func(path string) (time.Time, int64, error) {
		if looked++; looked == 1 {
			for i := 10; i < 16; i++ {
				e := kept(i)
				e.Bundles[0].Raw = make([]byte, 20<<10)
				s.Keep(e)
			}
		}
		return onDisk(path)
	}
	s.work()
	onlyOnDisk(t, dir, 0, 1, 10, 11)
	if got := log.since(); len(got) != 1 || !strings.Contains(got[0], "still being counted") {
		t.Errorf("logged %q", got)
	}
	keepNow(s, kept(20))
	if !isOnDisk(dir, kept(20)) {
		t.Error("nothing is kept after stock was taken")
	}
}

// What a pod needed during the stock-taking is not what is removed at the end of it.
func TestARecallWhileStockIsTakenCountsAsUse(t *testing.T) {
	for name, at := range map[string]int{"before it was looked at": 1, "after all were": 3} {
		t.Run(name, func(t *testing.T) {
			dir := folderWith(t, 3)
			s := unopened(t, dir, 2, slog.New(slog.DiscardHandler))
			looked := 0
			s.disk.measure = func(path string) (time.Time, int64, error) {
				used, size, err := onDisk(path) // what it was before
				if looked++; looked == at && !recalled(s, kept(0)) {
					t.Error("not recalled")
				}
				return used, size, err
			}
			s.work()
			onlyOnDisk(t, dir, 0, 2)
		})
	}
}

// A tampered file is found before stock was taken, as it is later.
func TestTamperedFilesAreDroppedBeforeStockWasTaken(t *testing.T) {
	dir := folderWith(t, 2)
	if err := os.WriteFile(filepath.Join(dir, entryName(kept(0).question()), "index.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := unopened(t, dir, 4, slog.New(slog.DiscardHandler))
	if recalled(s, kept(0)) || !recalled(s, kept(1)) {
		t.Error("what was tampered with was recalled, or what was not is not")
	}
	s.work()
	onlyOnDisk(t, dir, 1)

	dir = folderWith(t, 2)
	s = unopened(t, dir, 4, slog.New(slog.DiscardHandler))
	bad := filepath.Join(dir, entryName(kept(0).question()))
	s.disk.measure = func(path string) (time.Time, int64, error) {
		used, size, err := onDisk(path)
		if path == bad {
			if err := os.WriteFile(filepath.Join(bad, "index.json"), []byte("{}"), 0o600); err != nil {
				t.Error(err)
			}
			if recalled(s, kept(0)) {
				t.Error("recalled")
			}
		}
		return used, size, err
	}
	s.work()
	onlyOnDisk(t, dir, 1)
}
