package folders

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/twin"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func opened(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// bushy is a folder, gone, that has so many folders at each of so many depths, and a file in each.
func bushy(t *testing.T, above string, wide, deep int) {
	t.Helper()
	var grow func(at string, deep int)
	grow = func(at string, deep int) {
		must(t, os.Mkdir(at, 0o700))
		must(t, os.WriteFile(filepath.Join(at, "file"), nil, 0o600))
		for i := range wide {
			if deep > 0 {
				grow(filepath.Join(at, fmt.Sprint("folder", i)), deep-1)
			}
		}
	}
	grow(filepath.Join(above, "gone"), deep)
}

func wantGone(t *testing.T, above string) {
	t.Helper()
	if left, err := os.ReadDir(above); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A disk that is full has no room for a further name in a folder, and some file systems have a bound on the folders in one. What cannot
// be moved up is removed where it is.
func TestWhatCannotBeMovedUpGoesAsWell(t *testing.T) {
	for name, tc := range map[string]struct {
		errno unix.Errno
		room  int // names, beside those that were there
	}{
		"a disk that is full":            {unix.ENOSPC, 0},
		"a disk that is nearly full":     {unix.ENOSPC, 2},
		"a share of a disk that is full": {unix.EDQUOT, 0},
		"a bound on folders in a folder": {unix.EMLINK, 1},
	} {
		t.Run(name, func(t *testing.T) {
			above := t.TempDir()
			bushy(t, above, 3, 5)
			moved := 0
			r := &remover{most: 1 << 20, rename: func(fromDir int, from string, toDir int, to string) error {
				if moved++; moved > tc.room {
					return tc.errno
				}
				return unix.Renameat(fromDir, from, toDir, to)
			}}
			must(t, r.removeAll(t.Context(), opened(t, above), "gone"))
			wantGone(t, above)
		})
	}
}

// What is deeper than is gone down into fails with what the system said, after all that could go has gone.
func TestWhereNothingCanBeMovedItEnds(t *testing.T) {
	above := t.TempDir()
	bushy(t, above, 1, 2*maxNested)
	r := &remover{most: 1 << 20, rename: func(int, string, int, string) error { return unix.ENOSPC }}
	if err := r.removeAll(t.Context(), opened(t, above), "gone"); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(above, "gone/file")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that could go: %v", err)
	}
	must(t, RemoveAll(t.Context(), opened(t, above), "gone", 1<<20))
	wantGone(t, above)
}

// adding is a context that has something done each time that it is looked at: at each name.
type adding struct {
	context.Context
	add func()
}

func (a adding) Err() error { a.add(); return nil }

// Somebody who adds more than is removed, with a folder open that was not taken from him in time or as root, gets no work without end.
func TestATreeWithoutEndIsNotRemovedToItsEnd(t *testing.T) {
	above := t.TempDir()
	bushy(t, above, 1, 3)
	const most = 1000
	n := 0
	err := RemoveAll(adding{t.Context(), func() {
		n++
		must(t, os.MkdirAll(filepath.Join(above, "gone", fmt.Sprint("more", n), "x/y"), 0o700))
	}}, opened(t, above), "gone", most)
	if err == nil || !strings.Contains(err.Error(), "after 1000 names there are still more") || n > 3*most {
		t.Errorf("looked at %d names: %v", n, err)
	}
	must(t, RemoveAll(t.Context(), opened(t, above), "gone", 1<<20))
	wantGone(t, above)
}

// What is mounted below is somebody else's: nothing of it goes, and it keeps nothing else from going.
func TestWhatIsMountedBelowStays(t *testing.T) {
	const key = "COSENTRY_TEST_MOUNT_BELOW"
	above := os.Getenv(key)
	if above == "" {
		_, told := twin.Start(t, t.Name(), &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}, key+"="+t.TempDir())
		if told != "well" {
			t.Error(told)
		}
		return
	}
	err := mountedBelow(t, above)
	if err == nil {
		twin.Tell("well")
		return
	}
	twin.Tell(strings.ReplaceAll(err.Error(), "\n", "; "))
}

func mountedBelow(t *testing.T, above string) error {
	bushy(t, above, 2, 3)
	for _, at := range []string{"kept", "gone/top", "gone/folder0/folder1/deep"} {
		must(t, os.MkdirAll(filepath.Join(above, at), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(above, "kept/file"), nil, 0o600))
	at := []string{"gone/top", "gone/folder0/folder1/deep"}
	for _, at := range at {
		must(t, unix.Mount(filepath.Join(above, "kept"), filepath.Join(above, at), "", unix.MS_BIND, ""))
	}
	err := RemoveAll(t.Context(), opened(t, above), "gone", 1<<20)
	if !errors.Is(err, errMounted) {
		return fmt.Errorf("error %w", err)
	}
	fi, err := os.Stat(filepath.Join(above, "kept"))
	if err != nil || fi.Mode().Perm() != 0o755 {
		return fmt.Errorf("what is mounted was changed: %v, %w", fi, err)
	}
	if _, err := os.Stat(filepath.Join(above, "kept/file")); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(above, "gone/folder1")); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("what is beside it is still there: %w", err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if point := strings.Fields(line)[1]; strings.HasPrefix(point, above) {
			if err := unix.Unmount(point, 0); err != nil {
				return err
			}
		}
	}
	return RemoveAll(t.Context(), opened(t, above), "gone", 1<<20)
}
