package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/folders"
	"github.com/cosentry/cosentry/verify/limits"
)

// Names that are there while something is written. None is one that a reader looks for.
const (
	lockFile   = ".lock"
	newSet     = ".new"
	newCurrent = ".current.new"
	newBeat    = ".heartbeat.new"
	oldSets    = ".old" // in Sets: what is being removed
	lockRetry  = time.Second
)

// Writer writes the folder. There is one at a time.
//
// Whatever fails, and whenever the machine stops, current leads to a set that is whole and was found good: a set is
// written beside the others, flushed to the disk and checked before the link is moved.
type Writer struct {
	dir  string
	root *os.Root
	top  *os.File // the same folder, for reading
	lock *os.File
}

// OpenWriter makes the folder if need be and waits until nobody else writes it: while a DaemonSet is updated, the old pod
// may still be there.
func OpenWriter(ctx context.Context, dir string) (*Writer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of the cluster's documents: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the folder of the cluster's documents: %w", err)
	}
	w := &Writer{dir: dir, root: root}
	if w.top, err = root.Open("."); err != nil {
		root.Close()
		return nil, fmt.Errorf("opening the folder of the cluster's documents: %w", err)
	}
	if err := w.takeLock(ctx); err != nil {
		root.Close()
		w.top.Close()
		return nil, fmt.Errorf("waiting to be the only one who writes %s: %w", dir, err)
	}
	if err := w.makeSets(ctx); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (w *Writer) takeLock(ctx context.Context) (err error) {
	if w.lock, err = w.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600); err != nil {
		return err
	}
	again := time.NewTicker(lockRetry)
	defer again.Stop()
	for {
		err := syscall.Flock(int(w.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			w.lock.Close()
			return err
		}
		select {
		case <-ctx.Done():
			w.lock.Close()
			return ctx.Err()
		case <-again.C:
		}
	}
}

// makeSets makes the folder of sets, and takes away what a writer before left half done.
func (w *Writer) makeSets(ctx context.Context) error {
	if err := w.root.Mkdir(Sets, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the folder of sets: %w", err)
	}
	return w.dropNew(ctx)
}

// dropNew takes away a set that was not finished. However large it is, there is room for the next at once.
func (w *Writer) dropNew(ctx context.Context) error {
	return w.drop(ctx, func(name string) bool { return name == newSet })
}

// drop removes the sets that chosen says. It removes a bounded number of files and folders; what is left of them goes the next time.
func (w *Writer) drop(ctx context.Context, chosen func(name string) bool) error {
	fail := func(err error) error { return fmt.Errorf("removing old sets: %w", err) }
	sets, err := folders.Open(w.top, Sets)
	if err != nil {
		return fail(err)
	}
	defer sets.Close()
	old, err := folders.MakeTrash(sets, oldSets)
	if err != nil {
		return fail(err)
	}
	defer old.Close()
	most := walk{bound: limits.SyncedFolder, goneIsGone: true}
	err = most.each(ctx, sets, func(name string, st unix.Stat_t) error {
		if name == oldSets || !chosen(name) {
			return nil
		}
		return folders.Throw(sets, name, st, old)
	})
	if err != nil && !errors.As(err, new(*limits.Exceeded)) {
		return fail(err)
	}
	done, err := folders.Empty(ctx, old, limits.SyncedFolder.Max())
	if err != nil {
		return fail(err)
	}
	if done {
		_ = unix.Unlinkat(int(sets.Fd()), oldSets, unix.AT_REMOVEDIR) // it is in nobody's way
	}
	return nil
}

// Close lets others write.
func (w *Writer) Close() error {
	return errors.Join(w.lock.Close(), w.top.Close(), w.root.Close())
}

// Current reads the set that current leads to, and says whether there is one. A link that leads nowhere, or elsewhere, and
// a set that is not as Write left it are errors.
func (w *Writer) Current() (Contents, bool, error) {
	id, err := currentID(w.top)
	if err != nil || id == "" {
		return Contents{}, false, err
	}
	c, err := w.readBack(id)
	if err != nil {
		return Contents{}, false, fmt.Errorf("reading the set in force: %w", err)
	}
	return c, true, nil
}

