package evidence

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cosentry/cosentry/verify/rescue"
)

// openAgain is how often a folder that could not be opened is tried.
const openAgain = time.Minute

// unfinished begins the names of folders that are being written.
const unfinished = ".new-"

// removedPerWrite is how many entries are removed after each that is written, if as many fell. Most writes have one fall; a
// disk that has always something to write catches up.
const removedPerWrite = 4

var (
	errGone      = errors.New("the folder went away")
	errUncounted = errors.New("what is in the folder is still being counted, and there may be no room")
)

// start begins the one goroutine that writes, removes, and takes stock.
func (s *Store) start() {
	begin(s.log, "keeping evidence", s.run, func(err error) {
		if err != nil {
			s.log.Error("evidence is not kept on disk until the agent starts again", "folder", s.dir, "error", err)
		}
		close(s.done)
	})
}

func (s *Store) run() error {
	for {
		s.work()
		select {
		case <-s.wake:
		case <-s.stop:
			s.work()
			return nil
		}
	}
}

// work does all that there is to do.
func (s *Store) work() {
	for s.ready() {
		if s.write() {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue.discard()
}

// ready says whether the folder can be written to, and opens it if it is time to try.
func (s *Store) ready() bool {
	s.mu.Lock()
	stocked := s.stock == nil
	s.mu.Unlock()
	if stocked {
		return true
	}
	now := s.now()
	if !s.tried.IsZero() && now.Sub(s.tried) < openAgain {
		return false
	}
	s.tried = now
	err := s.open()
	s.report(&s.opening, err, "the folder for kept evidence cannot be used; signatures are not kept on disk", "folder", s.dir)
	return err == nil
}

// open makes the folder and takes stock of it. There may be a hundred thousand files to look at, on a disk that takes
// its time over each: what is to be written meanwhile does not wait for it, nor does the end of the store.
func (s *Store) open() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	names, err := s.list()
	if err != nil {
		return err
	}
	for _, name := range names {
		if s.ending() {
			return nil
		}
		s.measure(name)
		if !s.write() {
			return errGone
		}
	}
	s.stocked()
	return nil
}

func (s *Store) ending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// list gives the names of the entries, and removes what a crash left unfinished.
func (s *Store) list() (names []string, err error) {
	found, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	for _, f := range found {
		switch name := f.Name(); {
		case strings.HasPrefix(name, unfinished):
			s.remove(name)
		case isEntry(name):
			names = append(names, name)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		s.stock[name] = &entry{}
	}
	for name := range s.fallen { // of no use, as a reader found, or not removed yet
		delete(s.stock, name)
	}
	return names, nil
}

// measure finds out about one entry, unless it was dropped meanwhile.
func (s *Store) measure(name string) {
	used, size, err := s.disk.measure(filepath.Join(s.dir, name))
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.stock[name]
	switch {
	case e == nil:
	case errors.Is(err, os.ErrNotExist):
		delete(s.stock, name)
	case err != nil: // that is the disk's, and the entry may be as good as ever
	default:
		e.size = size
		if used.After(e.used) { // it may have been used since
			e.used = used
		}
	}
}

// onDisk says when an entry was last used, and the size of its blobs. What cannot be looked at counts for nothing and is
// found out when it is used.
func onDisk(dir string) (used time.Time, size int64, err error) {
	info, err := os.Lstat(dir)
	if err != nil {
		return time.Time{}, 0, err
	}
	entries, err := os.ReadDir(filepath.Join(dir, ocispec.ImageBlobsDir, "sha256"))
	if err != nil {
		return info.ModTime(), 0, nil
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
	}
	return info.ModTime(), size, nil
}

// stocked ends the taking of stock: now it is known what was not used for the longest time.
func (s *Store) stocked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.stock
	names := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return cmp.Or(all[a].used.Compare(all[b].used), strings.Compare(a, b))
	})
	s.stock, s.stored = nil, 0
	for _, name := range names {
		s.add(name, all[name])
	}
}

// forget has stock taken again before anything is removed.
func (s *Store) forget() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stock, s.stored, s.early = map[string]*entry{}, 0, 0
	s.kept, err = lru.NewWithEvict(s.size, func(name string, e *entry) {
		s.stored -= e.size
		s.fallen[name] = true
	})
	return err
}

