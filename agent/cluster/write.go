package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/cosentry/cosentry/verify/limits"
)

// Names that are there while something is written. None is one that a reader looks for.
const (
	lockFile   = ".lock"
	newSet     = ".new"
	newCurrent = ".current.new"
	newBeat    = ".heartbeat.new"
	lockRetry  = time.Second
)

// Writer writes the folder. There is one at a time.
//
// Whatever fails, and whenever the machine stops, current leads to a set that is whole and was found good: a set is
// written beside the others, flushed to the disk and checked before the link is moved.
type Writer struct {
	dir  string
	root *os.Root
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
	if err := w.takeLock(ctx); err != nil {
		root.Close()
		return nil, fmt.Errorf("waiting to be the only one who writes %s: %w", dir, err)
	}
	if err := w.makeSets(); err != nil {
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
func (w *Writer) makeSets() error {
	if err := w.root.Mkdir(Sets, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the folder of sets: %w", err)
	}
	if err := w.root.RemoveAll(path.Join(Sets, newSet)); err != nil {
		return fmt.Errorf("removing a set that was not finished: %w", err)
	}
	return nil
}

// Close lets others write.
func (w *Writer) Close() error {
	return errors.Join(w.lock.Close(), w.root.Close())
}

// Current reads the set that current leads to, and says whether there is one. A link that leads nowhere, or elsewhere, and
// a set that is not as Write left it are errors.
func (w *Writer) Current() (Contents, bool, error) {
	id, err := currentID(w.root)
	if err != nil || id == "" {
		return Contents{}, false, err
	}
	c, err := w.readBack(path.Join(Sets, id))
	if err != nil {
		return Contents{}, false, fmt.Errorf("reading the set in force: %w", err)
	}
	return c, true, nil
}

func (w *Writer) readBack(folder string) (Contents, error) {
	files, err := readSet(w.root, folder)
	if err != nil {
		return Contents{}, err
	}
	list, err := readFile(w.root, path.Join(folder, Namespaces), limits.SyncedSet.Max())
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
	if err := w.root.RemoveAll(fresh); err != nil {
		return "", fmt.Errorf("removing a set that was not finished: %w", err)
	}
	defer w.root.RemoveAll(fresh)
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
	before, _ := currentID(w.root) // one that leads astray is replaced
	if err := w.replaceLink(path.Join(Sets, id)); err != nil {
		return "", fmt.Errorf("putting a set in force: %w", err)
	}
	return id, w.prune(id, before)
}

// freeName is a name that no set has: one of the same name may be what somebody altered, and readers may be in it.
func (w *Writer) freeName(id string) (string, error) {
	for n := 1; ; n++ {
		name := id
		if n > 1 {
			name += "." + strconv.Itoa(n)
		}
		_, err := w.root.Lstat(path.Join(Sets, name))
		if errors.Is(err, fs.ErrNotExist) {
			return name, nil
		}
		if err != nil {
			return "", fmt.Errorf("naming a set: %w", err)
		}
	}
}

// writeFiles writes a whole folder to the disk.
func (w *Writer) writeFiles(folder string, files map[string][]byte) error {
	folders := map[string]bool{folder: true, path.Join(folder, Policies): true}
	for name := range files {
		for at := path.Dir(path.Join(folder, name)); at != folder; at = path.Dir(at) {
			folders[at] = true
		}
	}
	for at := range folders {
		if err := w.root.MkdirAll(at, 0o700); err != nil {
			return err
		}
	}
	for name, data := range files {
		if err := w.writeFile(path.Join(folder, name), data); err != nil {
			return err
		}
	}
	for at := range folders {
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
	f, err := w.root.Open(Sets)
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("looking for old sets: %w", err)
	}
	for _, name := range names {
		if !slices.Contains(keep, name) {
			if err := w.root.RemoveAll(path.Join(Sets, name)); err != nil {
				return fmt.Errorf("removing an old set: %w", err)
			}
		}
	}
	return nil
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
