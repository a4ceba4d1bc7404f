package files_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/twin"
)

// fewFiles has this process be able to open few files: a removal that has each folder open on its way down cannot do that for long.
func fewFiles(t *testing.T) {
	t.Helper()
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: old.Max}))
	t.Cleanup(func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) })
}

// hostileTree is a host whose folder /state/cluster somebody else may fill as he likes. Whatever is left of it at the end goes.
func hostileTree(t *testing.T) (tree *files.Tree, root, theirs string) {
	t.Helper()
	tree, root, _ = newTree(t)
	theirs = filepath.Join(root, "state/cluster")
	must(t, os.MkdirAll(theirs, 0o700))
	t.Cleanup(func() {
		if out, err := exec.Command("rm", "-rf", theirs).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return tree, root, theirs
}

// dig makes folders below a folder, n deep, each in the one before: their path is longer than the system takes. What each of them holds
// beside the next is made by beside.
func dig(t *testing.T, folder string, n int, beside func(dir int)) {
	t.Helper()
	at, err := unix.Open(folder, unix.O_DIRECTORY, 0)
	must(t, err)
	for range n {
		if beside != nil {
			beside(at)
		}
		must(t, unix.Mkdirat(at, "d", 0o700))
		next, err := unix.Openat(at, "d", unix.O_DIRECTORY, 0)
		must(t, err)
		must(t, unix.Close(at))
		at = next
	}
	must(t, unix.Close(at))
}

// names makes so many names in a folder: one file, and links to it, which take no space.
func names(t *testing.T, folder string, n int) {
	t.Helper()
	must(t, os.MkdirAll(folder, 0o700))
	at, err := unix.Open(folder, unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(at)
	first := ""
	for i := range n {
		name := strconv.Itoa(i)
		if i%60000 == 0 { // a file has 65,000 names at most
			first = name
			write(t, filepath.Join(folder, name), "")
			continue
		}
		must(t, unix.Linkat(at, first, at, name, 0))
	}
}

// TestATreeOfAStrangersGoes: what somebody who is not root left in a folder of his below root's is removed, however deep or wide it is,
// with few files open and by no link's way out.
func TestATreeOfAStrangersGoes(t *testing.T) {
	for name, fill := range map[string]func(t *testing.T, theirs string){
		"30,000 folders deep": func(t *testing.T, theirs string) { dig(t, theirs, 30000, nil) },
		"deep, and three more folders at each depth": func(t *testing.T, theirs string) {
			dig(t, theirs, 1000, func(dir int) {
				for _, name := range []string{"a", "b", "z"} {
					must(t, unix.Mkdirat(dir, name, 0o700))
					must(t, unix.Mkdirat(dir, name+"/inside", 0))
				}
			})
		},
		"100,000 names wide": func(t *testing.T, theirs string) { names(t, filepath.Join(theirs, "sets"), 100000) },
		"5,000 folders wide": func(t *testing.T, theirs string) {
			for i := range 5000 {
				must(t, os.MkdirAll(filepath.Join(theirs, "sets", strconv.Itoa(i), "x"), 0o700))
			}
		},
		"folders that nobody may enter": func(t *testing.T, theirs string) {
			must(t, os.MkdirAll(filepath.Join(theirs, "a/b/c"), 0o700))
			must(t, os.Chmod(filepath.Join(theirs, "a/b"), 0))
			must(t, os.Chmod(theirs, 0))
		},
		"links, pipes and names that are no text": func(t *testing.T, theirs string) {
			must(t, os.Symlink("../../keep", filepath.Join(theirs, "up")))
			must(t, os.Symlink("/keep", filepath.Join(theirs, "absolute")))
			must(t, unix.Mkfifo(filepath.Join(theirs, "\x1b[2J\n\xff"), 0o600))
			must(t, os.Link(filepath.Join(theirs, "../../keep/file"), filepath.Join(theirs, "linked")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			tree, root, theirs := hostileTree(t)
			write(t, filepath.Join(root, "keep/file"), "kept")
			fill(t, theirs)
			fewFiles(t)
			for range 2 { // the second time there is nothing
				must(t, tree.RemoveAll(t.Context(), "/state/cluster"))
			}
			if left, err := os.ReadDir(filepath.Join(root, "state")); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
			if got, err := os.ReadFile(filepath.Join(root, "keep/file")); err != nil || string(got) != "kept" {
				t.Errorf("outside: %q, %v", got, err)
			}
		})
	}
}

// TestALinkInAFoldersPlaceGoesItself: and not what it leads to.
func TestALinkInAFoldersPlaceGoesItself(t *testing.T) {
	tree, root, theirs := hostileTree(t)
	write(t, filepath.Join(root, "keep/file"), "kept")
	must(t, os.Remove(theirs))
	must(t, os.Symlink("../keep", theirs))
	must(t, tree.RemoveAll(t.Context(), "/state/cluster"))
	if _, err := os.Lstat(theirs); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(root, "keep/file")); err != nil || string(got) != "kept" {
		t.Errorf("outside: %q, %v", got, err)
	}
}

// looked is a context that has something done each time that it is looked at, which is at each name.
type looked struct {
	context.Context
	each func() error
}

func (l looked) Err() error { return l.each() }

// TestATreeThatIsAddedToGoes: sync may still be at work.
func TestATreeThatIsAddedToGoes(t *testing.T) {
	tree, _, theirs := hostileTree(t)
	names(t, filepath.Join(theirs, "sets/one"), 100)
	top, err := os.OpenRoot(theirs)
	must(t, err)
	defer top.Close()
	n := 0
	ctx := looked{t.Context(), func() error {
		if n++; n < 2000 {
			must(t, top.MkdirAll(fmt.Sprintf("more%d/inside", n), 0o700))
		}
		return nil
	}}
	must(t, tree.RemoveAll(ctx, "/state/cluster"))
	if _, err := os.Lstat(theirs); !errors.Is(err, os.ErrNotExist) || n < 2000 {
		t.Errorf("looked %d times: %v", n, err)
	}
}

// TestAStrangerWhoGoesOnWritingDoesNotKeepHisFolder: not even with each folder open that he had.
func TestAStrangerWhoGoesOnWritingDoesNotKeepHisFolder(t *testing.T) {
	const key = "COSENTRY_TEST_STRANGER"
	if theirs := os.Getenv(key); theirs != "" {
		stranger(t, theirs)
		return
	}
	tree, _, theirs := hostileTree(t)
	for dir := filepath.Dir(theirs); dir != os.TempDir(); dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	must(t, os.Chown(theirs, 65534, 65534))
	twin.Start(t, t.Name(), twin.Nobody(), key+"="+theirs)
	must(t, tree.RemoveAll(t.Context(), "/state/cluster"))
	if _, err := os.Lstat(theirs); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

// stranger adds to all his folders at once until he may no more. Without a bound he would win.
func stranger(t *testing.T, theirs string) {
	dirs := []int{}
	for at := theirs; len(dirs) < 50; at = filepath.Join(at, "d") {
		must(t, os.MkdirAll(at, 0o700))
		dir, err := unix.Open(at, unix.O_DIRECTORY, 0)
		must(t, err)
		dirs = append(dirs, dir)
	}
	for _, dir := range dirs {
		go func() {
			for i := range 100 {
				name := strconv.Itoa(i)
				if err := unix.Mkdirat(dir, name, 0o700); err != nil {
					return
				}
				_ = unix.Mkdirat(dir, name+"/inside", 0o700)
			}
		}()
	}
	twin.Tell("adding")
}

func TestRemovingEndsWithItsContext(t *testing.T) {
	tree, _, theirs := hostileTree(t)
	names(t, filepath.Join(theirs, "sets"), 1000)
	ctx, stop := context.WithCancelCause(t.Context())
	n := 0
	err := tree.RemoveAll(looked{ctx, func() error {
		if n++; n == 100 {
			stop(errors.New("enough of it"))
		}
		return ctx.Err()
	}}, "/state/cluster")
	if err == nil || !strings.Contains(err.Error(), "removing /state/cluster") || !strings.Contains(err.Error(), "enough of it") || n > 110 {
		t.Errorf("looked %d times: %v", n, err)
	}
}
