package breakglass

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
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

func mustBegin(t *testing.T, path string, length time.Duration) Glass {
	t.Helper()
	g, err := Begin(path, "INC-4711", length, root)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGlassThatIsBrokenIsRead(t *testing.T) {
	path := place(t)
	g := mustBegin(t, path, time.Hour)
	got, err := Read(path, time.Now())
	if err != nil || !same(got, g) || !got.Open(time.Now()) || got.Open(g.Until) {
		t.Fatalf("%+v, %v; want %+v", got, err, g)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	ended, err := End(path, Who{UID: 0, LoginUID: -1})
	if err != nil || ended.Ended == nil {
		t.Fatalf("%+v, %v", ended, err)
	}
	if got, err = Read(path, time.Now()); err != nil || got.Open(time.Now()) || got.Ended.By.LoginUID != -1 {
		t.Errorf("ended, and read as %+v, %v", got, err)
	}
	if _, err := End(path, root); !errors.Is(err, ErrWhole) {
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
		if g, err := Begin(path, try.reason, try.length, root); err == nil {
			t.Errorf("%s: %+v", name, g)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a file: %v", err)
	}
}

// Whoever is not root must not be able to have anything run, whatever he can put where.
func TestFilesThatCountForNothing(t *testing.T) {
	good := func(t *testing.T, path string) []byte {
		mustBegin(t, path, time.Hour)
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
		"a glass for two days":      change(func(g map[string]any) { g["until"] = time.Now().Add(48 * time.Hour) }),
		"a glass that begins later": change(func(g map[string]any) {
			g["begun"], g["until"] = time.Now().Add(2*time.Hour), time.Now().Add(3*time.Hour)
		}),
		"no beginning": change(func(g map[string]any) { delete(g, "begun") }),
		"no end":       change(func(g map[string]any) { delete(g, "until") }),
		"no reason":    change(func(g map[string]any) { delete(g, "reason") }),
	} {
		t.Run(name, func(t *testing.T) {
			path := place(t)
			prepare(t, path)
			if g, err := Read(path, time.Now()); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it counts: %+v, %v", g, err)
			}
			w := NewWatch(Options{Path: path, Record: func(string) {}, Log: slog.New(slog.DiscardHandler)})
			if _, fault := w.State(); w.Open() || fault == "" {
				t.Errorf("open %v, fault %q", w.Open(), fault)
			}
		})
	}
}

// watched is a Watch, and what it recorded since it was asked last.
func watched(path string) (*Watch, func() string) {
	var said []string
	w := NewWatch(Options{Path: path, Record: func(words string) { said = append(said, words) }, Log: slog.New(slog.DiscardHandler)})
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
	path := place(t)
	w, recorded := watched(path)
	wantState(t, w, false, recorded())
	g := mustBegin(t, path, time.Hour)
	w.look(time.Now(), false)
	wantState(t, w, true, recorded(), "everything is let through", "INC-4711", "uid 0 (logged in as uid 1000)", g.Until.Format(time.RFC3339))
	w.look(time.Now(), false)
	wantState(t, w, true, recorded())

	if _, err := End(path, Who{UID: 0, LoginUID: 2000}); err != nil {
		t.Fatal(err)
	}
	w.look(time.Now(), false)
	wantState(t, w, false, recorded(), "whole again", "logged in as uid 2000", "INC-4711")
	w.look(time.Now(), false)
	wantState(t, w, false, recorded())
}

func TestGlassEndsByItself(t *testing.T) {
	path := place(t)
	w, recorded := watched(path)
	g := mustBegin(t, path, time.Hour)
	w.look(time.Now(), false)
	recorded()
	w.look(g.Until, false)
	wantState(t, w, false, recorded(), "its time is over")
	// The clock is set back: what was over stays so.
	w.look(g.Begun, false)
	wantState(t, w, false, recorded())
}

// An end that is on the wall clock alone could be put off by setting the clock back, again and again.
func TestClockThatIsSetBackLengthensNothing(t *testing.T) {
	path := place(t)
	mustBegin(t, path, time.Hour)
	w, _ := watched(path)
	o := w.open.Load()
	if left := time.Until(o.end); left > time.Hour || !strings.Contains(o.end.String(), " m=") {
		t.Errorf("the end is %v away and not on the monotonic clock: %v", left, o.end)
	}
}

func TestGlassAtTheAgentsStart(t *testing.T) {
	path := place(t)
	g := mustBegin(t, path, time.Hour)
	w, recorded := watched(path)
	wantState(t, w, true, recorded(), "still broken at this start")

	g.Begun, g.Until = g.Begun.Add(-2*time.Hour), g.Until.Add(-2*time.Hour)
	if err := write(path, g); err != nil {
		t.Fatal(err)
	}
	w, recorded = watched(path)
	wantState(t, w, false, recorded(), "was over before this start")
}

func TestWhatEndsAGlass(t *testing.T) {
	for name, tc := range map[string]struct {
		do    func(path string) error
		words string
		open  bool
	}{
		"its file is removed":     {os.Remove, "its file was removed", false},
		"its file is given away":  {func(path string) error { return os.Chown(path, 12345, 0) }, "counts for nothing", false},
		"its file is overwritten": {func(path string) error { return os.WriteFile(path, []byte("{"), 0o600) }, "counts for nothing", false},
		"another takes its place": {func(path string) error { _, err := Begin(path, "INC-4712", time.Hour, root); return err }, "INC-4712", true},
		"another that was ended, as well": {func(path string) error {
			return write(path, Glass{Begun: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour), Reason: "x", By: root, Ended: &Ended{}})
		}, "another took its place", false},
	} {
		t.Run(name, func(t *testing.T) {
			path := place(t)
			mustBegin(t, path, time.Hour)
			w, recorded := watched(path)
			recorded()
			if err := tc.do(path); err != nil {
				t.Fatal(err)
			}
			w.look(time.Now(), false)
			wantState(t, w, tc.open, recorded(), "whole again", tc.words)
		})
	}
}

func TestGlassIsBrokenOnlyWhereTheFolderIsRoots(t *testing.T) {
	path := place(t)
	if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Begin(path, "why", time.Hour, root); err == nil {
		t.Error("in a folder that all may write to")
	}
	if _, err := Begin(filepath.Join(t.TempDir(), "none", "x"), "why", time.Hour, root); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("in no folder: %v", err)
	}
}
