package breakglass

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var root = Who{UID: 0, LoginUID: 1000}

// place is the path of a glass in a folder like /run/cosentry.
func place(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return Path(filepath.Join(dir, "containerd.sock"))
}

// clock is the clock of a node that a test may set.
type clock struct {
	Moment
	err error
}

// newClock is that of a node which was booted three days ago.
func newClock() *clock {
	return &clock{Moment: Moment{Wall: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Boot: "a-boot", Up: 72 * time.Hour}}
}

func (c *clock) now() (Moment, error) { return c.Moment, c.err }

// pass has time go by.
func (c *clock) pass(d time.Duration) {
	c.Wall = c.Wall.Add(d)
	c.Up += d
}

func mustBegin(t *testing.T, path string, length time.Duration, now Moment) Glass {
	t.Helper()
	g, err := Begin(path, "INC-4711", length, root, now)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGlassThatIsBrokenIsRead(t *testing.T) {
	path, c := place(t), newClock()
	g := mustBegin(t, path, time.Hour, c.Moment)
	got, err := Read(path, c.Moment)
	if err != nil || !same(got, g) || !got.Open(c.Moment) || !got.Until.Equal(c.Wall.Add(time.Hour)) {
		t.Fatalf("%+v, %v; want %+v", got, err, g)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	ended, err := End(path, Who{UID: 0, LoginUID: -1}, c.Moment)
	if err != nil || ended.Ended == nil {
		t.Fatalf("%+v, %v", ended, err)
	}
	if got, err = Read(path, c.Moment); err != nil || got.Open(c.Moment) || got.Ended.By.LoginUID != -1 {
		t.Errorf("ended, and read as %+v, %v", got, err)
	}
	if _, err := End(path, root, c.Moment); !errors.Is(err, ErrWhole) {
		t.Errorf("ended twice: %v", err)
	}
}

func TestGlassIsNotBrokenWithoutReasonOrEnd(t *testing.T) {
	path := place(t)
	for name, try := range map[string]struct {
		reason string
		length time.Duration
	}{
		"no reason":             {"", time.Hour},
		"blanks for a reason":   {" \t", time.Hour},
		"a reason without end":  {strings.Repeat("x", MaxReason+1), time.Hour},
		"a reason of no text":   {"a\xff", time.Hour},
		"more than a day":       {"why", MaxTime + time.Second},
		"no time":               {"why", 0},
		"a time that went back": {"why", -time.Hour},
	} {
		if g, err := Begin(path, try.reason, try.length, root, newClock().Moment); err == nil {
			t.Errorf("%s: %+v", name, g)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a file: %v", err)
	}
}

// Whoever is not root must not be able to have anything run, whatever he can put where.
func TestFilesThatCountForNothing(t *testing.T) {
	c := newClock()
	good := func(t *testing.T, path string) []byte {
		mustBegin(t, path, time.Hour, c.Moment)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	change := func(f func(g map[string]any)) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			var g map[string]any
			if err := json.Unmarshal(good(t, path), &g); err != nil {
				t.Fatal(err)
			}
			f(g)
			data, err := json.Marshal(g)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	must := func(t *testing.T, errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	for name, prepare := range map[string]func(t *testing.T, path string){
		"another user's file":           func(t *testing.T, path string) { good(t, path); must(t, os.Chown(path, 12345, 0)) },
		"a file that a group may write": func(t *testing.T, path string) { good(t, path); must(t, os.Chmod(path, 0o660)) },
		"a file that all may write":     func(t *testing.T, path string) { good(t, path); must(t, os.Chmod(path, 0o602)) },
		"a folder that all may write":   func(t *testing.T, path string) { good(t, path); must(t, os.Chmod(filepath.Dir(path), 0o1777)) },
		"another user's folder":         func(t *testing.T, path string) { good(t, path); must(t, os.Chown(filepath.Dir(path), 12345, 0)) },
		"a link to root's file elsewhere": func(t *testing.T, path string) {
			good(t, path)
			must(t, os.Rename(path, path+".real"), os.Symlink(path+".real", path))
		},
		"a second name of root's file": func(t *testing.T, path string) { good(t, path); must(t, os.Link(path, path+".other")) },
		"a pipe":                       func(t *testing.T, path string) { must(t, unix.Mkfifo(path, 0o600)) },
		"a folder":                     func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) },
		"an empty file":                func(t *testing.T, path string) { must(t, os.WriteFile(path, nil, 0o600)) },
		"half a file": func(t *testing.T, path string) {
			must(t, os.WriteFile(path, good(t, path)[:40], 0o600))
		},
		"something after it": func(t *testing.T, path string) {
			must(t, os.WriteFile(path, append(good(t, path), "{}"...), 0o600))
		},
		"a file without end": func(t *testing.T, path string) {
			must(t, os.WriteFile(path, append(good(t, path), strings.Repeat(" ", maxFile)...), 0o600))
		},
		"a field that nobody knows": change(func(g map[string]any) { g["for"] = "ever" }),
		"a glass for two days": change(func(g map[string]any) {
			g["until"], g["untilUp"] = c.Wall.Add(48*time.Hour), c.Up+48*time.Hour
		}),
		"a glass for longer than it says": change(func(g map[string]any) { g["untilUp"] = c.Up + 2*time.Hour }),
		"a glass that begins later": change(func(g map[string]any) {
			g["begunUp"], g["untilUp"] = c.Up+2*time.Hour, c.Up+3*time.Hour
		}),
		"a glass from before the boot": change(func(g map[string]any) { g["begunUp"], g["untilUp"] = -time.Hour, 0 }),
		"times that run over":          change(func(g map[string]any) { g["untilUp"] = int64(math.MinInt64) + 1 }),
		"the wall's time alone": change(func(g map[string]any) {
			delete(g, "boot")
			delete(g, "begunUp")
			delete(g, "untilUp")
		}),
		"no boot":      change(func(g map[string]any) { delete(g, "boot") }),
		"no beginning": change(func(g map[string]any) { delete(g, "begun") }),
		"no end":       change(func(g map[string]any) { delete(g, "untilUp") }),
		"no reason":    change(func(g map[string]any) { delete(g, "reason") }),
	} {
		t.Run(name, func(t *testing.T) {
			path := place(t)
			prepare(t, path)
			if g, err := Read(path, c.Moment); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it counts: %+v, %v", g, err)
			}
			w := NewWatch(Options{Path: path, Now: c.now, Record: func(string) {}, Log: slog.New(slog.DiscardHandler)})
			if _, fault := w.State(); w.Open() || fault == "" {
				t.Errorf("open %v, fault %q", w.Open(), fault)
			}
		})
	}
}

// watched is a Watch, and what it recorded since it was asked last.
func watched(path string, c *clock) (*Watch, func() string) {
	var said []string
	w := NewWatch(Options{Path: path, Now: c.now, Record: func(words string) { said = append(said, words) }, Log: slog.New(slog.DiscardHandler)})
	return w, func() string {
		all := strings.Join(said, "\n")
		said = nil
		return all
	}
}

func wantState(t *testing.T, w *Watch, open bool, recorded string, words ...string) {
	t.Helper()
	if w.Open() != open {
		t.Errorf("open is %v, want %v", w.Open(), open)
	}
	if len(words) == 0 && recorded != "" {
		t.Errorf("recorded %q", recorded)
	}
	for _, word := range words {
		if !strings.Contains(recorded, word) {
			t.Errorf("the record does not say %q: %q", word, recorded)
		}
	}
}

func TestBeginningAndEndAreRecordedWithWhoAndWhy(t *testing.T) {
	path, c := place(t), newClock()
	w, recorded := watched(path, c)
	wantState(t, w, false, recorded())
	g := mustBegin(t, path, time.Hour, c.Moment)
	w.look(false)
	wantState(t, w, true, recorded(), "everything is let through", "INC-4711", "uid 0 (logged in as uid 1000)", g.Until.Format(time.RFC3339))
	w.look(false)
	wantState(t, w, true, recorded())

	if _, err := End(path, Who{UID: 0, LoginUID: 2000}, c.Moment); err != nil {
		t.Fatal(err)
	}
	w.look(false)
	wantState(t, w, false, recorded(), "whole again", "logged in as uid 2000", "INC-4711")
	w.look(false)
	wantState(t, w, false, recorded())
}

func TestGlassEndsByItself(t *testing.T) {
	path, c := place(t), newClock()
	w, recorded := watched(path, c)
	mustBegin(t, path, time.Hour, c.Moment)
	w.look(false)
	recorded()
	c.pass(time.Hour - 1)
	wantState(t, w, true, recorded())
	c.pass(1)
	wantState(t, w, false, recorded()) // at once, and not with the next look
	w.look(false)
	wantState(t, w, false, recorded(), "its time is over")
	w.look(false)
	wantState(t, w, false, recorded())
}

// Whoever answers for the network's time sets the node's clock. It is for people: nothing goes by it.
func TestClockThatIsSetLengthensAndShortensNothing(t *testing.T) {
	for name, by := range map[string]time.Duration{"back": -30 * time.Minute, "back for years": -30000 * time.Hour, "ahead": 5 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			path, c := place(t), newClock()
			mustBegin(t, path, time.Hour, c.Moment)
			w, recorded := watched(path, c)
			recorded()
			c.pass(time.Minute)
			c.Wall = c.Wall.Add(by)
			w.look(false)
			wantState(t, w, true, recorded())
			started, said := watched(path, c)
			wantState(t, started, true, said(), "still broken at this start")

			c.pass(59 * time.Minute)
			c.Wall = c.Wall.Add(by)
			w.look(false)
			wantState(t, w, false, recorded(), "its time is over")
		})
	}
}