func (w *Writer) readBack(id string) (Contents, error) {
	set, err := openSet(w.top, id)
	if err != nil {
		return Contents{}, err
	}
	defer set.Close()
	files, err := readSet(context.Background(), set)
	if err != nil {
		return Contents{}, err
	}
	list, err := readFile(set, Namespaces, limits.SyncedSet.Max())
	if err == nil {
		files[Namespaces] = list
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Contents{}, err
	}
	return contents(files)
}

// Write makes a set of c, has it checked, and puts it in force. check is given the set's folder before anybody else looks
// at it. If it refuses, or anything fails, the set that is in force stays. Write returns the new set's name.
func (w *Writer) Write(c Contents, check func(folder string) error) (string, error) {
	files, err := c.files()
	if err != nil {
		return "", err
	}
	fresh := path.Join(Sets, newSet)
	if err := w.dropNew(context.Background()); err != nil {
		return "", err
	}
	defer w.dropNew(context.Background()) //nolint:errcheck // it is looked for again before it would be in the way
	if err := w.writeFiles(fresh, files); err != nil {
		return "", fmt.Errorf("writing the cluster's documents: %w", err)
	}
	if err := check(filepath.Join(w.dir, fresh)); err != nil {
		return "", err
	}
	id, err := w.freeName(identify(files))
	if err != nil {
		return "", err
	}
	if err := w.root.Rename(fresh, path.Join(Sets, id)); err != nil {
		return "", fmt.Errorf("naming a set: %w", err)
	}
	if err := w.flush(Sets); err != nil {
		return "", err
	}
	before, _ := currentID(w.top) // one that leads astray is replaced
	if err := w.replaceLink(path.Join(Sets, id)); err != nil {
		return "", fmt.Errorf("putting a set in force: %w", err)
	}
	return id, w.prune(id, before)
}

// freeName is a name that no set has: one of the same name may be what somebody altered, and readers may be in it. Whoever
// filled the folder with such names does not have them all tried.
func (w *Writer) freeName(id string) (string, error) {
	name := id
	for range 4 {
		_, err := w.root.Lstat(path.Join(Sets, name))
		if errors.Is(err, fs.ErrNotExist) {
			return name, nil
		}
		if err != nil {
			return "", fmt.Errorf("naming a set: %w", err)
		}
		name = id + "." + strings.ToLower(rand.Text()[:8])
	}
	return "", fmt.Errorf("naming a set: all names like %s are taken", id)
}

// writeFiles writes a whole folder to the disk.
func (w *Writer) writeFiles(folder string, files map[string][]byte) error {
	all := map[string]bool{folder: true, path.Join(folder, Policies): true}
	for name := range files {
		for at := path.Dir(path.Join(folder, name)); at != folder; at = path.Dir(at) {
			all[at] = true
		}
	}
	for at := range all {
		if err := w.root.MkdirAll(at, 0o700); err != nil {
			return err
		}
	}
	for name, data := range files {
		if err := w.writeFile(path.Join(folder, name), data); err != nil {
			return err
		}
	}
	for at := range all {
		if err := w.flush(at); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) writeFile(name string, data []byte) error {
	f, err := w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// flush has a folder's names on the disk, not only in memory.
func (w *Writer) flush(folder string) error {
	f, err := w.root.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (w *Writer) replaceLink(target string) error {
	if err := w.root.Remove(newCurrent); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := w.root.Symlink(target, newCurrent); err != nil {
		return err
	}
	if err := w.root.Rename(newCurrent, Current); err != nil {
		return err
	}
	return w.flush(".")
}

// prune removes all sets but two: a reader may still be in the one before.
func (w *Writer) prune(keep ...string) error {
	return w.drop(context.Background(), func(name string) bool { return !slices.Contains(keep, name) })
}

// Beat writes that sync knew itself to be up to date at t.
func (w *Writer) Beat(t time.Time) error {
	if err := w.root.Remove(newBeat); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("writing the heartbeat: %w", err)
	}
	if err := w.writeFile(newBeat, []byte(t.UTC().Format(time.RFC3339)+"\n")); err != nil {
		return fmt.Errorf("writing the heartbeat: %w", err)
	}
	if err := w.root.Rename(newBeat, Heartbeat); err != nil {
		return fmt.Errorf("writing the heartbeat: %w", err)
	}
	return nil
}
