package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/folders"
	"github.com/cosentry/cosentry/verify/limits"
)

// fill makes n names in a folder: one file, and links to it, which take no space. A file has 65,000 names at most.
func fill(t *testing.T, folder string, n int) {
	t.Helper()
	fillNames(t, folder, n, func(i int) string { return strconv.Itoa(i) })
}

func fillNames(t *testing.T, folder string, n int, name func(int) string) {
	t.Helper()
	put(t, filepath.Join(folder, name(0)), "")
	fd, err := unix.Open(folder, unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for i := range n {
		if err := unix.Linkat(fd, name(0), fd, name(i+1), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// dig makes folders below a folder, n deep, each in the one before: their path is longer than the system takes.
func dig(t *testing.T, folder string, n int) {
	t.Helper()
	dir, err := os.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if err := unix.Mkdirat(int(dir.Fd()), "d", 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := folders.Open(dir, "d")
		if err != nil {
			t.Fatal(err)
		}
		dir.Close()
		dir = next
	}
	dir.Close()
}

const odd = "\x1b[2J\n\xff\u202e\"'$(id)"

// hostile are sets in which a sync that was taken over makes the reader, who is root, work without end.
var hostile = map[string]func(t *testing.T, set string){
	"names": func(t *testing.T, set string) { fill(t, filepath.Join(set, Policies), 60000) },
	"long names": func(t *testing.T, set string) {
		fillNames(t, filepath.Join(set, Policies), 30000, func(i int) string { return fmt.Sprintf("%0255d", i) })
	},
	"names that nobody counts, because others are read first": func(t *testing.T, set string) {
		for _, folder := range []string{"!", "!/!", "!/!/!"} {
			fill(t, filepath.Join(set, folder), 20000)
		}
	},
	"folders": func(t *testing.T, set string) {
		const files = 16000
		fill(t, filepath.Join(set, Policies), files)
		for i := range limits.SyncedEntries.Max() - files {
			if err := os.Mkdir(filepath.Join(set, fmt.Sprint(i)), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	},
	"depth":       func(t *testing.T, set string) { dig(t, set, 3000) },
	"a long name": func(t *testing.T, set string) { put(t, filepath.Join(set, strings.Repeat(odd, 10)), "") },
	"a folder of a long name": func(t *testing.T, set string) {
		put(t, filepath.Join(set, Secrets, strings.Repeat(odd, 10), strings.Repeat("\xff", 255), "x"), "")
	},
	"a file without content of any size": func(t *testing.T, set string) {
		file := filepath.Join(set, closedFile)
		for size := int64(1) << 62; ; size /= 2 {
			if err := os.Truncate(file, size); err == nil {
				return
			} else if size <= limits.SyncedSet.Max() {
				t.Fatal(err)
			}
		}
	},
	"a pipe": func(t *testing.T, set string) { special(t, filepath.Join(set, odd), unix.S_IFIFO) },
	"a pipe, as namespaces": func(t *testing.T, set string) {
		special(t, filepath.Join(set, Namespaces), unix.S_IFIFO)
	},
	"a socket": func(t *testing.T, set string) { special(t, filepath.Join(set, Policies, odd), unix.S_IFSOCK) },
	"a device": func(t *testing.T, set string) {
		special(t, filepath.Join(set, Policies, "clusterimagepolicy.zero.yaml"), unix.S_IFCHR) // /dev/zero
	},
}

func special(t *testing.T, path string, kind uint32) {
	t.Helper()
	if err := unix.Mknod(path, kind|0o600, int(unix.Mkdev(1, 5))); err != nil {
		t.Fatal(err)
	}
}

// An agent that is killed for its memory, or takes minutes, does the same at its next start, and the node has lost its
// way to its runtime. So what is read of a set is counted, in names, in bytes and in depth.
func TestASetWithoutEndIsNotReadToItsEnd(t *testing.T) {
	for name, make := range hostile {
		t.Run(name, func(t *testing.T) {
			dir := synced(t, map[string]string{closedFile: static("closed", "fail")})
			set := filepath.Join(dir, Sets, "one")
			make(t, set)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			l, err := Load(t.Context(), dir, nil)
			runtime.ReadMemStats(&after)
			if err == nil || errors.Is(err, ErrNone) {
				t.Fatalf("%+v, %v", l, err)
			}
			told(t, err)
			// All that was ever allocated, whether or not it was freed again.
			if mb := int64(after.TotalAlloc-before.TotalAlloc) >> 20; mb > 96 {
				t.Errorf("%d MiB were allocated", mb)
			}
			f, err := os.Open(set)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			r := newReading()
			if err := r.folder(t.Context(), f, "", 1); err == nil && name != "a long name" && name != "a folder of a long name" {
				t.Error("it was read")
			}
			if r.seen > limits.SyncedEntries.Max()+1 {
				t.Errorf("%d names were looked at", r.seen)
			}
		})
	}
}

// told checks that a message is short, and holds nothing that a terminal or a log would take for something else.
func told(t *testing.T, err error) {
	t.Helper()
	text := err.Error()
	if len(text) > 2000 || strings.ContainsFunc(text, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
		t.Errorf("told in %d bytes: %q", len(text), text)
	}
}

// hooked is a context that has something done each time that it is looked at: at each name that is read.
type hooked struct {
	context.Context
	each func(n int) error
	n    *int
}

func (h hooked) Err() error { *h.n++; return h.each(*h.n) }

func hook(t *testing.T, each func(n int) error) hooked { return hooked{t.Context(), each, new(int)} }

func TestReadingEndsWithItsTime(t *testing.T) {
	dir := synced(t, nil)
	fill(t, filepath.Join(dir, Sets, "one", Policies), 1000)
	ctx := hook(t, func(n int) error {
		if n > 100 {
			return context.DeadlineExceeded
		}
		return nil
	})
	if _, err := Load(ctx, dir, nil); err == nil || !strings.Contains(err.Error(), "took too long") || *ctx.n > 102 {
		t.Errorf("looked at its time %d times: %v", *ctx.n, err)
	}
}

// What is replaced while it is read leads nowhere else, and what goes meanwhile is not left out.
func TestAFolderThatIsReplacedWhileItIsRead(t *testing.T) {
	outside := t.TempDir()
	put(t, filepath.Join(outside, "clusterimagepolicy.open.yaml"), static("open", "pass"))
	// It is done when the name of the folder is read, or, of what is in it, when that is.
	for name, change := range map[string]func(dir, set string) error{
		"by a link": func(_, set string) error {
			return errors.Join(os.RemoveAll(filepath.Join(set, Policies)), os.Symlink(outside, filepath.Join(set, Policies)))
		},
		"by nothing": func(_, set string) error { return os.RemoveAll(filepath.Join(set, Policies)) },
		"by a pipe": func(_, set string) error {
			return errors.Join(os.RemoveAll(filepath.Join(set, Policies)), unix.Mkfifo(filepath.Join(set, Policies), 0o600))
		},
		"and its file is gone": func(_, set string) error { return os.Remove(filepath.Join(set, closedFile)) },
		"and another set is in force": func(dir, _ string) error {
			current := filepath.Join(dir, Current)
			return errors.Join(os.Remove(current), os.Symlink(Sets+"/two", current))
		},
		"and the folder of sets is gone": func(dir, _ string) error { return os.RemoveAll(filepath.Join(dir, Sets)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := synced(t, map[string]string{closedFile: static("closed", "fail")})
			ctx := hook(t, func(n int) error {
				if n != 1 && name != "and its file is gone" || n != 2 && name == "and its file is gone" {
					return nil
				}
				return change(dir, filepath.Join(dir, Sets, "one"))
			})
			if l, err := Load(ctx, dir, nil); err == nil || strings.Contains(err.Error(), "took too long") {
				t.Errorf("%+v, %v", l, err)
			} else {
				told(t, err)
			}
		})
	}
}

// A link to what is in the folder could have one set read for another, or go in circles.
func TestNoLinkIsFollowedWithinTheFolder(t *testing.T) {
	for _, name := range []string{Sets, Sets + "/one"} {
		dir := synced(t, map[string]string{closedFile: static("closed", "fail")})
		at := filepath.Join(dir, name)
		if err := errors.Join(os.Rename(at, filepath.Join(dir, "beside")), os.Symlink(filepath.Join(dir, "beside"), at)); err != nil {
			t.Fatal(err)
		}
		if l, err := Load(t.Context(), dir, nil); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

// What sync finds in the place of old sets does not keep it from its work.
func TestOldSetsAreRemovedWhateverIsInThem(t *testing.T) {
	dir := t.TempDir()
	w := writer(t, dir)
	mustWrite(t, w, sample())
	w.Close()
	for _, name := range []string{newSet, "old"} {
		set := filepath.Join(dir, Sets, name)
		fill(t, set, 1000)
		dig(t, set, 1000)
		if err := os.Chmod(set, 0); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(dir, Sets, oldSets), "something else in its place")
	w = writer(t, dir)
	before, err := currentID(w.top)
	if err != nil {
		t.Fatal(err)
	}
	id := mustWrite(t, w, Contents{Namespaces: []byte("a")})
	if diff := cmp.Diff(sorted(before, id), list(t, filepath.Join(dir, Sets))); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsRemovedAtOnceIsBounded(t *testing.T) {
	trash := filepath.Join(t.TempDir(), "trash")
	fill(t, filepath.Join(trash, "a"), 1000)
	dig(t, trash, 1000)
	f, err := os.Open(trash)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rounds := 0
	for done := false; !done; rounds++ {
		if done, err = folders.Empty(t.Context(), f, 500); err != nil || rounds > 20 {
			t.Fatal(rounds, err)
		}
	}
	// A thousand names, and a thousand folders of which each is moved once.
	if names := list(t, trash); len(names) != 0 || rounds < 4 {
		t.Errorf("%d names are left after %d rounds", len(names), rounds)
	}
}

// Sync does not write what the agent would not read.
func TestTheFoldersOfASetCount(t *testing.T) {
	c := Contents{Secrets: map[Object]map[string][]byte{}}
	for i := range limits.SyncedEntries.Max()/3 + 1 {
		c.Secrets[Object{fmt.Sprintf("n%d", i), "s"}] = map[string][]byte{"k": nil}
	}
	var exceeded *limits.Exceeded
	if _, err := c.files(); !errors.As(err, &exceeded) || exceeded.Bound != limits.SyncedEntries {
		t.Error(err)
	}
}
