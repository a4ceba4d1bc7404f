package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// disk has room for so many more bytes, and like a real one writes what fits
// before it says that it is full. Files on it are real.
type disk struct {
	room     atomic.Int64
	noCutter atomic.Bool // truncating fails as well
	noOpen   atomic.Bool
}

type diskFile struct {
	file
	d *disk
}

func (d *disk) open(path string) (file, error) {
	if d.noOpen.Load() {
		return nil, unix.ENOSPC
	}
	f, err := openAppend(path)
	if err != nil {
		return nil, err
	}
	return diskFile{f, d}, nil
}

func (f diskFile) Write(b []byte) (int, error) {
	room := int(f.d.room.Load())
	if room >= len(b) {
		f.d.room.Add(int64(-len(b)))
		return f.file.Write(b)
	}
	n, err := f.file.Write(b[:room])
	f.d.room.Store(0)
	if err == nil {
		err = unix.ENOSPC
	}
	return n, err
}

func (f diskFile) Truncate(n int64) error {
	if f.d.noCutter.Load() {
		return unix.EIO
	}
	return f.file.Truncate(n)
}

// openOn opens a log whose queue is retried only by what the test does.
func openOn(t *testing.T, d *disk, o Options) *Log {
	t.Helper()
	l, err := newLog(o)
	if err != nil {
		t.Fatal(err)
	}
	l.store.openFile = d.open
	l.retryAfter = time.Hour
	l.start()
	t.Cleanup(func() { l.Close() })
	return l
}

// tally counts what a log reports.
type tally struct {
	mu     sync.Mutex
	faults []string
	lost   int
}

func (c *tally) on(o Options) Options {
	o.Fault = func(err error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.faults = append(c.faults, err.Error())
	}
	o.Lost = func(n int) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lost += n
	}
	return o
}

func (c *tally) want(t *testing.T, faults, lost int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.faults) != faults || c.lost != lost {
		t.Errorf("%d faults and %d lost records were reported, want %d and %d: %q", len(c.faults), c.lost, faults, lost, c.faults)
	}
}

func TestFullDiskWithRequired(t *testing.T) {
	d, dir, told := new(disk), t.TempDir(), new(tally)
	l := openOn(t, d, told.on(Options{Dir: dir, Required: true}))
	d.room.Store(1700) // two records and a part of the third
	mustAppend(t, l, 1, 2)
	head := l.Head()
	for i := range 3 {
		if err := l.Append(sample(3)); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("append %d on a full disk: %v, want ENOSPC", i, err)
		}
	}
	told.want(t, 1, 3)
	if l.Head() != head || !errors.Is(l.Fault(), unix.ENOSPC) || l.Queued() != 0 {
		t.Errorf("head %v, want %v; fault %v, want ENOSPC; %d queued", l.Head(), head, l.Fault(), l.Queued())
	}
	if r := mustVerify(t, dir, head); r.Records != 2 || r.TornBytes != 0 {
		t.Errorf("report %+v, want 2 records and nothing of the third", r)
	}
	d.room.Store(1 << 20)
	mustAppend(t, l, 4, 4)
	if err := l.Fault(); err != nil {
		t.Errorf("after there was room again: %v", err)
	}
	mustVerify(t, dir, head, l.Head())
	if got, want := pods(t, dir), "1 2 lost 3 4"; got != want {
		t.Errorf("on disk: %s, want %s: a refused record must not come back", got, want)
	}
}

// pods gives the pods' names in order, and what the log says itself.
func pods(t *testing.T, dir string) string {
	var names []string
	for _, e := range entries(t, dir) {
		switch {
		case e.Lost > 0:
			names = append(names, fmt.Sprintf("lost %d", e.Lost))
		case e.Action == ActionAudit:
			names = append(names, "notice")
		default:
			names = append(names, strings.TrimPrefix(e.Pod.Name, "web-"))
		}
	}
	return strings.Join(names, " ")
}

func TestFullDiskQueuesInOrder(t *testing.T) {
	d, dir := new(disk), t.TempDir()
	l := openOn(t, d, Options{Dir: dir, QueueSize: 3})
	d.room.Store(1700)
	mustAppend(t, l, 1, 4)
	if got := pods(t, dir); got != "1 2" {
		t.Fatalf("on disk: %s, want 1 2", got)
	}
	d.room.Store(1 << 20)
	mustAppend(t, l, 5, 5)
	if got := pods(t, dir); got != "1 2 3 4 5" {
		t.Errorf("on disk: %s, want 1 2 3 4 5", got)
	}
	mustVerify(t, dir, l.Head())
}

func TestLossIsMarkedWhereItHappened(t *testing.T) {
	d, dir := new(disk), t.TempDir()
	told := new(tally)
	l := openOn(t, d, told.on(Options{Dir: dir, QueueSize: 2}))
	mustAppend(t, l, 1, 5) // queued: 1 2, lost: 3 4 5
	d.room.Store(900)      // 1
	mustAppend(t, l, 6, 6) // no room beside 2 and the marker
	d.room.Store(1700)     // 2, the marker
	mustAppend(t, l, 7, 9) // queued: 7 8, lost: 9
	told.want(t, 3, 5)     // twice it was full again after something had been written
	d.room.Store(1 << 20)
	mustAppend(t, l, 10, 10)
	if got, want := pods(t, dir), "1 2 lost 4 7 8 lost 1 10"; got != want {
		t.Errorf("on disk: %s, want %s", got, want)
	}
	if r := mustVerify(t, dir, l.Head()); r.Lost != 5 {
		t.Errorf("report %+v, want 5 lost", r)
	}
}

