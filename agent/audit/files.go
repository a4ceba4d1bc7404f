package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	currentName   = "audit.jsonl"
	rotatedPrefix = "audit-"
	rotatedSuffix = ".jsonl"
	tornPrefix    = "torn-"
	tornSuffix    = ".bin"
	maxTorn       = 16 // side files kept
)

// ErrLocked is what Log.Fault wraps while another process, or another Log of
// this one, holds the directory.
var ErrLocked = errors.New("held by another process")

func rotatedName(firstSeq uint64) string {
	return fmt.Sprintf("%s%016d%s", rotatedPrefix, firstSeq, rotatedSuffix)
}

// rotatedSeq is the first seq that a rotated file's name claims. 0 is possible:
// rotate gives it to a file of nothing but junk.
func rotatedSeq(name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, rotatedPrefix)
	digits, ok2 := strings.CutSuffix(digits, rotatedSuffix)
	if !ok || !ok2 || len(digits) != 16 {
		return 0, false
	}
	if strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	seq, err := strconv.ParseUint(digits, 10, 64)
	return seq, err == nil
}

// listRotated names the rotated files, oldest first. No current file among them.
func listRotated(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("listing audit log: %w", err)
	}
	var names []string
	for _, e := range entries {
		if _, ok := rotatedSeq(e.Name()); ok {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// openRead opens a file of the log. A link or a pipe put in its place is
// refused, not followed and not waited for.
func openRead(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening audit log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("opening audit log: %w", err)
	}
	return f, nil
}

// openDir makes the directory if need be and takes its lock, which goes with
// the file that is returned.
func openDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making audit directory: %w", err)
	}
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("opening audit directory: %w", err)
	}
	info, err := d.Stat()
	if err == nil && info.Mode().Perm()&0o022 != 0 {
		// Others could put a log of their own here before the first start.
		err = fmt.Errorf("mode %04o lets others write to it", info.Mode().Perm())
	}
	if err == nil {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("audit directory %s: %w", dir, err)
	}
	return d, nil
}

// file is what the log needs of the file it writes.
type file interface {
	Write([]byte) (int, error)
	Truncate(int64) error
	Sync() error
	Close() error
}

// openAppend opens the current file for writing, making it if it is not there.
// O_APPEND: bytes that someone else put at the end are never written over.
func openAppend(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening audit log for writing: %w", err)
	}
	return f, nil
}

// setAside copies the bytes of path from off on into a side file named after the
// last whole record.
func setAside(dir, path string, off int64, last uint64) (string, error) {
	src, err := openRead(path)
	if err != nil {
		return "", err
	}
	defer src.Close()
	if _, err := src.Seek(off, io.SeekStart); err != nil {
		return "", fmt.Errorf("setting aside a torn line: %w", err)
	}
	var dst *os.File
	name := ""
	for n := range maxTorn {
		name = fmt.Sprintf("%s%016d-%02d%s", tornPrefix, last, n, tornSuffix)
		dst, err = os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if !errors.Is(err, fs.ErrExist) {
			break
		}
	}
	if err != nil {
		return "", fmt.Errorf("setting aside a torn line: %w", err)
	}
	_, err = dst.ReadFrom(src)
	if err = errors.Join(err, dst.Sync(), dst.Close()); err != nil {
		return "", errors.Join(fmt.Errorf("setting aside a torn line: %w", err), os.Remove(dst.Name()))
	}
	return name, nil
}

// pruneTorn keeps the newest maxTorn side files: crashes must not fill the disk.
func pruneTorn(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("listing audit log: %w", err)
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		return !strings.HasPrefix(e.Name(), tornPrefix) || !strings.HasSuffix(e.Name(), tornSuffix)
	})
	for len(entries) > maxTorn && err == nil {
		err = os.Remove(filepath.Join(dir, entries[0].Name()))
		entries = entries[1:]
	}
	return err
}
