package evidence

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// maxKept is the most material that a Store keeps of one answer, in bytes. An image has a few kilobytes.
	maxKept = 1 << 20
	// maxKeptAttested is the same where attestations or config files were asked for: lists of packages have megabytes.
	// Without them a pod could not restart while its registry is away, though it is the same image.
	maxKeptAttested = 16 << 20
	// maxStored is the most that all entries together may have, in bytes of their material. The number of entries is
	// its owner's setting, made with entries of kilobytes in mind.
	maxStored = 1 << 30
)

// Store keeps evidence on disk, one OCI image layout for each question, for the hours
// in which a registry is away or asks for credentials that came only with the pull. It holds
// signed data and no verdicts: what it gives back is judged like anything else, so a file that
// was tampered with grants nothing.
//
// A Store is safe for concurrent use by one process. While its folder cannot be used it keeps and recalls
// nothing, and tries again by itself: what it is for is not worth a restart of the agent.
//
// A disk that hangs (a frozen file system, a server that is gone) hangs the one goroutine that writes, a few that read,
// and nobody else: no lock is held over a system call, and who reads writes nothing, because a file system that is frozen
// still can be read. What is to be kept waits in memory, and is recalled from there;
// beyond a bound it is not kept. A slow disk delays nobody's start: stock is taken of the folder by the one that writes,
// which falls to removing entries only when it knows them all.
type Store struct {
	dir       string
	log       *slog.Logger
	now       func() time.Time
	disk      disk
	size      int // in entries
	maxStored int64

	wake    chan struct{} // there is something to do for the writer
	stop    chan struct{}
	done    chan struct{} // closed once the writer has ended
	readers chan struct{} // holds one for each that reads
	tried   time.Time     // when the folder was last opened, or could not be; the writer's own

	mu     sync.Mutex
	closed bool
	queue  queue
	// stock is what is known of the folder until all of it is, and nil from then on. There may be more.
	stock map[string]*entry
	// kept is what there is once stock is nil. It orders the entries by their last use.
	kept *lru.Cache[string, *entry]
	// stored is the size of all that are kept; until stock was taken, that of early ones, which were written meanwhile.
	stored int64
	early  int
	fallen map[string]bool      // to be removed
	marks  map[string]time.Time // when entries were used, of which the disk is still to be told
	// abandoned is how many readers nobody waits for any more.
	abandoned int
	dropped   uint64

	opening, lagging, keeping, reading, unreadable, recalling, removing trouble
}

// entry is what is known of a folder. Each time that it is written is another entry.
type entry struct {
	size int64
	used time.Time // if it is in stock
}

// disk does what may hang.
type disk struct {
	measure func(dir string) (used time.Time, size int64, err error)
	save    func(e *Evidence, dir string) error
	read    func(dir string) (*Evidence, error)
	mark    func(dir string, used time.Time) error
	remove  func(dir string) error
}

// OpenStore opens the store in dir, which is made if need be, for at most size images. It does not wait for the disk.
// That dir cannot be used is no error but logged, and tried again later. Close ends it.
func OpenStore(dir string, size int, log *slog.Logger) (*Store, error) {
	s, err := newStore(dir, size, log, time.Now)
	if err != nil {
		return nil, err
	}
	s.start()
	return s, nil
}

// newStore is OpenStore without the writer.
func newStore(dir string, size int, log *slog.Logger, now func() time.Time) (*Store, error) {
	if dir == "" || log == nil {
		return nil, errors.New("opening the evidence store: it needs a folder and a log")
	}
	s := &Store{
		dir: dir, log: log, now: now, size: size, maxStored: maxStored,
		disk:    disk{measure: onDisk, save: (*Evidence).Save, read: Saved, mark: markUsed, remove: os.RemoveAll},
		wake:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
		readers: make(chan struct{}, maxReaders),
		queue:   queue{waiting: map[string]*Evidence{}},
		fallen:  map[string]bool{},
		marks:   map[string]time.Time{},
	}
	for _, t := range []*trouble{&s.opening, &s.lagging, &s.keeping, &s.reading, &s.unreadable, &s.recalling, &s.removing} {
		t.now = now
	}
	if err := s.forget(); err != nil {
		return nil, fmt.Errorf("opening the evidence store for %d images: %w", size, err)
	}
	return s, nil
}

// report logs err if it is worth a line, and that t is over if that is. No lock is held: a log may be slow, too.
func (s *Store) report(t *trouble, err error, words string, args ...any) {
	switch {
	case err != nil && t.begins():
		s.log.Warn(words, append(args, "error", err)...)
	case err == nil && t.ends():
		s.log.Info("this is over: "+words, args...)
	}
}

// errLagging is why evidence is dropped that a disk would have taken.
var errLagging = errors.New("too much waits to be written: the disk is slow or does not answer")

// Keep has e written down soon, and does not wait for that. That it could not is logged, once: evidence that is not
// kept is asked for again.
func (s *Store) Keep(e *Evidence) {
	most := maxKept
	if e.AskedAttestations || e.AskedConfig {
		most = maxKeptAttested
	}
	if size := e.Size(); size == 0 || size > most {
		return
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	taken := s.queue.put(e)
	if !taken {
		s.dropped++
	}
	dropped := s.dropped
	s.mu.Unlock()
	if !taken {
		s.report(&s.lagging, errLagging, lagging, "folder", s.dir, "dropped", dropped)
	}
	s.poke()
}

const lagging = "evidence is not kept on disk for the moment"

// poke has the writer look for work.
func (s *Store) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close has what was kept written to the disk, and ends the store. It waits no longer than ctx lasts; an error says what
// was not written by then. Nothing is kept after it.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.stop)
	}
	s.mu.Unlock()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Errorf("closing the evidence store %s with %d entries not written: %w", s.dir, len(s.queue.waiting), context.Cause(ctx))
}

// entryName is the folder of the entry for a question: nothing of it becomes part of a path. What asks for more has an
// entry of its own, so that an answer without attestations does not take the place of one with them.
func entryName(q Question) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %t %t", q.Repository, q.Digest, q.TagPrefix, q.Attestations, q.Config))
	return hex.EncodeToString(sum[:])
}

func isEntry(name string) bool {
	b, err := hex.DecodeString(name)
	return err == nil && len(b) == sha256.Size
}

// question is what e answers, without the credentials.
func (e *Evidence) question() Question {
	return Question{
		Repository: e.Repository, Digest: e.Digest, TagPrefix: e.TagPrefix,
		Attestations: e.AskedAttestations, Config: e.AskedConfig,
	}
}

// Size is that of the material, in bytes. Config files alone are no material: nothing is allowed for them.
func (e *Evidence) Size() int {
	n := 0
	for _, s := range slices.Concat(e.Signatures, e.Attestations) {
		n += len(s.Payload) + len(s.Base64Signature)
		for k, v := range s.Annotations {
			n += len(k) + len(v)
		}
	}
	for _, b := range e.Bundles {
		n += len(b.Raw)
	}
	if n == 0 {
		return 0
	}
	for _, config := range e.Configs {
		n += len(config)
	}
	for _, document := range e.Image {
		n += len(document)
	}
	return n
}
