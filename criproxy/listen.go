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

// Listen makes a unix socket at path, mode 0660, owned by the user and group of
// the process, and listens on it. A socket file that nobody answers on, as a
// killed process leaves behind, is replaced. It refuses to replace a socket
// that something listens on, and anything that is not a socket, symbolic
// links included. Closing the listener removes the file if it is still its own.
//
// The socket is made in a folder that only its owner can enter, and moved into
// place with its final mode: there is no moment in which another user could
// connect, and none in which path is missing while a stale file is replaced.
func Listen(path string) (net.Listener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return l, nil
}

func listen(path string) (_ net.Listener, err error) {
	if !filepath.IsAbs(path) {
		return nil, errors.New("the path of a socket must be absolute")
	}
	unlock, err := lockDir(filepath.Dir(path))
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
	// A folder with the set-group-ID bit would hand the socket to its own group.
	if err := os.Chown(hidden, os.Geteuid(), os.Getegid()); err != nil {
		return nil, err
	}
	if err := os.Chmod(hidden, socketMode); err != nil {
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

// lockDir keeps two processes that start at once from both finding a stale
// socket and the second from taking the path away from the first.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		d.Close()
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { d.Close() }, nil
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
