package audit

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Options say where and how a log is kept. Zero values take the defaults given.
type Options struct {
	Dir         string // made with mode 0700 if missing; must not be writable by others
	MaxFileSize int64  // bytes, at least 64 KiB; default 16 MiB
	MaxFiles    int    // the current one included; older ones are removed at rotation; default 10
	Required    bool   // a record that cannot be written is an error of Append
	QueueSize   int    // records held while they cannot be written; default 1024; none with Required

	// WriteTimeout bounds how long Append, Open and Close wait for the disk; default 2 s.
	WriteTimeout time.Duration

	// Log gets each record that was not written when it was due, as JSON at level
	// warn, and the faults at level error.
	Log *slog.Logger
	// Fault is called once for each fault: that records cannot be written (once
	// for each reason until they can be again, not for each record), that rotation, a
	// sync or the removal of an old file failed, that a torn line was set
	// aside, that the file was altered by someone else.
	Fault func(error)
	// Lost is called with the number of records that are in no file and never
	// will be: they did not fit into the queue, or were in it when Close gave up,
	// or could not be written with Required. Each is counted once.
	Lost func(n int)

	// Fault and Lost may be called by several goroutines at once, with no lock
	// held. Append returns after the calls that are due to its record.
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
	case o.WriteTimeout < 0:
		return fmt.Errorf("audit: write timeout %v is negative", o.WriteTimeout)
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
	if o.WriteTimeout == 0 {
		o.WriteTimeout = 2 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Fault == nil {
		o.Fault = func(error) {}
	}
	if o.Lost == nil {
		o.Lost = func(int) {}
	}
	return nil
}

// ErrClosed is what Append returns after Close.
var ErrClosed = errors.New("audit log is closed")

// Log appends to the log in one directory. Its methods may be called concurrently.
//
// All work on files is one goroutine's. A disk that hangs (a frozen file system,
// a server that is gone) hangs that goroutine and nobody else: no lock is held
// over a system call.
type Log struct {
	opts       Options
	store      *store // the writer's, but for store.published
	retryAfter time.Duration

	wake    chan struct{} // there is something in the queue
	started chan struct{} // closed once the log was opened, or could not be
	stop    chan struct{}
	done    chan error // the writer's last word

	calls sync.Pool // of *call

	mu        sync.Mutex
	closed    bool // no more records are taken
	abandoned bool // what is in the queue was counted as lost
	queue     queue
	outage    outage
	looking   bool // timer runs
	timer     *time.Timer
}

// call is what one Append needs. The writer may read enc's buffer until done is answered with nil.
type call struct {
	enc  *encoder
	done chan error // nil: written
}

// Open goes on where the log ends. Its errors are bad options alone. A log that
// cannot be opened now (ErrLocked, a directory that others may write to, a disk that
// does not answer) is tried again every 10 s: until then Fault says why, and
// Append deals with records as on a full disk, so that the node comes up.
func Open(o Options) (*Log, error) {
	l, err := newLog(o)
	if err != nil {
		return nil, err
	}
	l.start()
	return l, nil
}

func newLog(o Options) (*Log, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	l := &Log{
		opts: o, retryAfter: time.Second,
		wake: make(chan struct{}, 1), started: make(chan struct{}), stop: make(chan struct{}), done: make(chan error, 1),
		queue: queue{limit: o.QueueSize, required: o.Required},
	}
	l.store = newStore(o, l.event)
	l.calls.New = func() any { return &call{newEncoder(), make(chan error, 1)} }
	l.timer = time.AfterFunc(time.Hour, l.look)
	l.timer.Stop()
	return l, nil
}

func (l *Log) start() {
	go l.write()
	select {
	case <-l.started:
	case <-time.After(l.opts.WriteTimeout):
		l.mu.Lock()
		n := l.giveUp()
		l.mu.Unlock()
		l.tell(n)
	}
}

// Append writes one record. It returns when the kernel has it. If that fails, or
// takes longer than Options.WriteTimeout, it is an error with
// Options.Required; otherwise the record is logged and queued (see the package
// comment) and Append returns nil. While the disk is known to hang
// it does not wait for it.
func (l *Log) Append(r Record) error {
	r.Lost = 0
	c := l.calls.Get().(*call)
	body, err := c.enc.body(r)
	if err != nil {
		return err
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.queue.push(item{body: body, done: c.done, at: time.Now()})
	var n news
	if l.outage.hung {
		n = l.giveUp()
	} else {
		l.watch()
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	l.tell(n)
	if err := <-c.done; err != nil {
		// c is not used again: the writer may be reading its buffer.
		l.opts.Log.Warn("audit record not written", "record", "{"+string(body)+"}", "error", err)
		if l.opts.Required {
			return err
		}
		return nil
	}
	l.calls.Put(c)
	return nil
}

// watch has look run. mu is held.
func (l *Log) watch() {
	if !l.looking {
		l.looking = true
		l.timer.Reset(l.opts.WriteTimeout)
	}
}

// look ends the waiting of records that have waited too long. It runs while there are
// any, or one is being written.
func (l *Log) look() {
	l.mu.Lock()
	var n news
	since, ok := l.queue.oldest()
	left := l.opts.WriteTimeout - time.Since(since)
	if ok && left <= 0 {
		n = l.giveUp()
		ok = false
	}
	l.looking = ok
	if ok {
		l.timer.Reset(left)
	}
	l.mu.Unlock()
	l.tell(n)
}

// giveUp ends all waiting for a disk that does not answer. mu is held.
func (l *Log) giveUp() news {
	n := news{err: fmt.Errorf("writing the audit log: no answer from the disk within %v", l.opts.WriteTimeout)}
	n.waiting, n.lost = l.queue.release()
	n.fresh, n.again = l.outage.fail(n.err, len(n.waiting))
	l.outage.hung = true
	return n
}

// Head is the last record that is in the file; the zero Head until the log has been opened.
func (l *Log) Head() Head {
	if h := l.store.published.Load(); h != nil {
		return *h
	}
	return Head{}
}

// Queued is how many records wait in memory for the disk after their call went on without them.
func (l *Log) Queued() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queue.records()
}

// Fault is nil while records are being written. Otherwise it says why they are
// not, and since when. It wraps the cause, ErrLocked for one.
func (l *Log) Fault() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.outage.err == nil {
		return nil
	}
	return fmt.Errorf("audit records are not written since %s: %w", l.outage.since.UTC().Format(time.RFC3339), l.outage.err)
}

// Close writes what is queued, syncs, and gives the lock back. It waits for the
// disk no longer than Options.WriteTimeout. An error says what did not reach the disk.
// Further calls do nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	close(l.stop)
	limit := time.NewTimer(l.opts.WriteTimeout)
	defer limit.Stop()
	var err, hung error
	var n news
	select {
	case err = <-l.done:
		l.mu.Lock()
	case <-limit.C:
		l.mu.Lock()
		n = l.giveUp()
		hung = n.err
	}
	l.abandoned = true
	records, marked := l.queue.records(), l.queue.marked()
	if records+marked > 0 {
		err = errors.Join(fmt.Errorf("closing audit log with %d records not written: %w", records+marked, l.outage.err), err)
	} else if hung != nil {
		err = hung
	}
	l.queue = queue{}
	l.mu.Unlock()
	n.lost += records
	l.tell(n)
	return err
}

