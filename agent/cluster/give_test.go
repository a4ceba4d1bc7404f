package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const nobody = 65532

// give gives a folder away with no more capabilities than the container has that does it: root's user alone would not do,
// because what is in the folder is not root's.
func give(t *testing.T, dir string) (Given, error) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("files change their owner in this test: root is needed")
	}
	type result struct {
		given Given
		err   error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends with its capabilities
		may := uint32(1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_READ_SEARCH)
		data := [2]unix.CapUserData{{Effective: may, Permitted: may}}
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
			done <- result{err: err}
			return
		}
		given, err := Give(t.Context(), dir, nobody)
		done <- result{given, err}
	}()
	r := <-done
	return r.given, r.err
}

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

// all gives a whole folder to sync, as if it had made it.
func all(t *testing.T, dir string) {
	t.Helper()
	for _, p := range []string{"", Current, Sets, Sets + "/one", Sets + "/one/" + Policies} {
		if err := os.Lchown(filepath.Join(dir, p), nobody, nobody); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// Sync is given its folder, and nothing that a hostile sync could have laid into it.
func TestGive(t *testing.T) {
	outside := t.TempDir()
	secret := filepath.Join(outside, "shadow")
	put(t, secret, "x")
	dir := filepath.Join(t.TempDir(), "state", "cluster")
	if given, err := give(t, dir); err != nil || given != (Given{}) || owner(t, dir) != nobody {
		t.Fatalf("a new one: %+v, %v", given, err)
	}
	put(t, filepath.Join(dir, Sets, "1", Policies, "a.yaml"), "")
	for name, to := range map[string]string{"file": secret, "folder": outside, Current: "sets/1"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if given, err := give(t, dir); err != nil || given != (Given{}) {
			t.Fatalf("%+v, %v", given, err)
		}
	}
	for _, p := range []string{"", "sets", "sets/1", "sets/1/policies", "sets/1/policies/a.yaml", "current", "file"} {
		if uid := owner(t, filepath.Join(dir, p)); uid != nobody {
			t.Errorf("%q belongs to %d", p, uid)
		}
	}
	if owner(t, secret) != 0 || owner(t, outside) != 0 || owner(t, filepath.Dir(dir)) != 0 {
		t.Error("more was given away than the folder")
	}
	for _, uid := range []int{0, -1} {
		if _, err := Give(t.Context(), t.TempDir(), uid); err == nil {
			t.Errorf("given to %d", uid)
		}
	}
	if _, err := Give(t.Context(), "/", nobody); err == nil || owner(t, "/") != 0 {
		t.Error("the root was given away")
	}
}

// What a sync left that was taken over does not keep the next from its work: its folder is set aside, as root's.
func TestAFolderThatIsNotAsSyncLeavesItIsSetAside(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "shadow")
	put(t, secret, "x")
	for name, make := range map[string]func(dir, set string){
		"names": func(dir, _ string) {
			for i := range 3 {
				fill(t, filepath.Join(dir, fmt.Sprint(i)), 50000)
			}
		},
		"depth": func(_, set string) { dig(t, set, 3000) },
		"a file of root with a second name": func(dir, _ string) {
			if err := os.Link(secret, filepath.Join(dir, odd)); err != nil {
				t.Fatal(err)
			}
		},
		"a folder that nobody may read": func(_, set string) {
			if err := os.Chmod(set, 0); err != nil {
				t.Fatal(err)
			}
		},
		"a folder in the link's place": func(dir, _ string) {
			if err := os.Remove(filepath.Join(dir, Current)); err != nil {
				t.Fatal(err)
			}
			put(t, filepath.Join(dir, Current, "x"), "")
		},
		"a folder in the lock's place":  func(dir, _ string) { put(t, filepath.Join(dir, lockFile, "x"), "") },
		"a pipe for a heartbeat":        func(dir, _ string) { special(t, filepath.Join(dir, Heartbeat), unix.S_IFIFO) },
		"a folder for the next to come": func(dir, _ string) { put(t, filepath.Join(dir, newBeat, "x"), "") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := synced(t, map[string]string{closedFile: static("closed", "fail")})
			state := t.TempDir()
			if err := os.Rename(dir, filepath.Join(state, "cluster")); err != nil {
				t.Fatal(err)
			}
			dir = filepath.Join(state, "cluster")
			for n := range 2 {
				if n > 0 { // at it again
					put(t, filepath.Join(dir, Sets, "one", fmt.Sprint(n)), "")
					if err := os.Symlink("sets/one", filepath.Join(dir, Current)); err != nil {
						t.Fatal(err)
					}
				}
				make(dir, filepath.Join(dir, Sets, "one"))
				all(t, dir)
				given, err := give(t, dir)
				if err != nil || given.Left || given.Aside != dir+Aside {
					t.Fatalf("%+v, %v", given, err)
				}
				told(t, errors.New(given.Why))
				if names := list(t, dir); len(names) != 0 || owner(t, dir) != nobody {
					t.Errorf("the new one has %v and is %d's", names, owner(t, dir))
				}
				info, err := os.Stat(given.Aside)
				if err != nil || info.Mode() != os.ModeDir|0o700 || owner(t, given.Aside) != 0 {
					t.Errorf("set aside as %v of %d, %v", info.Mode(), owner(t, given.Aside), err)
				}
				if names := list(t, given.Aside); len(names) == 0 {
					t.Error("nothing of it was kept")
				}
				if diff := cmp.Diff([]string{"cluster", "cluster" + Aside}, list(t, state)); diff != "" {
					t.Error(diff)
				}
			}
			if owner(t, secret) != 0 {
				t.Error("another's file was given away")
			}
			if given, err := give(t, dir); err != nil || given != (Given{}) {
				t.Errorf("once it is as it must be: %+v, %v", given, err)
			}
			mustWrite(t, writer(t, dir), sample())
		})
	}
}
