package audit

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// frozen is a disk on which every write waits while it is frozen, as after
// fsfreeze -f. Files on it are real.
type frozen struct {
	mu      sync.Mutex
	thaw    chan struct{} // nil: not frozen
	broken  bool          // writes fail
	blocked chan struct{} // one for each write that waits
}

func newFrozen() *frozen { return &frozen{blocked: make(chan struct{}, 1000)} }

type frozenFile struct {
	file
	d *frozen
}

func (d *frozen) freeze() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.thaw = make(chan struct{})
}

func (d *frozen) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.thaw != nil {
		close(d.thaw)
		d.thaw = nil
	}
}

func (d *frozen) wait() {
	d.mu.Lock()
	thaw := d.thaw
	d.mu.Unlock()
	if thaw != nil {
		d.blocked <- struct{}{}
		<-thaw
	}
}

func (d *frozen) open(path string) (file, error) {
	d.wait()
	f, err := openAppend(path)
	return frozenFile{f, d}, err
}

func (f frozenFile) Write(b []byte) (int, error) {
	f.d.wait()
	f.d.mu.Lock()
	broken := f.d.broken
	f.d.mu.Unlock()
	if broken {
		return 0, unix.EIO
	}
	return f.file.Write(b)
}

func openFrozen(t *testing.T, d *frozen, o Options) *Log {
	t.Helper()
	l, err := newLog(o)
	must(t, err)
	l.store.openFile = d.open
	l.retryAfter = time.Millisecond
	l.start()
	t.Cleanup(func() {
		d.release()
		l.Close()
		for range l.done { // until the writer is done with the directory
		}
	})
	return l
}

// A hang must show in Fault even if no call waits.
func TestHangWhileTheQueueIsWrittenIsSeen(t *testing.T) {
	d := newFrozen()
	l := openFrozen(t, d, Options{Dir: t.TempDir(), WriteTimeout: 20 * time.Millisecond})
	d.freeze()
	mustAppend(t, l, 1, 3)
	<-d.blocked
	d.mu.Lock() // thawed for one write, and frozen for the next
	thaw := d.thaw
	d.thaw = make(chan struct{})
	d.mu.Unlock()
	close(thaw)
	<-d.blocked
	until(t, "the second hang is seen", func() bool { return l.Head().Seq == 1 && l.Fault() != nil })
	if n := l.Queued(); n != 2 {
		t.Errorf("%d queued, want 2", n)
	}
}

const patience = 300 * time.Millisecond // the WriteTimeout of these tests

func TestHungDiskHoldsACallOnlyOnce(t *testing.T) {
	d, dir, told, out := newFrozen(), t.TempDir(), new(tally), new(said)
	l := openFrozen(t, d, told.on(Options{Dir: dir, WriteTimeout: patience, QueueSize: 5, Log: out.log()}))
	mustAppend(t, l, 1, 1)
	head := l.Head()
	d.freeze()
	start := time.Now()
	var wg sync.WaitGroup
	for range 3 { // all at once: the wait is theirs together
		wg.Go(func() { mustAppend(t, l, 2, 2) })
	}
	<-d.blocked
	if got := l.Head(); got != head {
		t.Errorf("head %v while a write hangs, want %v", got, head)
	}
	wg.Wait()
	if took := time.Since(start); took < patience || took > 20*patience {
		t.Errorf("the first records took %v, want about %v", took, patience)
	}
	start = time.Now()
	mustAppend(t, l, 3, 7) // 3 4 fit into the queue
	if took := time.Since(start); took >= patience {
		t.Errorf("more records took %v on a disk known to hang", took)
	}
	told.want(t, 1, 3)
	if l.Queued() != 5 || l.Fault() == nil || !strings.Contains(l.Fault().Error(), "no answer from the disk") {
		t.Errorf("%d queued, fault %v", l.Queued(), l.Fault())
	}
	if n := len(out.lines(t, "WARN")); n != 8 {
		t.Errorf("%d unwritten records in the agent's log, want 8", n)
	}
	d.release()
	until(t, "the queue is written", func() bool { return l.Queued() == 0 && l.Fault() == nil })
	mustAppend(t, l, 8, 8)
	if got, want := pods(t, dir), "1 2 2 2 3 4 lost 3 8"; got != want {
		t.Errorf("on disk: %s, want %s", got, want)
	}
	mustVerify(t, dir, head, l.Head())
	told.want(t, 1, 3)
}

func TestHungDiskWithRequired(t *testing.T) {
	d, dir, told := newFrozen(), t.TempDir(), new(tally)
	l := openFrozen(t, d, told.on(Options{Dir: dir, WriteTimeout: patience, Required: true}))
	mustAppend(t, l, 1, 1)
	d.freeze()
	for i := 2; i <= 4; i++ {
		if err := l.Append(sample(i)); err == nil || !strings.Contains(err.Error(), "no answer") {
			t.Fatalf("append %d: %v, want that the disk does not answer", i, err)
		}
	}
	told.want(t, 1, 2) // whether 2 is lost is not known
	d.release()
	until(t, "the disk is seen to answer", func() bool { return l.Fault() == nil })
	mustAppend(t, l, 5, 5)
	// 2 was on its way when its call was refused: the log says so.
	if got, want := pods(t, dir), "1 2 notice lost 2 5"; got != want {
		t.Errorf("on disk: %s, want %s", got, want)
	}
	told.want(t, 1, 2)
}

