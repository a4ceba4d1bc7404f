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

// ready sees to it that the current file is open, is the one at its path, and ends
// where the last record ended. An open file that was deleted or
// emptied under a running agent would otherwise take records that nobody can
// ever read, without a word.
func (l *Log) ready() error {
	if l.f != nil {
		if err := l.clean(); err != nil {
			return err
		}
		id, size, err := identify(l.path)
		if err == nil && id == l.id && size == l.size {
			return nil
		}
		l.fault(errors.New("audit log was altered by someone else while it was open"))
		l.queue.push(l.note("the file was removed, replaced, or changed in size by someone else after record %d", l.head.Seq))
		l.f.Close()
		l.f = nil
	}
	return l.openCurrent()
}

// openCurrent opens the current file, or makes it, and sets aside a torn last line.
// The head stays: what is in the file does not decide what comes next.
func (l *Log) openCurrent() error {
	s, err := readFileState(l.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	isNew := err != nil
	f, err := l.openFile(l.path)
	if err != nil {
		return err
	}
	if s.torn > 0 {
		name, err := setAside(l.opts.Dir, l.path, s.size, s.last.Seq)
		if err != nil {
			// A full disk. The decision that these bytes were about was never
			// answered; better to lose them than to write no more.
			l.fault(err)
			name = "no file, for: " + err.Error()
		}
		if err := pruneTorn(l.opts.Dir); err != nil {
			l.fault(err)
		}
		if err := f.Truncate(s.size); err != nil {
			f.Close()
			return fmt.Errorf("cutting a torn line off the audit log: %w", err)
		}
		l.fault(fmt.Errorf("audit log ended in a torn line: %d bytes set aside in %s", s.torn, name))
		l.queue.push(l.note("%d bytes of a torn line after record %d were set aside in %s", s.torn, s.last.Seq, name))
	}
	id, _, err := identify(l.path)
	if err == nil && isNew {
		err = l.dir.Sync()
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("opening audit log for writing: %w", err)
	}
	l.f, l.id, l.size, l.first, l.dirty = f, id, s.size, s.first, false
	return nil
}

// note is the body of a record by the log itself.
func (l *Log) note(format string, args ...any) []byte {
	body, err := l.enc.body(Record{Action: ActionAudit, Decision: DecisionWarn, Reason: fmt.Sprintf(format, args...)})
	if err != nil {
		l.fault(err)
	}
	return append([]byte(nil), body...)
}

// rotate renames the current file and starts a new one. If the renaming fails
// the log goes on in the file it has. The error is that there is no file to write to.
func (l *Log) rotate() error {
	if err := l.f.Sync(); err != nil {
		l.fault(fmt.Errorf("syncing audit log: %w", err))
	}
	first := l.first
	if first == 0 { // no line of it is a record: it sorts before the one that will be next
		first = l.head.Seq
	}
	if err := renameNew(l.path, filepath.Join(l.opts.Dir, rotatedName(first))); err != nil {
		l.fault(fmt.Errorf("rotating audit log: %w", err))
		l.rotateAt = l.size + l.opts.MaxFileSize/16 // not again at once: each try is a sync
		return nil
	}
	l.rotateAt = l.opts.MaxFileSize
	if err := l.f.Close(); err != nil {
		l.fault(fmt.Errorf("rotating audit log: %w", err))
	}
	l.f = nil
	l.prune() // first: it may be what makes room for the new file
	return l.openCurrent()
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
func (l *Log) prune() {
	names, err := listRotated(l.opts.Dir)
	for len(names) > l.opts.MaxFiles-1 && err == nil {
		err = os.Remove(filepath.Join(l.opts.Dir, names[0]))
		names = names[1:]
	}
	if err != nil {
		l.fault(fmt.Errorf("removing old audit files: %w", err))
	}
}
