package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines is a slog sink that may be read while it is written.
type said struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *said) log() *slog.Logger { return slog.New(slog.NewJSONHandler(s, nil)) }

// lines are those of one level.
func (s *said) lines(t *testing.T, level string) []map[string]any {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []map[string]any
	for line := range strings.Lines(s.buf.String()) {
		m := map[string]any{}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		if m["level"] == level {
			all = append(all, m)
		}
	}
	return all
}

// until waits for a condition.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !cond() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

// openSoon opens a log that tries again without delay.
func openSoon(t *testing.T, o Options) *Log {
	t.Helper()
	l, err := newLog(o)
	if err != nil {
		t.Fatal(err)
	}
	l.retryAfter, l.store.reopenAfter = time.Millisecond, time.Millisecond
	l.start()
	t.Cleanup(func() { l.Close() })
	return l
}

// A folder that cannot be used must not keep the node from its runtime, and
// what was decided meanwhile must be in the chain once it can be used, or be marked as missing.
func TestLogThatCannotBeOpenedYet(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		mend  func(t *testing.T, dir string)
	}{
		"others may write to the directory": {
			func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o700)); must(t, os.Chmod(dir, 0o777)) },
			func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o700)) },
		},
		"file in place of the directory": {
			func(t *testing.T, dir string) { write(t, dir, nil) },
			func(t *testing.T, dir string) { must(t, os.Remove(dir)) },
		},
		"link in place of the file": {
			func(t *testing.T, dir string) {
				must(t, os.Mkdir(dir, 0o700))
				write(t, dir+".target", nil)
				must(t, os.Symlink(dir+".target", filepath.Join(dir, currentName)))
			},
			func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, currentName))) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, required := range []bool{false, true} {
				dir, told, out := filepath.Join(t.TempDir(), "audit"), new(tally), new(said)
				c.spoil(t, dir)
				l := openSoon(t, told.on(Options{Dir: dir, QueueSize: 2, Required: required, Log: out.log()}))
				if l.Fault() == nil || l.Head() != (Head{}) {
					t.Fatalf("fault %v, head %v of a log that is not open", l.Fault(), l.Head())
				}
				for i := 1; i <= 3; i++ {
					if err := l.Append(sample(i)); (err != nil) != required {
						t.Errorf("required %v, append: %v", required, err)
					}
				}
				want := map[bool]struct {
					queued, lost int
					lines        uint64
					disk         string
				}{false: {2, 1, 3, "1 2 lost 1"}, true: {0, 3, 1, "lost 3"}}[required]
				if n := l.Queued(); n != want.queued {
					t.Errorf("required %v: %d queued, want %d", required, n, want.queued)
				}
				c.mend(t, dir)
				until(t, "the log is opened", func() bool { return l.Fault() == nil })
				until(t, "the end is logged", func() bool { return len(out.lines(t, "INFO")) > 0 })
				// The outage is over with the first record; the others follow.
				until(t, "all is written", func() bool { return l.Head().Seq >= want.lines })
				if got := pods(t, dir); got != want.disk {
					t.Errorf("required %v, on disk: %s, want %s", required, got, want.disk)
				}
				mustVerify(t, dir, l.Head())
				told.want(t, 1, want.lost)
				if e, i := out.lines(t, "ERROR"), out.lines(t, "INFO"); len(e) != 1 || len(i) != 1 {
					t.Errorf("required %v: one line at the begin and one at the end are wanted:\n%v\n%v", required, e, i)
				}
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The record must be in the agent's log whole and with its time, even if its caller gave none.
func TestUnwrittenRecordIsLoggedAsJSON(t *testing.T) {
	dir, out := t.TempDir(), new(said)
	must(t, os.Chmod(dir, 0o777))
	l := mustOpen(t, Options{Dir: dir, Log: out.log()})
	r := sample(3)
	r.Time = time.Time{}
	before := time.Now().Add(-time.Second)
	must(t, l.Append(r))
	lines := out.lines(t, "WARN")
	if len(lines) != 1 {
		t.Fatalf("%d lines, want 1", len(lines))
	}
	text, _ := lines[0]["record"].(string)
	var got Record
	if err := json.Unmarshal([]byte(text), &got); err != nil || got.Pod.Name != "web-3" || got.Time.Before(before) {
		t.Errorf("the record in the log is %q (%v), want that of web-3, now", text, err)
	}
}

func TestSecondOpenerWaitsForTheFirst(t *testing.T) {
	dir := t.TempDir()
	first := mustOpen(t, Options{Dir: dir})
	mustAppend(t, first, 1, 1)
	second := openSoon(t, Options{Dir: dir})
	if err := second.Fault(); !errors.Is(err, ErrLocked) {
		t.Fatalf("second opener: %v, want ErrLocked", err)
	}
	mustAppend(t, second, 2, 2)
	must(t, first.Close())
	if err := first.Append(sample(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v, want ErrClosed", err)
	}
	until(t, "the second has the log", func() bool { return second.Fault() == nil })
	if got := pods(t, dir); got != "1 2" {
		t.Errorf("on disk: %s, want 1 2", got)
	}
	mustVerify(t, dir, second.Head())
}

// Close has a last try, whenever the one before was.
func TestCloseTriesOnceMore(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o777))
	l := mustOpen(t, Options{Dir: dir})
	mustAppend(t, l, 1, 1)
	must(t, os.Chmod(dir, 0o700))
	mustAppend(t, l, 2, 2)
	if l.Head().Seq != 0 {
		t.Error("the directory was tried again at once: it is more work than a write")
	}
	must(t, l.Close())
	if got := pods(t, dir); got != "1 2" {
		t.Errorf("on disk: %s, want 1 2", got)
	}
}

