package host_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mounting runs the test in a process of its own that may mount what nobody else sees, and says whether this is that process.
func mounting(t *testing.T) bool {
	t.Helper()
	const key = "COSENTRY_TEST_MOUNTING"
	if os.Getenv(key) != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), key+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// disk has the host's folder p be a disk of so many bytes, with what was there.
func (w *world) disk(p, size string) {
	w.t.Helper()
	here := w.path(p)
	must(w.t, os.MkdirAll(here, 0o755))
	copied := filepath.Join(w.t.TempDir(), "copy")
	must(w.t, os.CopyFS(copied, os.DirFS(here)))
	must(w.t, unix.Mount("tmpfs", here, "tmpfs", 0, "mode=0755,size="+size))
	w.t.Cleanup(func() { _ = unix.Unmount(here, unix.MNT_DETACH) })
	must(w.t, os.CopyFS(here, os.DirFS(copied)))
}

// fill leaves so many KiB of the disk at p.
func (w *world) fill(p string, leave int) {
	w.t.Helper()
	f, err := os.Create(w.path(filepath.Join(p, "filling")))
	must(w.t, err)
	defer f.Close()
	page := make([]byte, 4096)
	for {
		var st unix.Statfs_t
		must(w.t, unix.Fstatfs(int(f.Fd()), &st))
		if int(st.Bavail)*int(st.Bsize)>>10 <= leave {
			return
		}
		_, err := f.Write(page)
		must(w.t, err)
	}
}

// readOnly has nothing be written below p.
func (w *world) readOnly(p string) {
	w.t.Helper()
	here := w.path(p)
	must(w.t, unix.Mount(here, here, "", unix.MS_BIND, ""))
	w.t.Cleanup(func() { _ = unix.Unmount(here, unix.MNT_DETACH) })
	must(w.t, unix.Mount("", here, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
}
