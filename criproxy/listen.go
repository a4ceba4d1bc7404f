package criproxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socketMode lets root and root's group call the runtime, and nobody else:
// whoever can write to this socket can start containers.
const socketMode = 0o660

// ownMode lets root alone in, whatever groups others are in.
const ownMode = 0o600

// Listen makes a unix socket at path, mode 0660, owned by the user and group of
// the process, and listens on it. A socket file that nobody answers on, as a
// killed process leaves behind, is replaced. It refuses to replace a socket
// that something listens on, and anything that is not a socket, symbolic
// links included. Closing the listener removes the file if it is still its own.
//
// The socket is made in a folder that only its owner can enter, and moved into
// place with its final mode: there is no moment in which another user could
// connect, and none in which path is missing while a stale file is replaced. The
// folder must be one in which only this user can make files.
func Listen(path string) (net.Listener, error) { return listenAs(path, socketMode) }

// ListenOwn is Listen for a socket that only the user of the process can connect to, mode 0600.
func ListenOwn(path string) (net.Listener, error) { return listenAs(path, ownMode) }

func listenAs(path string, mode fs.FileMode) (net.Listener, error) {
	l, err := listen(path, mode, lockWait)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return l, nil
}

func listen(path string, mode fs.FileMode, wait time.Duration) (_ net.Listener, err error) {
	if !filepath.IsAbs(path) {
		return nil, errors.New("the path of a socket must be absolute")
	}
	unlock, err := lockPath(path, wait)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := replaceable(path); err != nil {
		return nil, err
	}

	private, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	hidden := filepath.Join(private, "s")
	ul, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ul.SetUnlinkOnClose(false) // it would remove the name that it was made under
	defer func() {
		if err != nil {
			ul.Close()
		}
	}()
	if err := ownGroup(hidden); err != nil {
		return nil, err
	}
	if err := os.Chmod(hidden, mode); err != nil {
		return nil, err
	}
	own, err := os.Lstat(hidden)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(hidden, path); err != nil {
		return nil, err
	}
	return &listener{UnixListener: ul, path: path, own: own}, nil
}

// ownGroup gives the socket to the group of the process: a folder with the set-group-ID bit has handed it to its own. A unit
// may forbid the call that nearly always changes nothing.
func ownGroup(path string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Gid) == os.Getegid() {
		return nil
	}
	return os.Chown(path, os.Geteuid(), os.Getegid())
}

// lockWait is how long another process that starts at this moment is waited for. It holds
// the lock for as long as it takes to make a socket.
const lockWait = 5 * time.Second

// lockPath keeps two processes that start at once from both finding a stale
// socket and the second from taking the path away from the first. The lock is on
// a file that only this user can open, <path>.lock, and not on the folder: whoever can
// open a file can hold its lock, so any user of the node could keep the agent from
// starting. For the same reason it is never waited for without end.
//
// The file is left behind: to remove it would let one process lock the file that is
// gone and another its successor.
func lockPath(path string, wait time.Duration) (unlock func(), err error) {
	file := path + ".lock"
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock file: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := private(f); err != nil {
		return nil, fmt.Errorf("lock file %s: %w; remove it", file, err)
	}
	for end := time.Now().Add(wait); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return nil, fmt.Errorf("locking %s: %w", file, err)
		case time.Now().After(end):
			return nil, fmt.Errorf("another process has held the lock on %s for %v", file, wait)
		}
	}
}

// private returns nil if nobody but this user can open f, or could when it was made.
func private(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || !fi.Mode().IsRegular() || int(st.Uid) != os.Geteuid() || fi.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%v is not a file of this user alone", fi.Mode())
	}
	return nil
}

// replaceable returns nil if there is nothing at path, or a socket on which
// nobody listens. Every doubt counts as somebody: a full backlog, for one,
// answers EAGAIN.
func replaceable(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("there is something that is not a socket (%s); move it away first", fi.Mode().Type())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		c.Close()
		return errors.New("another process is listening there")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("cannot tell whether another process is listening there: %w", err)
	}
	return nil
}

// listener is a unix listener that was moved to path after it was made.
type listener struct {
	*net.UnixListener
	path string
	own  fs.FileInfo
	once sync.Once
}

func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close stops listening and removes the socket file, unless another has taken
// its place since: a successor must not lose its socket to a
// predecessor's farewell.
func (l *listener) Close() error {
	l.once.Do(func() {
		if fi, err := os.Lstat(l.path); err == nil && os.SameFile(fi, l.own) {
			os.Remove(l.path)
		}
	})
	return l.UnixListener.Close()
}