// Once a directory is gone there is nothing to write to but a new one, which is to be locked.
func TestDirectoryTakenAwayWhileOpen(t *testing.T) {
	for name, attack := range map[string]func(t *testing.T, dir string){
		"removed":  func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)) },
		"replaced": func(t *testing.T, dir string) { must(t, os.Rename(dir, dir+".old")); must(t, os.Mkdir(dir, 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "audit")
			l := openSoon(t, Options{Dir: dir})
			mustAppend(t, l, 1, 2)
			attack(t, dir)
			mustAppend(t, l, 3, 3)
			until(t, "the record is written", func() bool { return l.Head().Seq >= 4 && l.Queued() == 0 })
			if got := pods(t, dir); got != "notice 3" {
				t.Errorf("on disk: %s, want notice 3", got)
			}
			if r := mustVerify(t, dir, l.Head()); r.FirstSeq != 3 {
				t.Errorf("report %+v, want the numbers to go on", r)
			}
			if second := mustOpen(t, Options{Dir: dir}); !errors.Is(second.Fault(), ErrLocked) {
				t.Errorf("the new directory is not locked: %v", second.Fault())
			}
		})
	}
}

// A full disk can leave the log between two files; the directory may go meanwhile.
func TestDirectoryRemovedBetweenFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l, err := newLog(Options{Dir: dir})
	must(t, err)
	must(t, l.store.ready())
	must(t, l.store.closeFile())
	must(t, os.RemoveAll(dir))
	for range 2 {
		err = l.store.ready()
	}
	must(t, err)
	must(t, l.store.close())
}

// What is being written must not change: a loss that comes meanwhile needs a marker of its own.
func TestLossWhileAMarkerIsWritten(t *testing.T) {
	q := queue{required: true}
	lose := func() {
		q.push(item{body: []byte("x"), done: make(chan error, 1)})
		if _, lost := q.release(); lost != 1 {
			t.Fatalf("%d lost, want 1", lost)
		}
	}
	lose()
	lose()
	i := q.take()
	lose()
	lose()
	if q.pop(); i.lost != 2 || q.marked() != 2 || len(q.items) != 1 {
		t.Errorf("%d written and %d still to be told in %d markers, want 2, 2 and 1", i.lost, q.marked(), len(q.items))
	}
}

func TestOutageIsLoggedAgainAfterAWhile(t *testing.T) {
	var o outage
	full, gone := errors.New("full"), errors.New("gone")
	for i, c := range []struct {
		err          error
		fresh, again bool
		later        time.Duration
	}{
		{full, true, false, 0},
		{full, false, false, 0},
		{gone, true, false, 0},
		{full, false, false, 0}, // known by now: reasons may take turns
		{full, false, true, repeatAfter},
		{full, false, false, 0},
	} {
		o.said = o.said.Add(-c.later)
		if fresh, again := o.fail(c.err, 1); fresh != c.fresh || again != c.again {
			t.Errorf("%d: fresh %v, again %v, want %v, %v", i, fresh, again, c.fresh, c.again)
		}
	}
	if o.records != 6 {
		t.Errorf("%d records counted, want 6", o.records)
	}
}
