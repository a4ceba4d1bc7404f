package audit

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Options say where and how a log is kept. Zero values take the defaults given.
type Options struct {
	Dir         string // made with mode 0700 if missing; must not be writable by others
	MaxFileSize int64  // bytes, at least 64 KiB; default 16 MiB
	MaxFiles    int    // the current one included; older ones are removed at rotation; default 10
	Required    bool   // a record that cannot be written is an error of Append
	QueueSize   int    // records held while they cannot be written; default 1024

	// Log gets each record that could not be written, and what was wrong.
	Log *slog.Logger
	// Failed is called, without locks held, for each fault: a failed write, a
	// lost record, a rotation that did not work, a file altered by someone else.
	Failed func(error)
}

func (o *Options) check() error {
	switch {
	case o.Dir == "":
		return errors.New("audit: no directory given")
	case o.MaxFileSize != 0 && o.MaxFileSize < maxLine:
		return fmt.Errorf("audit: maximum file size %d is less than one record may take (%d)", o.MaxFileSize, maxLine)
	case o.MaxFiles < 0:
		return fmt.Errorf("audit: maximum number of files %d is negative", o.MaxFiles)
	case o.QueueSize < 0:
		return fmt.Errorf("audit: queue size %d is negative", o.QueueSize)
	}
	if o.MaxFileSize == 0 {
		o.MaxFileSize = 16 << 20
	}
	if o.MaxFiles == 0 {
		o.MaxFiles = 10
	}
	if o.QueueSize == 0 {
		o.QueueSize = 1024
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	return nil
}

// ErrClosed is what Append returns after Close.
var ErrClosed = errors.New("audit log is closed")

// Log appends to the log in one directory. Its methods may be called concurrently.
type Log struct {
	opts       Options
	path       string // of the current file
	openFile   func(path string) (file, error)
	retryAfter time.Duration

	mu       sync.Mutex
	closed   bool
	dir      *os.File // holds the lock
	f        file     // nil: to be opened
	id       identity // of f
	head     Head
	first    uint64 // seq of the current file's first record, 0: none yet
	size     int64  // of the current file, up to the end of the last whole record
	dirty    bool   // part of a line may stand after size
	rotateAt int64
	queue    queue
	retrying bool
	enc      *encoder
	buf      []byte
	faults   []error // to be reported once mu is free
}

// Open takes the directory's lock and goes on where the log ends. A line that a
// crash left torn is moved to a side file, reported, and recorded in the log.
// That nothing can be written (a full disk) is no error here: Append deals with it,
// so that a node with a full disk still comes up.
func Open(o Options) (*Log, error) { return open(o, openAppend) }

func open(o Options, openFile func(string) (file, error)) (*Log, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	dir, err := openDir(o.Dir)
	if err != nil {
		return nil, err
	}
	l := &Log{
		opts: o, path: filepath.Join(o.Dir, currentName), openFile: openFile, retryAfter: time.Second,
		dir: dir, rotateAt: o.MaxFileSize, queue: queue{limit: o.QueueSize}, enc: newEncoder(),
	}
	s, err := readState(o.Dir)
	if err != nil {
		dir.Close()
		return nil, err
	}
	l.head = s.last
	l.mu.Lock()
	if s.last.Seq > 0 && s.size == 0 && s.torn == 0 {
		// The tail of the log may just have been deleted; it can't be told from here.
		l.queue.push(l.note("after record %d there was no current file, or an empty one: a crash during rotation, or it was removed", s.last.Seq))
	}
	if err := l.flush(); err != nil {
		l.fault(err)
	}
	l.unlock()
	return l, nil
}

// Append writes one record. It returns when the kernel has it. If that fails
// it is an error with Options.Required, and nothing of the record
// remains; otherwise the record is logged and queued (see the package comment)
// and Append returns nil.
func (l *Log) Append(r Record) error {
	r.Lost = 0
	l.mu.Lock()
	defer l.unlock()
	if l.closed {
		return ErrClosed
	}
	if err := l.flush(); err != nil {
		return l.keep(r, err)
	}
	body, err := l.enc.body(r)
	if err != nil {
		return err
	}
	if err := l.write(body); err != nil {
		return l.keep(r, err)
	}
	return nil
}

// keep deals with a record that could not be written, because of why.
func (l *Log) keep(r Record, why error) error {
	l.fault(why)
	if l.opts.Required {
		return why
	}
	body, err := l.enc.body(r)
	if err != nil {
		return err
	}
	l.opts.Log.Error("audit record not written", "record", "{"+string(body)+"}", "error", why)
	if !l.queue.push(body) {
		l.fault(errors.New("audit queue is full: a record is lost"))
	}
	l.retryLater()
	return nil
}

// flush makes the file ready and writes what is queued, in order.
func (l *Log) flush() error {
	if err := l.ready(); err != nil {
		return err
	}
	for len(l.queue.items) > 0 {
		i := l.queue.items[0]
		body := i.body
		if i.lost > 0 {
			var err error
			if body, err = l.enc.body(i.marker()); err != nil {
				return err
			}
		}
		if err := l.write(body); err != nil {
			return err
		}
		l.queue.pop()
	}
	return nil
}

// retryLater writes the queue when the disk has room again even if no further
// record comes.
func (l *Log) retryLater() {
	if l.retrying {
		return
	}
	l.retrying = true
	time.AfterFunc(l.retryAfter, func() {
		l.mu.Lock()
		defer l.unlock()
		l.retrying = false
		if l.closed {
			return
		}
		if l.flush() != nil { // reported when it was queued
			l.retryLater()
		}
	})
}

// write appends one line, rotating first if it would not fit. If it fails, the
// log on disk is as before.
func (l *Log) write(body []byte) error {
	var head Head
	l.buf, head = appendLine(l.buf[:0], l.head, body)
	if l.size > 0 && l.size+int64(len(l.buf)) > l.rotateAt {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	if n, err := l.f.Write(l.buf); err != nil {
		// Part of the line may be there; the next one must not be joined to it. If
		// it cannot be removed now, ready tries again before anything is written.
		l.dirty = n > 0
		l.clean()
		return fmt.Errorf("writing audit record: %w", err)
	}
	l.head = head
	l.size += int64(len(l.buf))
	if l.first == 0 {
		l.first = head.Seq
	}
	return nil
}

// clean removes a part of a line that a failed write left.
func (l *Log) clean() error {
	if !l.dirty {
		return nil
	}
	if err := l.f.Truncate(l.size); err != nil {
		return fmt.Errorf("removing a partly written audit record: %w", err)
	}
	l.dirty = false
	return nil
}

// Head is the last record that is in the file.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Close writes what is queued, syncs, and gives the lock back. An error says what
// did not reach the disk. Further calls do nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	err := l.flush()
	if n := len(l.queue.items); n > 0 {
		err = fmt.Errorf("closing audit log with %d records not written: %w", n, err)
	}
	if l.f != nil {
		err = errors.Join(err, l.f.Sync(), l.f.Close())
	}
	return errors.Join(err, l.dir.Close())
}

func (l *Log) fault(err error) { l.faults = append(l.faults, err) }

// unlock gives the mutex back and then reports: whoever is told may call Head.
func (l *Log) unlock() {
	faults := l.faults
	l.faults = nil
	l.mu.Unlock()
	for _, err := range faults {
		l.opts.Log.Error("audit log", "error", err)
		l.opts.Failed(err)
	}
}
