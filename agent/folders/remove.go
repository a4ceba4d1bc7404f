package folders

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// attempts is how often a folder is begun anew in which nothing goes, or which has something in it again each time.
	attempts = 16
	// maxNested is how deep folders are emptied where they are, as there is no room above them.
	maxNested = 8
)

// Empty removes what is in a folder, at most so many files and folders of it, and says whether that was all. A folder in it is
// not gone down into: what it holds is moved up first. So neither memory nor open files grow with depth.
//
// What cannot be removed keeps nothing else from going.
func Empty(ctx context.Context, trash *os.File, most int64) (done bool, err error) {
	return (&remover{most: most, rename: unix.Renameat}).empty(ctx, trash, 0)
}

// RemoveAll removes what has a name in an open folder, with all that is in it; nothing there is no error. It looks at no more
// than so many names: in a tree that somebody adds to all the time there is no end.
func RemoveAll(ctx context.Context, dir *os.File, name string, most int64) error {
	return (&remover{most: most, rename: unix.Renameat}).removeAll(ctx, dir, name)
}

// remover removes one tree.
type remover struct {
	most   int64 // names that may still be looked at
	gone   int64 // how many went from where they were
	rename renameat
}

func (r *remover) removeAll(ctx context.Context, dir *os.File, name string) error {
	total := r.most
	for range attempts {
		st, err := Stat(dir, name)
		if err != nil {
			return ignoreGone(err)
		}
		if !IsFolder(st) {
			if err := unix.Unlinkat(int(dir.Fd()), name, 0); !errors.Is(err, unix.EISDIR) {
				return ignoreGone(err)
			}
			continue // something else in its place by now
		}
		top, err := Take(dir, name)
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			continue
		case err != nil:
			return err
		}
		done, err := r.empty(ctx, top, 0)
		top.Close()
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("it was not done to the end: %w", context.Cause(ctx))
		case !done:
			return fmt.Errorf("after %d names there are still more: do it again, and if it is no less then, end whoever adds to it", total)
		}
		err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
		if !notEmpty(err) {
			return ignoreGone(err)
		}
	}
	return errAdded
}

var errAdded = errors.New("there is something in it again each time: end whoever writes there, and do it again")

// empty removes what is in trash.
func (r *remover) empty(ctx context.Context, trash *os.File, nested int) (done bool, err error) {
	return r.all(ctx, trash, func(name string) error { return r.remove(ctx, trash, name, nested) })
}

// all has do take each name out of a folder, again and again until there is none, and says whether it came so far.
func (r *remover) all(ctx context.Context, dir *os.File, do func(name string) error) (done bool, err error) {
	for idle := 0; idle < attempts; idle++ {
		before := r.gone
		none, err := r.pass(ctx, dir, do)
		switch {
		case r.most < 0 || ctx.Err() != nil:
			return false, nil
		case none:
			return true, nil
		case r.gone > before: // which may have made room for the rest
			idle = -1
		case err != nil:
			return false, err
		}
	}
	return false, errAdded
}

// pass has do be called for each name of a folder, and says whether there was none. Names are not looked for from the first anew after
// each piece: that of a large folder which is half empty already takes long.
func (r *remover) pass(ctx context.Context, dir *os.File, do func(name string) error) (none bool, failed error) {
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return false, Reason(err)
	}
	none = true
	for {
		names, err := dir.Readdirnames(Piece)
		if errors.Is(err, io.EOF) {
			return none, failed
		}
		if err != nil {
			return false, Reason(err)
		}
		none = false
		for _, name := range names {
			if r.most--; r.most < 0 || ctx.Err() != nil {
				return false, failed
			}
			if err := do(name); err != nil && failed == nil {
				failed = err
			}
		}
	}
}

// remove removes one thing from trash.
func (r *remover) remove(ctx context.Context, trash *os.File, name string, nested int) error {
	st, err := Stat(trash, name)
	if err != nil {
		return ignoreGone(err)
	}
	if !IsFolder(st) {
		return r.counted(unix.Unlinkat(int(trash.Fd()), name, 0))
	}
	f, err := takeInside(trash, name)
	if err != nil {
		return ignoreGone(err)
	}
	defer f.Close()
	done, err := r.all(ctx, f, func(inside string) error { return r.moveUp(ctx, f, inside, trash, nested) })
	if err != nil || !done {
		return err
	}
	err = unix.Unlinkat(int(trash.Fd()), name, unix.AT_REMOVEDIR)
	if notEmpty(err) {
		return nil // somebody is still in it; it is looked at again
	}
	return r.counted(err)
}

// moveUp has what is in a folder of trash be gone from there. Where trash has no room for it, as on a disk that is full and where
// a folder may not have more folders in it, it is emptied where it is.
func (r *remover) moveUp(ctx context.Context, dir *os.File, name string, trash *os.File, nested int) error {
	st, err := Stat(dir, name)
	if err == nil {
		err = throw(dir, name, st, trash, r.rename)
	}
	if notMoved(err) && nested < maxNested {
		return r.remove(ctx, dir, name, nested+1)
	}
	return r.counted(err)
}

// counted counts what went.
func (r *remover) counted(err error) error {
	if err == nil {
		r.gone++
	}
	return ignoreGone(err)
}

func notEmpty(err error) bool { return errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) }

// notMoved says whether a folder has to be emptied where it is: there is no room, or it came with the image, which an overlay does not move.
func notMoved(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.EXDEV)
}