// A glass that is over stays over, though its file stays and the clock is set back into its hour: for the agent that saw
// it end, for the one that comes after, and after a boot, should the file have outlived it.
func TestGlassThatIsOverStaysOver(t *testing.T) {
	path, c := place(t), newClock()
	g := mustBegin(t, path, time.Hour, c.Moment)
	w, recorded := watched(path, c)
	recorded()
	c.pass(5 * 24 * time.Hour)
	w.look(false)
	wantState(t, w, false, recorded(), "its time is over")

	c.Wall = g.Begun.Add(time.Minute)
	w.look(false)
	wantState(t, w, false, recorded())
	again, said := watched(path, c)
	wantState(t, again, false, said(), "was over before this start")
	again.look(false)
	wantState(t, again, false, said())

	c.Boot, c.Up = "another-boot", g.BegunUp+time.Minute
	booted, said := watched(path, c)
	wantState(t, booted, false, said(), "was over before this start")
	if _, err := End(path, root, c.Moment); !errors.Is(err, ErrWhole) {
		t.Errorf("ended in another boot: %v", err)
	}
	c.Up = 0 // and one that is younger than the other was
	booted.look(false)
	wantState(t, booted, false, said())
}

func TestGlassIsWholeWithoutAClock(t *testing.T) {
	path, c := place(t), newClock()
	mustBegin(t, path, time.Hour, c.Moment)
	w, recorded := watched(path, c)
	recorded()
	c.err = errors.New("no clock")
	wantState(t, w, false, recorded())
	w.look(false)
	wantState(t, w, false, recorded(), "whole again", "no clock")
	started, said := watched(path, c)
	wantState(t, started, false, said())
}

