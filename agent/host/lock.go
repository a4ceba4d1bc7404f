package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/host/files"
)

// lock keeps installations and uninstallations of one host apart, on the host's own file system, so that it holds between
// containers as well. The folder is root's alone: whoever can open a file can hold its lock.
func (h *Host) lock(ctx context.Context) (unlock func(), err error) {
	made, err := h.tree.MakeDir(InstallDir, 0o700)
	if err != nil {
		return nil, err
	}
	here, err := h.tree.Path(lockFile)
	if err != nil {
		return nil, err
	}
	var f *os.File
	err = wait(ctx, h.o.LockWait, func(context.Context) error {
		f, err = tryLock(here)
		return err
	})
	if err != nil {
		return nil, err
	}
	who := fmt.Sprintf("%s, process %d, since %s\n", h.o.Version, os.Getpid(), time.Now().UTC().Format(time.RFC3339))
	if err := f.Truncate(0); err == nil {
		_, _ = io.WriteString(f, who) // for people; the lock is what counts
	}
	return func() {
		defer f.Close()
		if there, err := h.tree.Exists(stateFile); err != nil || there {
			return
		}
		// Nothing was begun: a host that was looked at and not taken is as it was, even if the look was stopped.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.o.Undo)
		defer cancel()
		_ = h.removeBut(ctx, InstallDir, keptDir)
		for _, dir := range slices.Backward(made) {
			_ = h.tree.RemoveEmpty(dir)
		}
	}, nil
}

// lockToLeave is lock, but where the disk has no room for one it goes on without: whoever takes cosentry off may do it because of that.
func (h *Host) lockToLeave(ctx context.Context) (unlock func(), err error) {
	unlock, err = h.lock(ctx)
	if files.Full(err) {
		h.say("warning: no other run is kept away: %v", err)
		return func() {}, nil
	}
	return unlock, err
}

// tryLock locks the file at here, unless it was removed between: an uninstallation removes it, and a lock on a file that is gone
// keeps nobody away.
func tryLock(here string) (_ *os.File, err error) {
	const safely = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	f, err := os.OpenFile(here, os.O_RDWR|os.O_CREATE|safely, 0o600)
	if errors.Is(err, unix.EROFS) {
		f, err = os.OpenFile(here, os.O_RDONLY|safely, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the lock of installations: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 128)
		n, _ := f.ReadAt(holder, 0)
		return nil, fmt.Errorf("another installation or uninstallation is under way on this host (%s); try again when it has ended",
			strings.TrimSpace(string(holder[:n])))
	}
	own, err := f.Stat()
	if err != nil {
		return nil, err
	}
	there, err := os.Lstat(here)
	if err != nil {
		return nil, err
	}
	if !os.SameFile(own, there) {
		return nil, errors.New("the lock of installations was removed while it was taken")
	}
	return f, nil
}