// add takes an entry among those that are kept, and drops the ones that were not used for the longest time until all
// of them fit. mu is held.
func (s *Store) add(name string, e *entry) {
	delete(s.fallen, name) // that was another entry
	s.stored += e.size
	if s.stock != nil {
		s.stock[name] = e
		s.early++
		return
	}
	if old, ok := s.kept.Peek(name); ok {
		s.stored -= old.size
	}
	s.kept.Add(name, e)
	for s.stored > s.maxStored && s.kept.Len() > 1 {
		s.kept.RemoveOldest()
	}
}

// known is what is known of an entry, or nil. mu is held.
func (s *Store) known(name string) *entry {
	if s.stock != nil {
		return s.stock[name]
	}
	e, _ := s.kept.Peek(name)
	return e
}

// write does whatever is due, and says whether the folder is still there. Evidence that waits goes first, and before each
// thing that loses nothing by waiting it looks whether there is more: a store that was made smaller has thousands to remove.
func (s *Store) write() bool {
	for {
		e := s.next()
		switch {
		case e != nil:
			if !s.writeOne(e) {
				return false // it is made again when it is time
			}
			for range removedPerWrite {
				s.removeOne()
			}
		case !s.markOne() && !s.removeOne():
			return true
		}
	}
}

func (s *Store) next() *Evidence {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue.take()
}

// writeOne writes what was taken from the queue, and says whether the folder is still there.
func (s *Store) writeOne(e *Evidence) bool {
	err := rescue.Do(s.log, "keeping evidence", func() error { return s.keep(e) })
	gone := errors.Is(err, os.ErrNotExist)
	if gone {
		_ = s.forget() // its size was good before
	}
	s.report(&s.keeping, err, "evidence could not be kept on disk", "repository", escape(e.Repository), "digest", e.Digest)
	s.mu.Lock()
	empty, dropped := s.queue.written(), s.dropped
	s.mu.Unlock()
	if empty {
		s.report(&s.lagging, nil, lagging, "folder", s.dir, "dropped", dropped)
	}
	return !gone
}

func (s *Store) keep(e *Evidence) error {
	if err := s.room(e); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(s.dir, unfinished)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := s.disk.save(e, tmp); err != nil {
		return err
	}
	name := entryName(e.question())
	path := filepath.Join(s.dir, name)
	// A crash between these two loses the entry, which costs a request.
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	_, size, err := onDisk(path)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(name, &entry{size: size, used: time.Now()})
	delete(s.marks, name) // which would make it older than it is
	return nil
}

// room is an error if nothing can be removed yet to make room for e. What is written while stock is taken is bounded by
// itself, so that there is never more than twice of what there may be.
func (s *Store) room(e *Evidence) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stock != nil && (s.early >= s.size || s.stored+int64(e.Size()) > s.maxStored) {
		return errUncounted
	}
	return nil
}

// markOne has the disk know the last use of one entry, for the next start, and says whether there was one to mark. At the
// end there is none: the time is for what would be lost.
func (s *Store) markOne() bool {
	name, used, ok := s.nextMark()
	if !ok {
		return false
	}
	if err := s.disk.mark(filepath.Join(s.dir, name), used); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Debug("marking kept evidence as used", "error", err)
	}
	return true
}

func (s *Store) nextMark() (name string, used time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", time.Time{}, false
	}
	for name, used = range s.marks {
		delete(s.marks, name)
		return name, used, true
	}
	return "", time.Time{}, false
}

// removeOne removes one entry that fell out, and says whether there was one. At the end there is none: what is left falls
// again at the next start.
func (s *Store) removeOne() bool {
	name, ok := s.nextFallen()
	if ok {
		s.remove(name)
	}
	return ok
}

func (s *Store) nextFallen() (name string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", false
	}
	for name = range s.fallen {
		delete(s.fallen, name)
		return name, true
	}
	return "", false
}

// remove deletes an entry's folder.
func (s *Store) remove(name string) {
	err := s.disk.remove(filepath.Join(s.dir, name))
	if err != nil {
		err = fmt.Errorf("removing %s: %w", escape(name), err)
	}
	s.report(&s.removing, err, "kept evidence could not be removed")
}

func markUsed(dir string, used time.Time) error { return os.Chtimes(dir, used, used) }