// A write that hung and then failed: only then is its record known to be lost.
func TestHungDiskThatBreaksWithRequired(t *testing.T) {
	d, dir, told := newFrozen(), t.TempDir(), new(tally)
	l := openFrozen(t, d, told.on(Options{Dir: dir, WriteTimeout: 20 * time.Millisecond, Required: true}))
	d.freeze()
	for i := 1; i <= 2; i++ {
		if err := l.Append(sample(i)); err == nil {
			t.Fatal("append on a frozen disk: no error")
		}
	}
	told.want(t, 1, 1)
	d.mu.Lock()
	d.broken = true
	d.mu.Unlock()
	d.release()
	until(t, "the write failed", func() bool { return errors.Is(l.Fault(), unix.EIO) })
	if err := l.Append(sample(3)); !errors.Is(err, unix.EIO) {
		t.Errorf("append on a broken disk: %v, want EIO", err)
	}
	told.want(t, 2, 3)
	d.mu.Lock()
	d.broken = false
	d.mu.Unlock()
	mustAppend(t, l, 4, 4)
	if r := mustVerify(t, dir, l.Head()); r.Lost != 3 {
		t.Errorf("report %+v, want 3 lost", r)
	}
}

func TestHungDiskDoesNotHoldOpenAndClose(t *testing.T) {
	d, told := newFrozen(), new(tally)
	d.freeze()
	start := time.Now()
	l := openFrozen(t, d, told.on(Options{Dir: t.TempDir(), WriteTimeout: patience}))
	if l.Fault() == nil {
		t.Error("no fault of a log whose opening hangs")
	}
	mustAppend(t, l, 1, 3)
	err := l.Close()
	if err == nil || !strings.Contains(err.Error(), "3 records not written") || strings.Contains(err.Error(), "\n") {
		t.Errorf("close: %v, want that 3 records are not written", err)
	}
	if took := time.Since(start); took > 20*patience {
		t.Errorf("open and close took %v, want about %v", took, 2*patience)
	}
	told.want(t, 1, 3)
}

// Whatever a disk does, each record is in the log once and in its caller's order, or counted as
// lost in the log and to Lost; and what was answered as written is there.
func TestNothingIsForgottenWhileADiskComesAndGoes(t *testing.T) {
	for _, required := range []bool{false, true} {
		d, dir, told := newFrozen(), t.TempDir(), new(tally)
		l := openFrozen(t, d, told.on(Options{
			Dir: dir, MaxFileSize: maxLine, MaxFiles: 1000, QueueSize: 50, WriteTimeout: 2 * time.Millisecond, Required: required,
		}))
		stop := make(chan struct{})
		var freezer, callers sync.WaitGroup
		freezer.Go(func() {
			for {
				d.freeze()
				for l.Fault() == nil { // until the hang is seen
					select {
					case <-stop:
						d.release()
						return
					case <-time.After(time.Millisecond):
					}
				}
				d.release()
			}
		})
		const each = 300
		acked := make([][each]bool, 4)
		for g := range acked {
			callers.Go(func() {
				for i := range each {
					r := sample(i % 60)
					r.Pod.UID, r.Duration = strconv.Itoa(g), time.Duration(i)*time.Microsecond
					acked[g][i] = l.Append(r) == nil
				}
			})
		}
		callers.Wait()
		close(stop)
		freezer.Wait()
		until(t, "all is written", func() bool { return l.Queued() == 0 && l.Fault() == nil })
		if err := l.Close(); err != nil {
			// The last sync took a busy machine longer than the 2 ms that this log allows.
			must(t, <-l.done)
		}

		report := mustVerify(t, dir, l.Head())
		next, written, late := make([]int, 4), 0, 0
		for _, e := range entries(t, dir) {
			if e.Action == ActionAudit {
				late += 1 - int(min(e.Lost, 1))
				continue
			}
			g, _ := strconv.Atoi(e.Pod.UID)
			for i := int(e.Duration.Microseconds()); next[g] < i; next[g]++ {
				if required && acked[g][next[g]] {
					t.Errorf("record %d of %d was answered as written and is not there", next[g], g)
				}
			}
			next[g]++
			written++
		}
		if want := 4 * each; written+told.lost != want || int(report.Lost) != told.lost || (required && told.lost == 0) {
			t.Errorf("required %v: %d written, %d late, %d lost by the log and %d reported, of %d", required, written, late, report.Lost, told.lost, want)
		}
	}
}
