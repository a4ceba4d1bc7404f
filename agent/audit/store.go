package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// maxNotes bounds the notices that wait to be written. Each was reported as a fault as well.
const maxNotes = 64

// store is the files. Only the writer uses it; any call may take as long as the
// disk does. published alone may be read by others.
type store struct {
	opts        Options
	path        string // of the current file
	openFile    func(path string) (file, error)
	event       func(error)
	reopenAfter time.Duration

	published atomic.Pointer[Head] // nil until the log was read

	dir    *os.File  // holds the lock; nil: not open
	noDir  error     // why dir is nil, at the last try
	tried  time.Time // to open it
	known  bool      // head is set
	noted  [][]byte  // notices to be written before anything else
	f      file      // nil: to be opened
	id     identity  // of f
	head   Head
	first  uint64 // seq of the current file's first record, 0: none yet
	size   int64  // of the current file, up to the end of the last whole record
	dirty  bool   // part of a line may stand after size
	turnAt int64  // size at which to rotate
	enc    *encoder
	buf    []byte
}

func newStore(o Options, event func(error)) *store {
	return &store{
		opts: o, path: filepath.Join(o.Dir, currentName), openFile: openAppend, event: event,
		reopenAfter: 10 * time.Second, turnAt: o.MaxFileSize, enc: newEncoder(),
	}
}

// settled says that there is nothing to be done but to write records.
func (s *store) settled() bool { return s.f != nil && len(s.noted) == 0 }

// retryNow has the next call try again what is not due yet.
func (s *store) retryNow() { s.noDir = nil }

// append writes one record. If it fails the log on disk is as before.
func (s *store) append(body []byte) error {
	if err := s.ready(); err != nil {
		return err
	}
	return s.write(body)
}

// ready sees to it that the current file is open, is the one at its path, and ends
// where the last record ended. An open file that was deleted or
// emptied under a running agent would otherwise take records that nobody can
// ever read, without a word.
func (s *store) ready() error {
	if s.f != nil {
		if err := s.clean(); err != nil {
			return err
		}
		if id, size, err := identify(s.path); err != nil || id != s.id || size != s.size {
			s.event(errors.New("audit log was altered by someone else while it was open"))
			s.notice("the file was removed, replaced, or changed in size by someone else after record %d", s.head.Seq)
			s.closeFile()
			s.closeDir() // it may be another one as well
		}
	}
	if s.dir == nil {
		if err := s.openDir(); err != nil {
			return err
		}
	}
	if s.f == nil {
		if err := s.openCurrent(); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				s.closeDir() // it is gone: made again at the next try
			}
			return err
		}
	}
	for len(s.noted) > 0 {
		if err := s.write(s.noted[0]); err != nil {
			return err
		}
		s.noted = s.noted[1:]
	}
	return nil
}

// openDir takes the directory, unless that failed a moment ago: it is more work than a write.
func (s *store) openDir() error {
	if s.noDir != nil && time.Since(s.tried) < s.reopenAfter {
		return s.noDir
	}
	s.tried = time.Now()
	s.noDir = s.takeDir()
	return s.noDir
}

func (s *store) takeDir() error {
	dir, err := openDir(s.opts.Dir)
	if err != nil {
		return err
	}
	s.dir = dir
	if s.known {
		return nil // the head stays: what is in the files does not decide what comes next
	}
	at, err := readState(s.opts.Dir)
	if err != nil {
		s.closeDir()
		return err
	}
	if at.last.Seq > 0 && at.size == 0 && at.torn == 0 {
		// The tail of the log may just have been deleted; it can't be told from here.
		s.notice("after record %d there was no current file, or an empty one: a crash during rotation, or it was removed", at.last.Seq)
	}
	s.known = true
	s.setHead(at.last)
	return nil
}

func (s *store) setHead(h Head) {
	s.head = h
	s.published.Store(&h)
}

// write appends one line to the file that ready opened, rotating first if it would not fit.
func (s *store) write(body []byte) error {
	var head Head
	s.buf, head = appendLine(s.buf[:0], s.head, body)
	if s.size > 0 && s.size+int64(len(s.buf)) > s.turnAt {
		if err := s.rotate(); err != nil {
			return err
		}
	}
	if n, err := s.f.Write(s.buf); err != nil {
		// Part of the line may be there; the next one must not be joined to it. If
		// it cannot be removed now, ready tries again before anything is written.
		s.dirty = n > 0
		s.clean()
		return fmt.Errorf("writing audit record: %w", err)
	}
	s.setHead(head)
	s.size += int64(len(s.buf))
	if s.first == 0 {
		s.first = head.Seq
	}
	return nil
}

// clean removes a part of a line that a failed write left.
func (s *store) clean() error {
	if !s.dirty {
		return nil
	}
	if err := s.f.Truncate(s.size); err != nil {
		return fmt.Errorf("removing a partly written audit record: %w", err)
	}
	s.dirty = false
	return nil
}

// note is the body of a record by the log itself.
func (s *store) note(format string, args ...any) []byte {
	body, err := s.enc.body(Record{Action: ActionAudit, Decision: DecisionWarn, Reason: fmt.Sprintf(format, args...)})
	if err != nil {
		s.event(err)
	}
	return append([]byte(nil), body...)
}

// notice has a note written before the next record.
func (s *store) notice(format string, args ...any) {
	if len(s.noted) < maxNotes {
		s.noted = append(s.noted, s.note(format, args...))
	}
}

// close syncs, and gives the lock back.
func (s *store) close() error {
	var err error
	if s.f != nil {
		err = s.f.Sync()
	}
	err = errors.Join(err, s.closeFile(), s.closeDir())
	if err != nil {
		return fmt.Errorf("closing audit log: %w", err)
	}
	return nil
}

func (s *store) closeFile() error {
	f := s.f
	s.f = nil
	if f == nil {
		return nil
	}
	return f.Close()
}

func (s *store) closeDir() error {
	d := s.dir
	s.dir = nil
	if d == nil {
		return nil
	}
	return d.Close()
}
