package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/verify/limits"
)

// Folders are gone through by hand. The library's walks read all names of a folder, and sort them, before the first is
// looked at, and have no bound on depth: three million names, which take a stranger a minute to make and no space, would cost
// the agent more memory than its unit lets it have, at each start again.
//
// Each folder is opened by its name in the one above, which is open, and no link is followed. So replacing a folder
// while it is read leads nowhere else, and a deep one does not cost the way from the top for each name.

// piece is how many names of a folder are read at once.
const piece = 256

// walk counts what is met on the way through folders that a stranger fills.
type walk struct {
	bound limits.Bound // of names, folders included
	seen  int64
	// goneIsGone passes over what is gone by the time that it is looked at. To a reader that is an error: what went may be
	// a restriction.
	goneIsGone bool
}

// each has do look at each name in an open folder. There is no order.
func (w *walk) each(ctx context.Context, dir *os.File, do func(name string, st unix.Stat_t) error) error {
	for {
		names, err := dir.Readdirnames(piece)
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("reading them took too long: %w", context.Cause(ctx))
			}
			w.seen++
			if err := w.bound.Check(w.seen); err != nil {
				return err
			}
			st, err := statIn(dir, name)
			if w.goneIsGone && errors.Is(err, unix.ENOENT) {
				continue
			}
			if err == nil {
				err = do(name, st)
			}
			if err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return reason(err)
		}
	}
}

// openIn opens what has a name in an open folder. It follows no link and waits for nobody: neither for the writer of a pipe,
// nor for whoever holds a lease on the file. Of the error it leaves away the name, which is a stranger's.
func openIn(dir *os.File, name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, err
		default:
			return os.NewFile(uintptr(fd), "a file of sync"), nil
		}
	}
}

// openFolder opens a folder in an open one.
func openFolder(dir *os.File, name string) (*os.File, error) {
	return openIn(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
}

func statIn(dir *os.File, name string) (st unix.Stat_t, err error) {
	for {
		if err = unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); !errors.Is(err, unix.EINTR) {
			return st, err
		}
	}
}

func isFolder(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

func isRegular(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFREG }

// reason is an error of the system without the path.
func reason(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
