package trust

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
)

// Files hold Secrets and ConfigMaps.
type Files interface {
	// Read gives the file of a Secret or ConfigMap (KindSecret, KindConfigMap). A reference without a key means the only
	// file. An error wraps ErrMissing or ErrInvalid and says what it is about.
	Read(kind string, ref policy.Reference) ([]byte, error)
}

// Folder is Files on disk, in the form that the package comment describes. Empty: there are none.
type Folder string

// Read reads the file as it is now.
func (f Folder) Read(kind string, ref policy.Reference) ([]byte, error) {
	return held{kind, ref}.read(string(f))
}

// held is a file that the node holds for a Secret or ConfigMap.
type held struct {
	kind string // KindSecret or KindConfigMap
	ref  policy.Reference
}

func (h held) String() string {
	s := h.kind + " " + plain(h.ref.Namespace) + "/" + plain(h.ref.Name)
	if h.ref.Key != "" {
		s += "/" + plain(h.ref.Key)
	}
	return s
}

// referenceName is the Name of a Secret's or ConfigMap's State.
func referenceName(ref policy.Reference) string {
	return strings.TrimPrefix(held{ref: ref}.String(), " ")
}

// folder is where the files of h are; dir is Options.Dir. A name that is not one in Kubernetes becomes no path.
func (h held) folder(dir string) (string, error) {
	if !isSubdomain(h.ref.Namespace) || !isSubdomain(h.ref.Name) || h.ref.Key != "" && !isDataKey(h.ref.Key) {
		return "", fmt.Errorf("%s: %w: this is no name of a %s in Kubernetes", h, ErrInvalid, h.kind)
	}
	if dir == "" {
		return "", fmt.Errorf("%s: %w: the settings name no folder for it (trust.dir)", h, ErrMissing)
	}
	return filepath.Join(dir, h.kind+"s", h.ref.Namespace, h.ref.Name), nil
}

// read reads the file.
func (h held) read(dir string) ([]byte, error) {
	folder, err := h.folder(dir)
	if err != nil {
		return nil, err
	}
	key := h.ref.Key
	if key == "" {
		if key, err = onlyFile(folder); err != nil {
			return nil, fmt.Errorf("%s: %w", h, err)
		}
	}
	data, err := readFile(filepath.Join(folder, key), limits.HeldFile)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h, err)
	}
	return data, nil
}

// onlyFile is the name of the one file in a folder.
func onlyFile(folder string) (string, error) {
	d, err := os.OpenFile(folder, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_DIRECTORY, 0)
	if err != nil {
		return "", unreadable(folder, err)
	}
	defer d.Close()
	names, err := d.Readdirnames(int(limits.HeldFiles.Max()) + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", unreadable(folder, err)
	}
	if err := limits.HeldFiles.Check(int64(len(names))); err != nil {
		return "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	only := ""
	for _, name := range names {
		if !isDataKey(name) {
			continue
		}
		if info, err := os.Stat(filepath.Join(folder, name)); err == nil && info.IsDir() {
			continue
		}
		if only != "" {
			return "", fmt.Errorf("%w: %s holds several files: name one, or leave one", ErrInvalid, quote(folder))
		}
		only = name
	}
	if only == "" {
		return "", fmt.Errorf("%w: %s holds no file", ErrMissing, quote(folder))
	}
	return only, nil
}

// readFile reads a regular file. A pipe is opened without waiting for its writer, so that it is refused rather
// than hanging the agent.
func readFile(path string, bound limits.Bound) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, unreadable(path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrInvalid, quote(path))
	}
	data, err := bound.ReadAll(f)
	if err != nil {
		if exceeded := new(limits.Exceeded); errors.As(err, &exceeded) {
			return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, quote(path), err)
		}
		return nil, unreadable(path, err)
	}
	return data, nil
}

// unreadable tells a file that is not there from one that cannot be read.
func unreadable(path string, err error) error {
	why := ErrInvalid
	if errors.Is(err, fs.ErrNotExist) {
		why = ErrMissing
	}
	if at := new(fs.PathError); errors.As(err, &at) {
		err = at.Err
	}
	return fmt.Errorf("%w: reading %s: %w", why, quote(path), err)
}

// plain leaves a name as it is if it is one, and quotes the rest.
func plain(s string) string {
	if isDataKey(s) {
		return s
	}
	return quote(s)
}