// write is the one goroutine that touches the files.
func (l *Log) write() {
	for first := true; ; first = false {
		var again <-chan time.Time
		if l.flush() != nil {
			again = time.After(l.retryAfter)
		}
		if first {
			close(l.started)
		}
		select {
		case <-l.wake:
		case <-again:
		case <-l.stop:
			l.store.retryNow()
			l.flush()
			l.done <- l.store.close()
			close(l.done)
			return
		}
	}
}

// flush writes what is queued, in order, up to the first failure.
func (l *Log) flush() error {
	for {
		i, ok, failing := l.take()
		if !ok && l.store.settled() && !failing {
			return nil
		}
		body, err := i.body, error(nil)
		if i.lost > 0 {
			body, err = l.store.enc.body(i.marker(l.opts.Required))
			body = bytes.Clone(body)
		}
		switch {
		case err != nil:
		case ok:
			err = l.store.append(body)
		default:
			err = l.store.ready()
		}
		if err != nil {
			l.failed(err)
			return err
		}
		l.wrote(ok)
		if !ok {
			return nil
		}
	}
}

// take gives the item to be written next, and whether there is an outage.
func (l *Log) take() (i item, ok, failing bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue.items) == 0 || l.abandoned {
		return item{}, false, l.outage.err != nil
	}
	if i = l.queue.take(); i.done == nil {
		l.watch() // a hang is to be known even if nobody waits
	}
	return i, true, l.outage.err != nil
}

// wrote tells whoever waits that the record taken last is in the file, if one was
// taken; in any case the disk has answered.
func (l *Log) wrote(taken bool) {
	l.mu.Lock()
	var i item
	if taken && !l.abandoned {
		i = l.queue.pop()
	}
	if i.refused {
		l.store.notice("record %d was written late: its call had been answered as if it could not be", l.store.head.Seq)
	}
	ended := l.outage
	l.outage = outage{}
	l.mu.Unlock()
	if ended.err != nil {
		l.opts.Log.Info("audit records are written again", "since", ended.since, "delayed_or_lost", ended.records, "was", ended.err)
	}
	if i.done != nil {
		i.done <- nil
	}
}

// failed tells whoever waits that nothing can be written, because of err.
func (l *Log) failed(err error) {
	l.mu.Lock()
	n := news{err: err}
	if !l.abandoned {
		gone := l.queue.untake()
		n.waiting, n.lost = l.queue.release()
		n.lost += gone
	}
	n.fresh, n.again = l.outage.fail(err, len(n.waiting))
	l.outage.hung = false
	l.mu.Unlock()
	l.tell(n)
}
