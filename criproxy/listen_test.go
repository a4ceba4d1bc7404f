package criproxy_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cosentry/cosentry/criproxy"
)

func TestListen(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "cri.sock")
	// What the process' umask would give must not matter.
	defer syscall.Umask(syscall.Umask(0))
	l, err := criproxy.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := l.Addr().String(); got != path {
		t.Errorf("the address is %s", got)
	}
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fi.Mode(), fs.ModeSocket|0o660; got != want {
		t.Errorf("mode %v, want %v", got, want)
	}
	if st := fi.Sys().(*syscall.Stat_t); int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid() {
		t.Errorf("owner %d:%d", st.Uid, st.Gid)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "cri.sock.lock" {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if fi, err := os.Stat(path + ".lock"); err != nil || fi.Mode() != 0o600 {
		t.Errorf("lock file: %v, %v; whoever can open it can keep the agent from starting", fi.Mode(), err)
	}
}

// What is for root is not for root's group, in which a container may be whose user is somebody else.
func TestListenOwnIsForNoGroup(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(tempDir(t), "own.sock")
	l, err := criproxy.ListenOwn(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if fi, err := os.Lstat(path); err != nil || fi.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

// A folder with the set-group-ID bit gives its group to what is made in it.
func TestListenOwnGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root to make a folder of another group")
	}
	dir := tempDir(t)
	if err := errors.Join(os.Chown(dir, 0, 12345), os.Chmod(dir, 0o755|fs.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "cri.sock")
	l, err := criproxy.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); int(st.Gid) != os.Getegid() {
		t.Errorf("the socket is of group %d", st.Gid)
	}
}

// staleSocket leaves a socket file on which nobody listens.
func staleSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestListenReplacesStaleSocket(t *testing.T) {
	path := filepath.Join(tempDir(t), "cri.sock")
	staleSocket(t, path)
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	l, err := criproxy.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if fi, err := os.Lstat(path); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}

func TestListenRefuses(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, path string){
		"a socket in use": func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		},
		"a datagram socket in use": func(t *testing.T, path string) {
			c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		},
		"a file": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a folder": func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"a symbolic link to a stale socket": func(t *testing.T, path string) {
			staleSocket(t, path+"2")
			if err := os.Symlink(path+"2", path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(tempDir(t), "cri.sock")
			prepare(t, path)
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if l, err := criproxy.Listen(path); err == nil {
				l.Close()
				t.Fatal("Listen took its place")
			} else if !strings.Contains(err.Error(), path) {
				t.Errorf("%v does not name the path", err)
			}
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("what was there has changed (%v)", err)
			}
		})
	}
	for name, path := range map[string]string{"a relative path": "cri.sock", "a missing folder": filepath.Join(tempDir(t), "x", "cri.sock")} {
		t.Run(name, func(t *testing.T) {
			if l, err := criproxy.Listen(path); err == nil {
				l.Close()
				t.Error("Listen accepted it")
			}
		})
	}
}

// Any user of the node may open the socket's folder, and so may hold a lock on it.
func TestListenDoesNotWaitForTheFolder(t *testing.T) {
	dir := tempDir(t)
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	have := make(chan error, 1)
	go func() {
		l, err := criproxy.Listen(filepath.Join(dir, "cri.sock"))
		if err == nil {
			err = l.Close()
		}
		have <- err
	}()
	if err := wait(t, "Listen to return", have); err != nil {
		t.Error(err)
	}
}

// What others can open, they can lock: such a lock file is not waited for, and neither are a
// pipe or a link in its place.
func TestListenRefusesALockFileOfOthers(t *testing.T) {
	for name, prepare := range map[string]func(path string) error{
		"readable by all":      func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o644)) },
		"of another user":      func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, 12345, 0)) },
		"a symbolic link":      func(path string) error { return os.Symlink("/dev/null", path) },
		"a pipe nobody writes": func(path string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(tempDir(t), "cri.sock")
			if err := prepare(path + ".lock"); err != nil {
				t.Fatal(err)
			}
			if l, err := criproxy.Listen(path); err == nil {
				l.Close()
				t.Error("Listen took it")
			} else if !strings.Contains(err.Error(), path+".lock") {
				t.Errorf("%v does not name the lock file", err)
			}
		})
	}
}

// Of several that start at once over a stale socket, one gets it, and keeps it.
// Without the lock it takes some rounds until two get between each other's look
// and move.
func TestListenOnceAtATime(t *testing.T) {
	for range 50 {
		path := filepath.Join(tempDir(t), "cri.sock")
		staleSocket(t, path)
		var (
			wg    sync.WaitGroup
			begin = make(chan struct{})
			have  = make(chan net.Listener, 8)
		)
		for range cap(have) {
			wg.Go(func() {
				<-begin
				if l, err := criproxy.Listen(path); err == nil {
					have <- l
				}
			})
		}
		close(begin)
		wg.Wait()
		close(have)
		if len(have) != 1 {
			t.Errorf("%d listen on one path", len(have))
		}
		for l := range have {
			l.Close()
		}
	}
}

// A successor that has taken the path must not lose it when the one before it
// ends.
func TestCloseLeavesSuccessorsSocket(t *testing.T) {
	path := filepath.Join(tempDir(t), "cri.sock")
	first, err := criproxy.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	second, err := criproxy.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the successor lost its socket: %v", err)
	}
	c.Close()
}
