package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// StateDir is the folder in which the agent keeps what it finds out, as its unit makes it.
const StateDir = "/var/lib/cosentry"

// keptDir is the folder in StateDir with the copies of settings.
const keptDir = "settings"

// Kept are settings with which an agent started well.
type Kept struct {
	Config
	File string    // the copy
	At   time.Time // when it was made
}

// KeptFile is where the copy of the settings at path is, in the state folder dir. Each settings file has its own: what somebody
// tries out by hand is not what the service falls back on.
func KeptFile(dir, path string) string {
	return filepath.Join(dir, keptDir, url.PathEscape(filepath.Clean(path)))
}

// Keep makes data the copy of the settings at path. A copy that says the same already is left alone.
func Keep(dir, path string, data []byte) error {
	file := KeptFile(dir, path)
	folder := filepath.Dir(file)
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keeping a copy of the settings: %w", err)
	}
	if err := ownFolders(dir); err != nil {
		return fmt.Errorf("keeping a copy of the settings: %w", err)
	}
	if now, _, err := readKept(dir, path); err == nil && bytes.Equal(now, data) {
		return nil
	}
	if err := replace(folder, file, data); err != nil {
		return fmt.Errorf("keeping a copy of the settings: %w", err)
	}
	return nil
}

// replace puts the file in place whole, and so that it is there after a power cut.
func replace(folder, file string, data []byte) error {
	f, err := os.CreateTemp(folder, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // renamed, as a rule
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return err
	}
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// LoadKept reads the copy of the settings at path. An error wraps fs.ErrNotExist where there is none. A copy that this user (root,
// for the service) has not written alone counts for nothing: it decides what runs on the node.
func LoadKept(dir, path string) (Kept, error) {
	data, at, err := readKept(dir, path)
	if err != nil {
		return Kept{}, fmt.Errorf("reading the copy of the settings: %w", err)
	}
	file := KeptFile(dir, path)
	c, err := parse(data)
	if err != nil {
		return Kept{}, &FaultyError{Path: file, Err: err}
	}
	return Kept{c, file, at}, nil
}

func readKept(dir, path string) (data []byte, at time.Time, err error) {
	// Nothing is followed or waited for.
	f, err := os.OpenFile(KeptFile(dir, path), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, at, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, at, err
	}
	if err := errors.Join(ownFolders(dir), ownFile(f.Name(), info)); err != nil {
		return nil, at, err
	}
	data, err = io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(data) > maxSize {
		err = fmt.Errorf("%s is larger than %d bytes", f.Name(), maxSize)
	}
	return data, info.ModTime(), err
}

// ownFolders says why somebody else could have put a copy into its place. The folders above are the system's.
func ownFolders(dir string) error {
	for _, d := range []string{dir, filepath.Join(dir, keptDir)} {
		info, err := os.Lstat(d)
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
			return fmt.Errorf("%s is not a folder in which this user (uid %d) alone can write", d, os.Geteuid())
		}
	}
	return nil
}

// ownFile says why somebody else could have written, or have another name for, the file.
func ownFile(name string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 || st.Nlink != 1 {
		return fmt.Errorf("%s (%v) is not a file of this user (uid %d) alone", name, info.Mode(), os.Geteuid())
	}
	return nil
}
