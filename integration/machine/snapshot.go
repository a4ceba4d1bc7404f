package machine

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Snapshot is what is different on the machine from the machine as delivered:
// path to a line with type, mode, owner and content.
type Snapshot map[string]string

// absent is the line of a file that is not there.
const absent = "absent"

// Snapshot takes the files that were ever written on the machine's disk, but
// those under the paths that are left out.
func (m *Machine) Snapshot(without ...string) (Snapshot, error) {
	s := Snapshot{}
	upper := filepath.Join(m.Dir, "upper")
	err := filepath.WalkDir(upper, func(file string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone since the folder was read
		}
		if err != nil {
			return err
		}
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(file, upper), "/")
		for _, out := range without {
			if name == out || strings.HasPrefix(name, strings.TrimSuffix(out, "/")+"/") {
				if entry.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
		}
		s[name], err = describe(file)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("taking a snapshot of the machine: %w", err)
	}
	return s, nil
}

// Diff tells what changed from one snapshot of the machine to a later one. A
// file that only one of them has is compared with the machine as delivered.
func (m *Machine) Diff(before, after Snapshot) ([]string, error) {
	var changes []string
	names := map[string]bool{}
	for name := range before {
		names[name] = true
	}
	for name := range after {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		was, is := before[name], after[name]
		var err error
		if was == "" {
			was, err = m.delivered(name)
		} else if is == "" {
			is, err = m.delivered(name)
		}
		if err != nil {
			return nil, err
		}
		if was != is {
			changes = append(changes, fmt.Sprintf("%s: was %s, is %s", name, was, is))
		}
	}
	return changes, nil
}

func (m *Machine) delivered(name string) (string, error) {
	line, err := describe(filepath.Join(m.Dir, "image", name))
	if err == nil && line == absent && !m.hidden(name) {
		line, err = describe(name)
	}
	return line, err
}

// hidden reports whether a folder above the name is opaque in the image layer.
func (m *Machine) hidden(name string) bool {
	for dir := filepath.Dir(name); dir != "/"; dir = filepath.Dir(dir) {
		if isOpaque(filepath.Join(m.Dir, "image", dir)) {
			return true
		}
	}
	return false
}

func describe(file string) (string, error) {
	info, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return absent, nil
	}
	if err != nil {
		return "", err
	}
	stat := info.Sys().(*syscall.Stat_t)
	line := fmt.Sprintf("%s %d:%d", info.Mode(), stat.Uid, stat.Gid)
	switch {
	case info.Mode()&fs.ModeCharDevice != 0 && stat.Rdev == 0:
		return absent, nil // the overlay's mark for a file that was removed
	case info.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(file)
		return line + " to " + to, err
	case info.Mode().IsRegular():
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		hash := sha256.New()
		if _, err := io.Copy(hash, f); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s %x", line, hash.Sum(nil)[:8]), nil
	}
	return line, nil
}
