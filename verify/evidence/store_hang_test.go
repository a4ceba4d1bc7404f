package evidence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// stuck is a disk's call that does not return until it is let go.
type stuck struct {
	entered chan struct{} // gets one for each call
	letGo   chan struct{}
}

func newStuck() stuck { return stuck{make(chan struct{}, 100), make(chan struct{})} }

func (s stuck) hang() {
	s.entered <- struct{}{}
	<-s.letGo
}

// running gives s its writer, until the test is over.
func running(t *testing.T, s *Store) *Store {
	t.Helper()
	s.start()
	t.Cleanup(func() { closed(t, s) })
	return s
}

func closed(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func unopened(t *testing.T, dir string, size int, log *slog.Logger) *Store {
	t.Helper()
	s, err := newStore(dir, size, log, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A good verdict needs no disk: who keeps evidence, and who asks for it, does not wait for one that hangs.
func TestADiskThatHangsOnWritesHoldsNobody(t *testing.T) {
	dir, disk, log := folderWith(t, 1), newStuck(), &lines{}
	s := unopened(t, dir, 1000, log.logger())
	s.disk.save = func(e *Evidence, dir string) error { disk.hang(); return e.Save(dir) }
	s.start()
	s.Keep(kept(1))
	<-disk.entered
	const more = 10
	for i := range maxWaiting + more {
		s.Keep(kept(2 + i))
	}
	for _, i := range []int{0, 1, 2, maxWaiting + 1} {
		if !recalled(s, kept(i)) {
			t.Errorf("%d is not recalled", i)
		}
	}
	if recalled(s, kept(maxWaiting+2)) || s.dropped != more {
		t.Errorf("%d dropped, want %d: what waits is bounded", s.dropped, more)
	}
	if got := log.since(); len(got) != 1 || !strings.Contains(got[0], lagging) || !strings.Contains(got[0], `"dropped":1`) {
		t.Errorf("%d lines, want one: %q", len(got), got)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Close(gone); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), fmt.Sprint(maxWaiting+1, " entries")) {
		t.Errorf("closing: %v", err)
	}
	s.Keep(kept(99)) // is not kept any more, and nobody waits
	close(disk.letGo)
	closed(t, s)
	want := make([]int, maxWaiting+2)
	for i := range want {
		want[i] = i
	}
	onlyOnDisk(t, dir, want...)
	if got := log.since(); len(got) != 1 || !strings.Contains(got[0], "this is over") || !strings.Contains(got[0], fmt.Sprintf(`"dropped":%d`, more)) {
		t.Errorf("%d lines of the end of it: %q", len(got), got)
	}
}

// A pod whose registry is away and whose evidence cannot be read is told so in time, and the next one at once.
func TestADiskThatHangsOnReadsHoldsAFew(t *testing.T) {
	dir, disk, writes, log := folderWith(t, 2), newStuck(), newStuck(), &lines{}
	s := unopened(t, dir, 4, log.logger())
	s.disk.read = func(dir string) (*Evidence, error) { disk.hang(); return Saved(dir) }
	s.disk.save = func(e *Evidence, dir string) error { writes.hang(); return e.Save(dir) }
	running(t, s)
	for range maxReaders {
		ctx, cancel := context.WithCancel(t.Context())
		answer := make(chan *Evidence)
		go func() { answer <- s.Recall(ctx, kept(0).question()) }()
		<-disk.entered
		cancel()
		if e := <-answer; e != nil {
			t.Errorf("recalled %+v", e)
		}
	}
	if recalled(s, kept(1)) { // waits for nobody: its context has no end
		t.Error("recalled from a disk that hangs")
	}
	s.Keep(kept(2))
	<-writes.entered
	if !recalled(s, kept(2)) {
		t.Error("what is still to be written is not recalled")
	}
	close(writes.letGo)
	if got := log.since(); len(got) != 1 || !strings.Contains(got[0], "could not be read in time") {
		t.Errorf("%d lines, want one: %q", len(got), got)
	}
	close(disk.letGo)
	for range maxReaders { // all places are given back
		s.readers <- struct{}{}
	}
	for range maxReaders {
		<-s.readers
	}
	if !recalled(s, kept(0)) || !recalled(s, kept(1)) || s.abandoned != 0 {
		t.Errorf("not recalled though the disk answers again; %d abandoned", s.abandoned)
	}
	if got := log.since(); len(got) != 1 || !strings.Contains(got[0], "this is over") {
		t.Errorf("%d lines of the end of it: %q", len(got), got)
	}
}

// A reader whose place is taken by others who still read waits for it no longer than its own time.
func TestAReaderWaitsForAPlace(t *testing.T) {
	dir, disk := folderWith(t, 1), newStuck()
	s := unopened(t, dir, 4, slog.New(slog.DiscardHandler))
	s.disk.read = func(dir string) (*Evidence, error) { disk.hang(); return Saved(dir) }
	running(t, s)
	var all sync.WaitGroup
	for range maxReaders {
		all.Go(func() {
			if !recalled(s, kept(0)) {
				t.Error("not recalled")
			}
		})
		<-disk.entered
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if s.Recall(gone, kept(0).question()) != nil {
		t.Error("recalled without a place")
	}
	close(disk.letGo)
	all.Wait()
}

// An entry is replaced by removing it first: who reads it then must neither miss it nor have the new one removed.
func TestAnEntryThatIsWrittenAnewWhileItIsRead(t *testing.T) {
	for name, meanwhile := range map[string]func(s *Store, e *Evidence){
		"waits to be written": func(s *Store, e *Evidence) { s.Keep(e) },
		"was written":         keepNow,
	} {
		t.Run(name, func(t *testing.T) {
			dir, log := t.TempDir(), &lines{}
			s := unopened(t, dir, 4, log.logger())
			keepNow(s, kept(1))
			reads := 0
			s.disk.read = func(dir string) (*Evidence, error) {
				if reads++; reads == 1 {
					meanwhile(s, kept(1))
					return nil, ErrNotFound
				}
				return Saved(dir)
			}
			if !recalled(s, kept(1)) {
				t.Error("not recalled")
			}
			s.work()
			onlyOnDisk(t, dir, 1)
			if got := log.since(); len(got) != 0 {
				t.Errorf("logged %q", got)
			}
		})
	}
}

// An entry that fell out, and was written again before it was removed, stays.
func TestAnEntryThatWasWrittenAgainIsNotRemoved(t *testing.T) {
	for name, next := range map[string]func(s *Store) error{
		"while what there is is known": func(*Store) error { return nil },
		"before stock is taken again":  func(s *Store) error { s.tried = time.Time{}; return s.forget() },
	} {
		t.Run(name, func(t *testing.T) {
			dir := folderWith(t, 1)
			s := openStore(t, dir, 4)
			s.fallen[entryName(kept(0).question())] = true
			s.Keep(kept(0))
			if !s.writeOne(s.next()) {
				t.Fatal("not written")
			}
			if err := next(s); err != nil {
				t.Fatal(err)
			}
			s.work()
			onlyOnDisk(t, dir, 0)
		})
	}
}

// A panic on a goroutine of the store's would end the agent.
func TestAPanicInTheStoreIsAnError(t *testing.T) {
	dir, log := folderWith(t, 1), &lines{}
	s := unopened(t, dir, 4, log.logger())
	s.disk.save = func(*Evidence, string) error { panic("secret") }
	s.disk.read = func(string) (*Evidence, error) { panic("secret") }
	s.Keep(kept(1))
	if recalled(s, kept(0)) {
		t.Error("recalled")
	}
	s.work()
	onlyOnDisk(t, dir)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if got := strings.Join(log.since(), "\n"); strings.Count(got, "internal error") != 2 || strings.Contains(got, "secret") {
		t.Errorf("logged %s", got)
	}
}

// What many decisions keep at once is on the disk after Close, whole.
func TestWhatWasKeptIsOnDiskAfterClose(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenStore(dir, 10, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 10 {
				s.Keep(kept(i))
				if !recalled(s, kept(i)) {
					t.Errorf("%d is not recalled", i)
				}
			}
		})
	}
	all.Wait()
	closed(t, s)
	closed(t, s) // does nothing
	s.Keep(kept(11))
	again := openStore(t, dir, 10)
	for i := range 10 {
		if !recalled(again, kept(i)) {
			t.Errorf("%d is lost", i)
		}
	}
	onlyOnDisk(t, dir, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
}

func TestTheQueueIsBounded(t *testing.T) {
	q := queue{waiting: map[string]*Evidence{}}
	sized := func(n, bytes int) *Evidence {
		e := kept(n)
		e.Bundles[0].Raw = make([]byte, bytes)
		return e
	}
	first := sized(1, maxKeptAttested-1000)
	for range 2 {
		if !q.put(first) || q.bytes != first.Size() {
			t.Errorf("the same twice: %d bytes", q.bytes)
		}
	}
	for i, want := range []*Evidence{first, nil} {
		if q.take() != want {
			t.Fatalf("taken at %d", i)
		}
	}
	if !q.put(first) || q.bytes != first.Size() || len(q.names) != 0 {
		t.Error("what is being written waits to be written again")
	}
	anew := sized(1, maxKeptAttested-1000)
	if !q.put(anew) || q.put(sized(2, 10_000)) {
		t.Error("what is being written does not count")
	}
	if !q.put(sized(1, 1000)) || !q.put(sized(2, 10_000)) {
		t.Error("an answer that another took the place of still counts")
	}
	if q.written() || q.waiting[entryName(anew.question())] == nil {
		t.Error("what came while the same was written is lost")
	}
	for e := q.take(); e != nil; e = q.take() {
		q.written()
	}
	if q.bytes != 0 || len(q.waiting) != 0 || len(q.names) != 0 {
		t.Errorf("left: %+v", q)
	}
}
