// Package folders goes through folders that a stranger fills, and removes them.
//
// It promises that what has a name in an open folder is looked at, opened and removed there and nowhere else: no link is
// followed, and replacing a folder meanwhile leads to no other. What it does takes no more memory and no more open files for a tree that
// is deep or wide. It refuses what is mounted below a folder that it removes: that is somebody else's.
//
// The library's walks have each folder on the way down open, or its path in hand, and read all names of a folder before the first
// is looked at. A tree of 30,000 folders in one another, which takes a stranger a second to make, ends them.
//
// It imports nothing of the others: it is for all who have to do with such folders, root on a host as well as sync itself.
package folders

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Piece is how many names of a folder are read at once.
const Piece = 256

// OpenIn opens what has a name in an open folder. It follows no link and waits for nobody: neither for the writer of a pipe,
// nor for whoever holds a lease on the file. Of the error it leaves away the name, which is a stranger's.
func OpenIn(dir *os.File, name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, err
		default:
			return os.NewFile(uintptr(fd), "a stranger's file"), nil
		}
	}
}

// Open opens a folder in an open one.
func Open(dir *os.File, name string) (*os.File, error) {
	return OpenIn(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
}

// Stat tells of what has a name in an open folder.
func Stat(dir *os.File, name string) (st unix.Stat_t, err error) {
	for {
		if err = unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); !errors.Is(err, unix.EINTR) {
			return st, err
		}
	}
}

// IsFolder says whether that is a folder.
func IsFolder(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// Reason is an error of the system without the path.
func Reason(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