func TestQueueIsBoundedInBytes(t *testing.T) {
	d := new(disk)
	l := openOn(t, d, Options{Dir: t.TempDir(), QueueSize: 1 << 20})
	r := sample(1)
	for range 40 {
		r.Policies = append(r.Policies, PolicyResult{Reason: strings.Repeat("x", 1000)})
	}
	for range 400 {
		if err := l.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	if l.queue.bytes > queueBytes || l.queue.items[len(l.queue.items)-1].lost == 0 {
		t.Errorf("queue holds %d bytes, want at most %d and the rest counted as lost", l.queue.bytes, queueBytes)
	}
}

func TestQueueIsWrittenWithoutAnotherRecord(t *testing.T) {
	d, dir := new(disk), t.TempDir()
	l, err := newLog(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	l.store.openFile, l.retryAfter = d.open, time.Millisecond
	l.start()
	t.Cleanup(func() { l.Close() })
	mustAppend(t, l, 1, 3)
	d.room.Store(1 << 20)
	deadline := time.After(10 * time.Second)
	for l.Head().Seq < 3 {
		select {
		case <-deadline:
			t.Fatal("the queue was not written")
		case <-time.After(time.Millisecond):
		}
	}
	if got := pods(t, dir); got != "1 2 3" {
		t.Errorf("on disk: %s, want 1 2 3", got)
	}
}

func TestCloseSaysWhatIsNotWritten(t *testing.T) {
	d, told := new(disk), new(tally)
	l := openOn(t, d, told.on(Options{Dir: t.TempDir()}))
	mustAppend(t, l, 1, 3)
	if n := l.Queued(); n != 3 {
		t.Errorf("%d records are queued, want 3", n)
	}
	if err := l.Close(); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "3 records not written") {
		t.Errorf("close: %v, want that 3 records are not written", err)
	}
	told.want(t, 1, 3)
}

// A part of a line that cannot be removed must not be joined to the next one.
func TestPartWrittenAndNotRemovable(t *testing.T) {
	d, dir := new(disk), t.TempDir()
	l := openOn(t, d, Options{Dir: dir})
	d.room.Store(1000)
	mustAppend(t, l, 1, 1)
	d.noCutter.Store(true)
	mustAppend(t, l, 2, 2)
	d.room.Store(1 << 20) // room again, but the part still stands there
	mustAppend(t, l, 3, 3)
	if r := mustVerify(t, dir); r.Records != 1 || r.TornBytes == 0 {
		t.Fatalf("report %+v, want 1 record and a torn line", r)
	}
	d.noCutter.Store(false)
	mustAppend(t, l, 4, 4)
	if got := pods(t, dir); got != "1 2 3 4" {
		t.Errorf("on disk: %s, want 1 2 3 4", got)
	}
	mustVerify(t, dir, l.Head())
}

func TestNodeWithFullDiskStarts(t *testing.T) {
	d, dir := new(disk), t.TempDir()
	d.noOpen.Store(true)
	l := openOn(t, d, Options{Dir: dir})
	mustAppend(t, l, 1, 2)
	d.noOpen.Store(false)
	d.room.Store(1 << 20)
	mustAppend(t, l, 3, 3)
	if got := pods(t, dir); got != "1 2 3" {
		t.Errorf("on disk: %s, want 1 2 3", got)
	}
}

func TestDiskFullBetweenRenameAndCreate(t *testing.T) {
	d, dir := new(disk), t.TempDir()
	d.room.Store(1 << 30)
	l := openOn(t, d, Options{Dir: dir, MaxFileSize: maxLine, Required: true})
	d.noOpen.Store(true)
	n := 0
	for l.Append(sample(n)) == nil {
		n++
	}
	if _, err := os.Stat(filepath.Join(dir, currentName)); err == nil {
		t.Fatal("the file was not rotated")
	}
	mustVerify(t, dir, l.Head())
	d.noOpen.Store(false)
	mustAppend(t, l, 1, 1)
	if r := mustVerify(t, dir, l.Head()); r.Files != 2 || r.Records != uint64(n)+2 || r.Lost != 1 {
		t.Errorf("report %+v, want 2 files with %d records, one of them for the one that was lost", r, n+2)
	}
}

// TestKernelWritesPart has a real kernel write a part of a line: RLIMIT_FSIZE,
// in a process of its own because the limit is one of the process.
func TestKernelWritesPart(t *testing.T) {
	dir := os.Getenv("AUDIT_TEST_DIR")
	if dir == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKernelWritesPart$", "-test.v")
		cmd.Env = append(os.Environ(), "AUDIT_TEST_DIR="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(unix.SIGXFSZ)
	limit := unix.Rlimit{Cur: 10_000, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	l := mustOpen(t, Options{Dir: dir, Required: true})
	n := uint64(0)
	for l.Append(sample(1)) == nil {
		n++
	}
	if err := l.Append(sample(1)); !errors.Is(err, unix.EFBIG) {
		t.Fatalf("append past the limit: %v, want EFBIG", err)
	}
	if r := mustVerify(t, dir, l.Head()); n == 0 || r.Records != n || r.TornBytes != 0 {
		t.Errorf("report %+v, want %d records and no part of another", r, n)
	}
}
