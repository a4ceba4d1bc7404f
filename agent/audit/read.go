package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"
)

// pollEvery is how often Read looks for more when it follows.
const pollEvery = 200 * time.Millisecond

// Entry is a record and where it stands.
type Entry struct {
	Record
	Seq  uint64
	Hash string
	Raw  []byte // the line as it is on disk, without its newline
}

// ReadOptions choose what Read gives.
type ReadOptions struct {
	Last   int       // only the last so many lines; 0: all; less is an error
	Since  time.Time // only records from then on; zero: all
	Follow bool      // then go on with what is written, until ctx ends
}

// Read gives the log's records in order, across rotation, while it may be in
// use. Each line is checked against its own hash and number; for a line that
// fails, or records that are missing, there is a *BrokenError in its place and
// reading goes on, so that a damaged log can be read. Any other error
// is the last. It is no proof: that is VerifyDir. A torn last line is not given.
func Read(ctx context.Context, dir string, o ReadOptions) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r := reader{ctx: ctx, dir: dir, opts: o, yield: yield}
		if err := r.run(); err != nil && !errors.Is(err, errStop) {
			yield(Entry{}, err)
		}
	}
}

// errStop ends reading because the caller broke out of the loop, or ctx ended.
var errStop = errors.New("stop")

type reader struct {
	ctx   context.Context
	dir   string
	opts  ReadOptions
	yield func(Entry, error) bool

	last uint64 // seq last seen
	skip int    // lines to pass over
}

// place is how far a file has been read.
type place struct {
	f    *os.File
	name string
	off  int64
	line int
}

func (r *reader) run() error {
	if r.opts.Last < 0 {
		return fmt.Errorf("reading audit log: the last %d lines were asked for", r.opts.Last)
	}
	rotated, current, err := r.start()
	if err != nil {
		return err
	}
	for {
		err := r.rotated(rotated)
		at := place{f: current, name: currentName}
		if err == nil && current != nil {
			err = r.drain(&at)
		}
		if err == nil && r.opts.Follow {
			err = r.follow(&at)
		}
		if current != nil {
			current.Close()
		}
		if err != nil || !r.opts.Follow {
			return err
		}
		// The current file was rotated. Go on with all that is newer than what was read.
		rotated, current, err = snapshot(r.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for len(rotated) > 0 {
			if seq, _ := rotatedSeq(rotated[0]); seq > r.last {
				break
			}
			rotated = rotated[1:]
		}
	}
}

// start takes the snapshot and finds where the last lines that were asked for begin.
func (r *reader) start() ([]string, *os.File, error) {
	rotated, current, err := snapshot(r.dir)
	if errors.Is(err, fs.ErrNotExist) && r.opts.Follow {
		return nil, nil, nil // not there yet
	}
	if err != nil || r.opts.Last == 0 {
		return rotated, current, err
	}
	n := 0
	if current != nil {
		n, err = countLines(current)
	}
	i := len(rotated)
	for ; err == nil && n < r.opts.Last && i > 0; i-- {
		var f *os.File
		if f, err = openRead(filepath.Join(r.dir, rotated[i-1])); err == nil {
			var more int
			more, err = countLines(f)
			n += more
			f.Close()
		}
	}
	if err != nil && current != nil {
		current.Close()
	}
	r.skip = max(0, n-r.opts.Last)
	return rotated[i:], current, err
}

func countLines(f *os.File) (int, error) {
	buf := make([]byte, 64<<10)
	in := io.NewSectionReader(f, 0, 1<<62)
	n := 0
	for {
		k, err := in.Read(buf)
		n += bytes.Count(buf[:k], []byte{'\n'})
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("reading audit log: %w", err)
		}
	}
}

func (r *reader) rotated(names []string) error {
	for _, name := range names {
		f, err := openRead(filepath.Join(r.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // rotation removed it; the gap is reported with the next record
		}
		if err != nil {
			return err
		}
		err = r.drain(&place{f: f, name: name})
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// drain gives the whole lines from the place on, and moves it. Part of a
// line is left for the next time: its writer may be at it, or take it back.
func (r *reader) drain(at *place) error {
	in := newLines(io.NewSectionReader(at.f, at.off, 1<<62))
	in.n, in.off = at.line, at.off
	for {
		line, err := in.next()
		if err == io.EOF || errors.Is(err, errTorn) {
			return nil
		}
		if err != nil && !errors.Is(err, errLong) {
			return err
		}
		at.off, at.line = in.off, in.n // of errLong there is no line, which is not a record either
		if r.skip > 0 {
			r.skip--
			continue
		}
		if err := r.give(at, line); err != nil {
			return err
		}
	}
}

func (r *reader) give(at *place, line []byte) error {
	if r.ctx.Err() != nil {
		return errStop
	}
	bad := &BrokenError{File: at.name, Line: at.line, Seq: r.last + 1, Why: WhyUnparsable}
	head, _, err := parseLine(line)
	var rec Record
	if err == nil {
		rec, err = decodeRecord(line)
	}
	if err != nil {
		if errors.Is(err, errHash) {
			bad.Seq, bad.Why = head.Seq, WhyHash
		}
		return r.send(Entry{}, bad)
	}
	if r.last > 0 && head.Seq != r.last+1 {
		bad.Seq, bad.Why, bad.Want = head.Seq, WhyGap, fmt.Sprintf("record %d", r.last+1)
		if err := r.send(Entry{}, bad); err != nil {
			return err
		}
	}
	r.last = head.Seq
	if rec.Time.Before(r.opts.Since) {
		return nil
	}
	return r.send(Entry{Record: rec, Seq: head.Seq, Hash: head.Hash, Raw: bytes.Clone(line)}, nil)
}

func (r *reader) send(e Entry, err error) error {
	if !r.yield(e, err) {
		return errStop
	}
	return nil
}

// follow gives what is added to the current file, and returns when there is
// another one in its place, or there was none and now is.
func (r *reader) follow(at *place) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return errStop
		case <-tick.C:
		}
		now, err := os.Lstat(filepath.Join(r.dir, currentName))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("following audit log: %w", err)
		}
		if at.f == nil {
			if err == nil {
				return nil
			}
			continue
		}
		own, statErr := at.f.Stat()
		if statErr != nil {
			return fmt.Errorf("following audit log: %w", statErr)
		}
		if own.Size() < at.off { // not by its writer: that only takes back part of a line
			bad := &BrokenError{File: at.name, Line: at.line, Seq: r.last, Why: WhyTruncated}
			if err := r.send(Entry{}, bad); err != nil {
				return err
			}
			at.off = own.Size()
		}
		// If it was rotated, its writer was done with it before: this reads the rest.
		if err := r.drain(at); err != nil {
			return err
		}
		if err == nil && !os.SameFile(now, own) {
			return nil
		}
	}
}