// The kernel's own count is not that of the process or of the time awake.
func TestNowCountsFromTheBoot(t *testing.T) {
	count := func() time.Duration {
		var up unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
			t.Fatal(err)
		}
		return time.Duration(up.Nano())
	}
	before := count()
	now, err := Now()
	if err != nil || now.Up < before || now.Up > count() || len(now.Boot) != 36 || now.Wall.IsZero() {
		t.Errorf("%+v, %v", now, err)
	}
	if again, err := Now(); err != nil || again.Boot != now.Boot || again.Up < now.Up {
		t.Errorf("%+v, then %+v (%v)", now, again, err)
	}
}

func TestGlassAtTheAgentsStart(t *testing.T) {
	path, c := place(t), newClock()
	mustBegin(t, path, time.Hour, c.Moment)
	w, recorded := watched(path, c)
	wantState(t, w, true, recorded(), "still broken at this start")
	c.pass(2 * time.Hour)
	w, recorded = watched(path, c)
	wantState(t, w, false, recorded(), "was over before this start")
}

func TestWhatEndsAGlass(t *testing.T) {
	c := newClock()
	for name, tc := range map[string]struct {
		do    func(path string) error
		words string
		open  bool
	}{
		"its file is removed":     {os.Remove, "its file was removed", false},
		"its file is given away":  {func(path string) error { return os.Chown(path, 12345, 0) }, "counts for nothing", false},
		"its file is overwritten": {func(path string) error { return os.WriteFile(path, []byte("{"), 0o600) }, "counts for nothing", false},
		"another takes its place": {func(path string) error {
			_, err := Begin(path, "INC-4712", time.Hour, root, c.Moment)
			return err
		}, "INC-4712", true},
		"another that was ended, as well": {func(path string) error {
			_, err := Begin(path, "INC-4712", time.Hour, root, c.Moment)
			if err == nil {
				_, err = End(path, root, c.Moment)
			}
			return err
		}, "another took its place", false},
	} {
		t.Run(name, func(t *testing.T) {
			path := place(t)
			mustBegin(t, path, time.Hour, c.Moment)
			w, recorded := watched(path, c)
			recorded()
			if err := tc.do(path); err != nil {
				t.Fatal(err)
			}
			w.look(false)
			wantState(t, w, tc.open, recorded(), "whole again", tc.words)
		})
	}
}

func TestGlassIsBrokenOnlyWhereTheFolderIsRoots(t *testing.T) {
	path, now := place(t), newClock().Moment
	if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Begin(path, "why", time.Hour, root, now); err == nil {
		t.Error("in a folder that all may write to")
	}
	if _, err := Begin(filepath.Join(t.TempDir(), "none", "x"), "why", time.Hour, root, now); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("in no folder: %v", err)
	}
}
