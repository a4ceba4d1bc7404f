package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/folders"
	"github.com/cosentry/cosentry/verify/limits"
)

// What was set aside is a sibling of the folder, by these ends of its name, and root's. There is one; what was set aside before is
// in the other until it is removed.
const (
	Aside    = ".set-aside"
	asideOld = ".set-aside.old"
)

// removeAtOnce is how many files and folders of what was set aside before are removed in one go. It takes seconds.
const removeAtOnce = 512 << 10

// folderDepth is how deep the folder is: sets/<id>, and the set.
const folderDepth = 2 + setDepth

// errStrange is wrapped where the folder holds what sync never writes.
var errStrange = errors.New("not what sync writes")

// Given says what became of a folder that was given away.
type Given struct {
	// Aside is the path of the folder that was there before, if it could not be given away as it was: it is set aside, and
	// the one that was given is empty. Why says what it is.
	Aside, Why string
	// Left says that there is more of what was set aside earlier than was removed now. It goes the next times.
	Left bool
}

// Give makes the folder and gives it, with all that is in it, to the user that sync runs as. What kubelet makes for a pod is
// root's, and sync is not root.
//
// A sync that was taken over may have left anything in it. A link is given away itself: what it leads to would be whatever
// file that user chose. A folder that has more in it than sync ever writes, or something else, is set aside: neither root nor the sync
// that comes next is kept from its work by it, and whoever looks into the matter finds it.
func Give(ctx context.Context, dir string, uid int) (Given, error) {
	fail := func(err error) (Given, error) { return Given{}, fmt.Errorf("giving %s to user %d: %w", dir, uid, err) }
	if uid <= 0 {
		return fail(errors.New("not the number of a user other than root"))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return fail(err)
	}
	if real == "/" {
		return fail(errors.New("not a folder for this alone"))
	}
	above, err := os.OpenFile(filepath.Dir(real), os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return fail(err)
	}
	defer above.Close()
	g := giver{above, filepath.Base(real), uid}
	var given Given
	if err = g.give(ctx); errors.Is(err, errStrange) || errors.As(err, new(*limits.Exceeded)) {
		given.Aside, given.Why = real+Aside, err.Error()
		if err = g.setAside(); err == nil {
			err = g.give(ctx)
		}
	}
	if err != nil {
		return fail(err)
	}
	if given.Left, err = g.removeOld(ctx); err != nil {
		return fail(fmt.Errorf("removing what was set aside before: %w", err))
	}
	return given, nil
}

// giver gives away one folder in the one above it, which is root's.
type giver struct {
	above *os.File
	name  string
	uid   int
}

func (g giver) give(ctx context.Context) error {
	top, err := folders.Open(g.above, g.name)
	if err != nil {
		return err
	}
	defer top.Close()
	w := &walk{bound: limits.SyncedFolder, goneIsGone: true}
	if err := g.inside(ctx, w, top, 1); err != nil {
		return err
	}
	st, err := folders.Stat(g.above, g.name)
	if err != nil {
		return err
	}
	return g.one(g.above, g.name, st)
}

// inside goes from the inside out: as long as the user does not have a folder, he cannot change what is in it.
func (g giver) inside(ctx context.Context, w *walk, dir *os.File, depth int) error {
	return w.each(ctx, dir, func(name string, st unix.Stat_t) error {
		if depth == 1 && !kindInTop(name, st.Mode&unix.S_IFMT) {
			return fmt.Errorf("%.64q is %w: something else is in its place", name, errStrange)
		}
		if folders.IsFolder(st) {
			if depth == folderDepth {
				return fmt.Errorf("%.64q, %d folders deep, is %w", name, depth, errStrange)
			}
			f, err := folders.Open(dir, name)
			if err != nil {
				return g.changed(name, err)
			}
			defer f.Close()
			if err := g.inside(ctx, w, f, depth+1); err != nil {
				return err
			}
		}
		return g.changed(name, g.one(dir, name, st))
	})
}

// kindInTop reports whether what has a name may be of its kind. Where sync cannot put its own, it would not work.
func kindInTop(name string, kind uint32) bool {
	switch name {
	case Current, newCurrent:
		return kind == unix.S_IFLNK
	case Sets:
		return kind == unix.S_IFDIR
	case Heartbeat, newBeat, lockFile:
		return kind == unix.S_IFREG
	}
	return true
}

// changed is err in words, and nothing where what it is about is gone.
func (g giver) changed(name string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return fmt.Errorf("%.64q is %w: somebody changes it at this moment", name, errStrange)
	case err != nil && !errors.Is(err, errStrange):
		return fmt.Errorf("%.64q: %w", name, err)
	}
	return err
}

// one gives one file or folder away: that which it has looked at, whatever has the name by then.
func (g giver) one(dir *os.File, name string, st unix.Stat_t) error {
	if folders.IsFolder(st) && st.Mode&0o700 != 0o700 {
		return fmt.Errorf("%.64q is %w: a folder that its owner may not use", name, errStrange)
	}
	if g.has(st) {
		return nil
	}
	f, err := folders.OpenIn(dir, name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer f.Close()
	var now unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &now); err != nil {
		return err
	}
	if !folders.IsFolder(now) && now.Nlink > 1 {
		return fmt.Errorf("%.64q is %w: a file of somebody else with a second name, which may be anywhere", name, errStrange)
	}
	return unix.Fchownat(int(f.Fd()), "", g.uid, g.uid, unix.AT_EMPTY_PATH)
}

func (g giver) has(st unix.Stat_t) bool { return int(st.Uid) == g.uid && int(st.Gid) == g.uid }

// setAside makes the folder root's and renames it, which takes no longer for a large one, and makes a new one. It replaces
// what was set aside before.
func (g giver) setAside() error {
	above := int(g.above.Fd())
	fail := func(err error) error { return fmt.Errorf("setting the folder aside: %w", err) }
	top, err := folders.Take(g.above, g.name) // from here on it is nobody else's
	if err != nil {
		return fail(err)
	}
	defer top.Close()
	kept, err := folders.Stat(g.above, g.name+Aside)
	if err == nil {
		old, err := folders.MakeTrash(g.above, g.name+asideOld)
		if err != nil {
			return fail(err)
		}
		defer old.Close()
		if err := folders.Throw(g.above, g.name+Aside, kept, old); err != nil {
			return fail(err)
		}
	} else if !errors.Is(err, unix.ENOENT) {
		return fail(err)
	}
	err = unix.Renameat(above, g.name, above, g.name+Aside)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EXDEV) {
		err = fmt.Errorf("it is a mount; mount the folder above it: %w", err)
	}
	if err != nil {
		return fail(err)
	}
	if err := unix.Mkdirat(above, g.name, 0o700); err != nil {
		return fail(err)
	}
	return nil
}

// removeOld removes what was set aside before what is set aside now.
func (g giver) removeOld(ctx context.Context) (left bool, err error) {
	st, err := folders.Stat(g.above, g.name+asideOld)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err == nil && !folders.IsFolder(st) {
		err = unix.ENOTDIR
	}
	if err != nil {
		return false, err
	}
	old, err := folders.Take(g.above, g.name+asideOld)
	if err != nil {
		return false, err
	}
	defer old.Close()
	done, err := folders.Empty(ctx, old, removeAtOnce)
	if err != nil || !done {
		return true, err
	}
	return false, unix.Unlinkat(int(g.above.Fd()), g.name+asideOld, unix.AT_REMOVEDIR)
}
