package trust

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cosentry/cosentry/verify/limits"
)

// store keeps small files under names that are hashes. What is in it is public, and it is believed: whoever could write
// there could add a key. So it is not used where others may write.
type store struct {
	dir string // empty: nothing is kept
}

// unfinished begins the names of files that are being written.
const unfinished = ".new-"

func fileName(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// usable returns an error if nothing can be kept under a kind because a file is where its folder should be, or above it.
// Nothing was ever kept there either.
func (s *store) usable(kind string) error {
	if s.dir == "" {
		return nil
	}
	for _, dir := range []string{s.dir, filepath.Join(s.dir, kind)} {
		info, err := os.Stat(dir)
		if errors.Is(err, syscall.ENOTDIR) || err == nil && !info.IsDir() {
			return fmt.Errorf("%w: %s is not a folder, or in something that is none", ErrInvalid, quote(dir))
		}
	}
	return nil
}

// read gives what was kept under a name, or an error that wraps fs.ErrNotExist.
func (s *store) read(kind, name string, bound limits.Bound) ([]byte, error) {
	if s.dir == "" {
		return nil, fs.ErrNotExist
	}
	if s.usable(kind) != nil {
		return nil, fs.ErrNotExist // write says why
	}
	for _, dir := range []string{s.dir, filepath.Join(s.dir, kind)} {
		if err := ownersAlone(dir); err != nil {
			return nil, err
		}
	}
	path := filepath.Join(s.dir, kind, fileName(name))
	if err := ownersAlone(path); err != nil {
		return nil, err
	}
	return readFile(path, bound)
}

// write keeps data under a name: all of it or nothing.
func (s *store) write(kind, name string, data []byte) error {
	if s.dir == "" {
		return nil
	}
	dir, err := s.folder(kind)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, unfinished)
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), filepath.Join(dir, fileName(name)))
}

func (s *store) remove(kind, name string) error {
	if s.dir == "" {
		return nil
	}
	err := os.Remove(filepath.Join(s.dir, kind, fileName(name)))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}

// folder makes a folder for one kind of files.
func (s *store) folder(kind string) (string, error) {
	if err := s.usable(kind); err != nil {
		return "", err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return "", err
	}
	if err := ownersAlone(s.dir); err != nil {
		return "", err
	}
	dir := filepath.Join(s.dir, kind)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, ownersAlone(dir)
}

// tidy removes what a crash left half written.
func (s *store) tidy(kinds ...string) {
	if s.dir == "" {
		return
	}
	for _, kind := range kinds {
		entries, err := os.ReadDir(filepath.Join(s.dir, kind))
		if err != nil {
			continue // not there yet, or read finds out
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), unfinished) {
				_ = os.Remove(filepath.Join(s.dir, kind, e.Name()))
			}
		}
	}
}

// ownersAlone refuses a file or folder that is a link, or that anybody but root and this process' user may change.
func ownersAlone(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is neither a folder nor a regular file", ErrInvalid, quote(path))
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%w: others than its owner may write to %s: remove it, or take that away (chmod go-w)", ErrInvalid, quote(path))
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: %s belongs to user %d", ErrInvalid, quote(path), st.Uid)
	}
	return nil
}
