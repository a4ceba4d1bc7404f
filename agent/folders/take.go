package folders

import (
	"crypto/rand"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// MakeTrash opens a folder for what is to be removed, and makes it if need be.
func MakeTrash(dir *os.File, name string) (*os.File, error) {
	for range 2 {
		if err := unix.Mkdirat(int(dir.Fd()), name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
		trash, err := Take(dir, name)
		if err == nil {
			return trash, nil
		}
		// Something else in its place.
		if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("a folder for what is to be removed cannot be made")
}

// Throw has what has a name in a folder be gone from there: a folder that has something in it goes into trash, anything else for
// good.
func Throw(dir *os.File, name string, st unix.Stat_t, trash *os.File) error {
	return throw(dir, name, st, trash, unix.Renameat)
}

type renameat func(fromDir int, from string, toDir int, to string) error

func throw(dir *os.File, name string, st unix.Stat_t, trash *os.File, rename renameat) error {
	if !IsFolder(st) {
		return ignoreGone(unix.Unlinkat(int(dir.Fd()), name, 0))
	}
	if unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR) == nil {
		return nil
	}
	// A folder that somebody else may not write to cannot be moved: it has a name for the one above it.
	f, err := takeInside(dir, name)
	if err != nil {
		return ignoreGone(err)
	}
	defer f.Close()
	return ignoreGone(rename(int(dir.Fd()), name, int(trash.Fd()), rand.Text()))
}

func ignoreGone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// Take opens a folder and makes it this user's own, so that what is in it can be removed, and by nobody else meanwhile.
func Take(dir *os.File, name string) (*os.File, error) {
	return take(dir, name, func(*os.File) error { return nil })
}

// takeInside is Take for what is found in a folder that is removed.
func takeInside(dir *os.File, name string) (*os.File, error) { return take(dir, name, notMounted) }

func take(dir *os.File, name string, allowed func(f *os.File) error) (*os.File, error) {
	f, err := Open(dir, name)
	if errors.Is(err, unix.EACCES) && os.Geteuid() != 0 {
		// By its name, which may lead elsewhere by now: only for a user who can change nothing but his own.
		if err := unix.Fchmodat(int(dir.Fd()), name, 0o700, 0); err != nil {
			return nil, err
		}
		f, err = Open(dir, name)
	}
	if err != nil {
		return nil, err
	}
	if err = allowed(f); err == nil {
		err = own(f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// own makes an open folder this user's own, and writes to the disk only what is not so yet: each folder is taken twice.
func own(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid() {
		if err := unix.Fchown(int(f.Fd()), os.Geteuid(), os.Getegid()); err != nil {
			return err
		}
	}
	if st.Mode&0o7777 == 0o700 {
		return nil
	}
	return unix.Fchmod(int(f.Fd()), 0o700)
}

var errMounted = errors.New("something is mounted in it: unmount that first")

// notMounted refuses a folder at which something is mounted. A kernel before 5.8 does not tell; that does not move it either.
func notMounted(f *os.File) error {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, 0, &st)
	if err == nil && st.Attributes&st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return errMounted
	}
	return nil
}
