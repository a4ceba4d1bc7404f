package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// identity says whether a path still leads to the file that was opened.
type identity struct{ dev, ino uint64 }

func identify(path string) (identity, int64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return identity{}, 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return identity{uint64(st.Dev), st.Ino}, st.Size, nil
}

// openCurrent opens the current file, or makes it, and sets aside a torn last line.
// The head stays: what is in the file does not decide what comes next.
func (s *store) openCurrent() error {
	at, err := readFileState(s.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	isNew := err != nil
	f, err := s.openFile(s.path)
	if err != nil {
		return err
	}
	if at.torn > 0 {
		name, err := setAside(s.opts.Dir, s.path, at.size, at.last.Seq)
		if err != nil {
			// A full disk. The decision that these bytes were about was never
			// answered; better to lose them than to write no more.
			s.event(err)
			name = "no file, for: " + err.Error()
		}
		if err := pruneTorn(s.opts.Dir); err != nil {
			s.event(err)
		}
		if err := f.Truncate(at.size); err != nil {
			f.Close()
			return fmt.Errorf("cutting a torn line off the audit log: %w", err)
		}
		s.event(fmt.Errorf("audit log ended in a torn line: %d bytes set aside in %s", at.torn, name))
		s.notice("%d bytes of a torn line after record %d were set aside in %s", at.torn, at.last.Seq, name)
	}
	id, _, err := identify(s.path)
	if err == nil && isNew {
		err = s.dir.Sync()
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("opening audit log for writing: %w", err)
	}
	s.f, s.id, s.size, s.first, s.dirty = f, id, at.size, at.first, false
	return nil
}

// rotate renames the current file and starts a new one. If the renaming fails
// the log goes on in the file it has. The error is that there is no file to write to.
func (s *store) rotate() error {
	if err := s.f.Sync(); err != nil {
		s.event(fmt.Errorf("syncing audit log: %w", err))
	}
	first := s.first
	if first == 0 { // no line of it is a record: it sorts before the one that will be next
		first = s.head.Seq
	}
	if err := renameNew(s.path, filepath.Join(s.opts.Dir, rotatedName(first))); err != nil {
		s.event(fmt.Errorf("rotating audit log: %w", err))
		s.turnAt = s.size + s.opts.MaxFileSize/16 // not again at once: each try is a sync
		return nil
	}
	s.turnAt = s.opts.MaxFileSize
	if err := s.f.Close(); err != nil {
		s.event(fmt.Errorf("rotating audit log: %w", err))
	}
	s.f = nil
	s.prune() // first: it may be what makes room for the new file
	return s.openCurrent()
}

// renameNew renames without ever replacing a file. The directory is locked and
// nobody else may write to it, so looking first is enough.
func renameNew(from, to string) error {
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("%s is in the way", to), err)
	}
	return os.Rename(from, to)
}

// prune removes the oldest rotated files beyond MaxFiles.
func (s *store) prune() {
	names, err := listRotated(s.opts.Dir)
	for len(names) > s.opts.MaxFiles-1 && err == nil {
		err = os.Remove(filepath.Join(s.opts.Dir, names[0]))
		names = names[1:]
	}
	if err != nil {
		s.event(fmt.Errorf("removing old audit files: %w", err))
	}
}
