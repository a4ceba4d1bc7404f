package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/verify/limits"
)

// Tree is the file tree of a host.
type Tree struct {
	dir  string // where the host's root is mounted here
	root *os.Root
}

// Open opens the host's root that is mounted at dir: "/" on the host itself.
func Open(dir string) (*Tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the host's root: %w", err)
	}
	return &Tree{dir: path.Clean(dir), root: root}, nil
}

// Close closes the tree. Files in it that are open stay so.
func (t *Tree) Close() error { return t.root.Close() }

// maxLinks is how many links one path may go by, as in the kernel.
const maxLinks = 40

// resolve gives the path of p in the tree, with all links followed, the last one only if last. A path of which only the
// beginning is there is resolved so far. It walks by itself because to os.Root an absolute link leads out: to
// the host it does not. os.Root stays what makes sure that none does.
func (t *Tree) resolve(p string, last bool) (string, error) {
	done, todo, links := "", strings.Split(path.Clean("/"+p), "/"), 0
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = strings.TrimPrefix(path.Dir("/"+done), "/")
			continue
		}
		next := path.Join(done, name)
		fi, err := t.root.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) {
			return path.Join(append([]string{next}, todo...)...), nil
		}
		if err != nil {
			return "", err
		}
		if fi.Mode().Type() != fs.ModeSymlink || len(todo) == 0 && !last {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: p, Err: syscall.ELOOP}
		}
		to, err := t.root.Readlink(next)
		if err != nil {
			return "", err
		}
		if path.IsAbs(to) {
			done = ""
		}
		todo = append(strings.Split(to, "/"), todo...)
	}
	if done == "" {
		done = "."
	}
	return done, nil
}

// Path is where p, a path of the host, is to be found from here, with all its links followed within the host's root.
func (t *Tree) Path(p string) (string, error) {
	real, err := t.resolve(p, true)
	if err != nil {
		return "", err
	}
	return path.Join(t.dir, real), nil
}

// Stat tells of the file at p, links followed.
func (t *Tree) Stat(p string) (fs.FileInfo, error) {
	real, err := t.resolve(p, true)
	if err != nil {
		return nil, err
	}
	return t.root.Lstat(real)
}

// Lstat tells of the file or link at p.
func (t *Tree) Lstat(p string) (fs.FileInfo, error) {
	real, err := t.resolve(p, false)
	if err != nil {
		return nil, err
	}
	return t.root.Lstat(real)
}

// Exists says whether something is at p. What cannot be told is an error.
func (t *Tree) Exists(p string) (bool, error) {
	_, err := t.Stat(p)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return false, nil
	}
	return err == nil, err
}

// Readlink is where the link at p leads; "" if it is no link, or there is nothing.
func (t *Tree) Readlink(p string) (string, error) {
	real, err := t.resolve(p, false)
	if err != nil {
		return "", err
	}
	to, err := t.root.Readlink(real)
	switch {
	case err == nil:
		return to, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOTDIR):
		return "", nil
	}
	return "", err
}

// Read gives the bytes of the regular file at p, links followed; nil if there is none. A file beyond
// [limits.HostFile] is an error.
func (t *Tree) Read(p string) ([]byte, error) {
	f, err := t.Open(p)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := limits.HostFile.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", p, err)
	}
	if data == nil {
		data = []byte{}
	}
	return data, nil
}

// Open opens the regular file at p for reading. It does not wait: a pipe in the file's place would hang for ever.
func (t *Tree) Open(p string) (*os.File, error) {
	real, err := t.resolve(p, true)
	if err != nil {
		return nil, err
	}
	f, err := t.root.OpenFile(real, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = &fs.PathError{Op: "read", Path: p, Err: errNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// List gives the names in the folder at p, sorted; none if there is no such folder.
func (t *Tree) List(p string) ([]fs.DirEntry, error) {
	real, err := t.resolve(p, true)
	if err != nil {
		return nil, err
	}
	all, err := fs.ReadDir(t.root.FS(), real)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return all, err
}
