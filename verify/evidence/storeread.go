package evidence

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cosentry/cosentry/verify/rescue"
)

// maxReaders is how many entries are read at once, and how many reads a disk can hang.
const maxReaders = 4

// errReaders is what is told instead of waiting for readers that all hang.
var errReaders = errors.New("the disk does not answer those who read")

// Recall returns what was kept in answer to q, or to a question that asked for more about the same; or nil. It waits for
// the disk as long as ctx lasts, and not at all if the disk is known to hang.
func (s *Store) Recall(ctx context.Context, q Question) *Evidence {
	s.poke() // a folder that could not be opened may be by now
	all := widerThan(q)
	e, there := s.inMemory(all)
	if e != nil || !there {
		return e
	}
	e, err := s.bounded(ctx, func() *Evidence { return s.recallAny(all) })
	s.report(&s.reading, err, "kept evidence could not be read in time", "repository", escape(q.Repository), "digest", q.Digest)
	return e
}

// inMemory looks for an answer that is still to be written, and says whether there may be one on disk.
func (s *Store) inMemory(all []Question) (e *Evidence, there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range all {
		name := entryName(q)
		if e := s.queue.waiting[name]; e != nil {
			return e, true
		}
		there = there || s.stock != nil || s.kept.Contains(name)
	}
	return nil, there
}

// bounded has read done by a goroutine of its own, and waits for it no longer than ctx lasts. A read that nobody waits for
// keeps its place until the disk answers.
func (s *Store) bounded(ctx context.Context, read func() *Evidence) (*Evidence, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	found := make(chan *Evidence, 1) // which nobody may take
	var over, givenUp bool           // under mu
	var e *Evidence
	begin(s.log, "reading kept evidence", func() error { e = read(); return nil }, func(error) {
		found <- e
		s.mu.Lock()
		defer s.mu.Unlock()
		if over = true; givenUp {
			s.abandoned--
		}
		<-s.readers
	})
	select {
	case e := <-found:
		return e, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	if !over {
		givenUp = true
		s.abandoned++
	}
	s.mu.Unlock()
	select {
	case e := <-found:
		return e, nil
	default:
		return nil, context.Cause(ctx)
	}
}

// enter waits for a place to read in.
func (s *Store) enter(ctx context.Context) error {
	s.mu.Lock()
	hung := s.abandoned >= maxReaders
	s.mu.Unlock()
	if hung {
		return errReaders
	}
	select {
	case s.readers <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// widerThan lists q, and the questions that ask for all that q does and for more.
func widerThan(q Question) (all []Question) {
	for _, attestations := range []bool{false, true} {
		for _, config := range []bool{false, true} {
			wider := q
			wider.Attestations, wider.Config = attestations, config
			if wider.asked().Answers(q) {
				all = append(all, wider)
			}
		}
	}
	return all
}

func (s *Store) recallAny(all []Question) *Evidence {
	for _, q := range all {
		if e := s.recall(q); e != nil {
			return e
		}
	}
	return nil
}

// recall reads one entry, and drops it if its content cannot be used. An error of the disk, or of a process without file
// descriptors, says nothing about the content: evidence would be lost that is as good as ever. Evidence is verified anew at each use, so it may be read
// before stock was taken.
func (s *Store) recall(q Question) *Evidence {
	name := entryName(q)
	path := filepath.Join(s.dir, name)
	for range 2 { // it may be written anew while it is read
		waiting, before, there := s.look(name)
		if waiting != nil || !there {
			return waiting
		}
		if before == nil {
			if _, err := os.Lstat(path); err != nil {
				return nil
			}
		}
		e, err := s.readEntry(path, q)
		if err == nil {
			s.report(&s.recalling, nil, unusable, "repository", escape(q.Repository), "digest", q.Digest)
			s.report(&s.unreadable, nil, unread, "repository", escape(q.Repository), "digest", q.Digest)
			s.used(name)
			return e
		}
		if !aboutContent(err) {
			s.report(&s.unreadable, err, unread, "repository", escape(q.Repository), "digest", q.Digest)
			return nil
		}
		if s.drop(name, before) {
			s.report(&s.recalling, err, unusable, "repository", escape(q.Repository), "digest", q.Digest)
			return nil
		}
	}
	return nil
}

const (
	unusable = "kept evidence cannot be used and is dropped"
	unread   = "kept evidence could not be read"
)

// aboutContent says whether an error of reading an entry is one that the same files have each time.
func aboutContent(err error) bool {
	return errors.Is(err, ErrMismatch) || errors.Is(err, ErrNotFound) || errors.Is(err, rescue.ErrPanicked) || isExceeded(err)
}

// look gives what is to be written to an entry, or else what is known of it and whether it may be there.
func (s *Store) look(name string) (waiting *Evidence, e *entry, there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e = s.known(name)
	return s.queue.waiting[name], e, e != nil || s.stock != nil
}

func (s *Store) readEntry(path string, q Question) (e *Evidence, err error) {
	// What makes a parser panic is of no more use than what it refuses.
	err = rescue.Do(s.log, "reading kept evidence", func() (err error) {
		e, err = s.disk.read(path)
		return err
	})
	if err == nil && !e.Answers(q) {
		err = fmt.Errorf("%w: it is about %s@%s", ErrMismatch, escape(e.Repository), e.Digest)
	}
	return e, err
}

// used notes that an entry was of use, here and, by the one who writes, for the next start.
func (s *Store) used(name string) {
	now := time.Now()
	s.mu.Lock()
	if s.stock == nil {
		s.kept.Get(name)
	} else if e := s.stock[name]; e != nil {
		e.used = now
	}
	s.marks[name] = now // one for each entry that there is
	s.mu.Unlock()
	s.poke()
}

// drop has an entry removed, and says whether that was the one that is meant by before: not one that was written since.
func (s *Store) drop(name string, before *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue.waiting[name] != nil || s.known(name) != before {
		return false
	}
	if s.stock == nil {
		s.kept.Remove(name) // and so it falls
	} else {
		delete(s.stock, name)
		s.fallen[name] = true
	}
	s.poke()
	return true
}
