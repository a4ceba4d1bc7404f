package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// makeTrash opens a folder for what is to be removed, and makes it if need be.
func makeTrash(dir *os.File, name string) (*os.File, error) {
	for range 2 {
		if err := unix.Mkdirat(int(dir.Fd()), name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, err
		}
		trash, err := take(dir, name)
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

// throw has what has a name in a folder be gone from there: a folder goes into trash, anything else for good.
func throw(dir *os.File, name string, st unix.Stat_t, trash *os.File) error {
	if !isFolder(st) {
		return ignoreGone(unix.Unlinkat(int(dir.Fd()), name, 0))
	}
	// A folder that somebody else may not write to cannot be moved: it has a name for the one above it.
	f, err := take(dir, name)
	if err != nil {
		return ignoreGone(err)
	}
	defer f.Close()
	return ignoreGone(unix.Renameat(int(dir.Fd()), name, int(trash.Fd()), rand.Text()))
}

func ignoreGone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// take opens a folder and makes it this user's own, so that what is in it can be removed, and by nobody else meanwhile.
func take(dir *os.File, name string) (*os.File, error) {
	f, err := openFolder(dir, name)
	if errors.Is(err, unix.EACCES) && os.Geteuid() != 0 {
		// By its name, which may lead elsewhere by now: only for a user who can change nothing but his own.
		if err := unix.Fchmodat(int(dir.Fd()), name, 0o700, 0); err != nil {
			return nil, err
		}
		f, err = openFolder(dir, name)
	}
	if err != nil {
		return nil, err
	}
	err = unix.Fchown(int(f.Fd()), os.Geteuid(), os.Getegid())
	if err == nil {
		err = unix.Fchmod(int(f.Fd()), 0o700)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// bin is a folder that is being emptied.
type bin struct {
	trash *os.File
	most  int64 // files and folders that may still be removed
}

// empty removes what is in a folder, at most so many files and folders of it, and says whether that was all. A folder in it is
// not gone down into: what it holds is moved up first. So neither memory nor open files grow with depth.
func empty(ctx context.Context, trash *os.File, most int64) (done bool, err error) {
	b := &bin{trash, most}
	return b.all(ctx, trash, func(name string) error { return b.remove(ctx, name) })
}

// all has do take each name out of a folder, again and again until there is none, and says whether it came so far. Names
// are not looked for from the first anew after each piece: that of a large folder which is half empty already takes long.
func (b *bin) all(ctx context.Context, dir *os.File, do func(name string) error) (done bool, err error) {
	for {
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return false, reason(err)
		}
		none := true
		for {
			names, err := dir.Readdirnames(piece)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return false, reason(err)
			}
			none = false
			for _, name := range names {
				if b.most--; b.most < 0 || ctx.Err() != nil {
					return false, nil
				}
				if err := do(name); err != nil {
					return false, err
				}
			}
		}
		if none {
			return true, nil
		}
	}
}

// remove removes one thing from trash.
func (b *bin) remove(ctx context.Context, name string) error {
	st, err := statIn(b.trash, name)
	if err != nil {
		return ignoreGone(err)
	}
	if !isFolder(st) {
		return ignoreGone(unix.Unlinkat(int(b.trash.Fd()), name, 0))
	}
	f, err := take(b.trash, name)
	if err != nil {
		return ignoreGone(err)
	}
	defer f.Close()
	done, err := b.all(ctx, f, func(inside string) error {
		st, err := statIn(f, inside)
		if err == nil {
			err = throw(f, inside, st, b.trash)
		}
		return ignoreGone(err)
	})
	if err != nil || !done {
		return err
	}
	err = unix.Unlinkat(int(b.trash.Fd()), name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOTEMPTY) {
		return nil // somebody is still in it; it is looked at again
	}
	return ignoreGone(err)
}
