package evidence

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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
type Store struct {
	dir string
	log *slog.Logger
	now func() time.Time
	mu  sync.Mutex
	// kept orders the folders by their last use, with the size of each; falling out of it removes one.
	kept *lru.Cache[string, int64]
	// stored is the size of all that are kept.
	stored, maxStored int64
	// opened says that kept is what is in dir; tried is when it was last attempted.
	opened bool
	tried  time.Time

	opening, keeping, recalling, removing trouble
}

// openAgain is how often a folder that could not be opened is tried.
const openAgain = time.Minute

// OpenStore opens the store in dir, which is made if need be, for at most size images. That dir cannot be used is no
// error but logged, and tried again later.
func OpenStore(dir string, size int, log *slog.Logger) (*Store, error) {
	return openStoreAt(dir, size, log, time.Now)
}

func openStoreAt(dir string, size int, log *slog.Logger, now func() time.Time) (*Store, error) {
	if dir == "" || log == nil {
		return nil, errors.New("opening the evidence store: it needs a folder and a log")
	}
	s := &Store{dir: dir, log: log, now: now, maxStored: maxStored}
	for _, t := range []*trouble{&s.opening, &s.keeping, &s.recalling, &s.removing} {
		t.now = now
	}
	var err error
	if s.kept, err = lru.NewWithEvict(size, func(name string, size int64) { s.stored -= size; s.remove(name) }); err != nil {
		return nil, fmt.Errorf("opening the evidence store for %d images: %w", size, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready()
	return s, nil
}

// ready says whether the folder is open, and opens it if it is time to try.
func (s *Store) ready() bool {
	if s.opened {
		return true
	}
	if now := s.now(); s.tried.IsZero() || now.Sub(s.tried) >= openAgain {
		s.tried = now
		err := s.open()
		s.opened = err == nil
		s.report(&s.opening, err, "the folder for kept evidence cannot be used; signatures are not kept on disk", "folder", s.dir)
	}
	return s.opened
}

// open makes the folder and takes stock of it.
func (s *Store) open() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	used := map[string]time.Time{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), unfinished) {
			s.remove(e.Name()) // a crash while it was written
			continue
		}
		if info, err := e.Info(); err == nil && isEntry(e.Name()) {
			used[e.Name()] = info.ModTime()
		}
	}
	names := slices.SortedFunc(maps.Keys(used), func(a, b string) int {
		return cmp.Or(used[a].Compare(used[b]), strings.Compare(a, b))
	})
	for _, name := range names {
		s.add(name, sizeOnDisk(filepath.Join(s.dir, name)))
	}
	return nil
}

// add takes an entry among those that are kept, and drops the ones that were not used for the longest time until all
// of them fit.
func (s *Store) add(name string, size int64) {
	if old, ok := s.kept.Peek(name); ok {
		s.stored -= old
	}
	s.stored += size
	s.kept.Add(name, size)
	for s.stored > s.maxStored && s.kept.Len() > 1 {
		s.kept.RemoveOldest()
	}
}

// sizeOnDisk is that of an entry's blobs. What cannot be looked at counts for nothing and is found out when it is used.
func sizeOnDisk(dir string) (size int64) {
	entries, err := os.ReadDir(filepath.Join(dir, ocispec.ImageBlobsDir, "sha256"))
	if err != nil {
		return 0
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
	}
	return size
}

// report logs err if it is worth a line, and that t is over if that is.
func (s *Store) report(t *trouble, err error, words string, args ...any) {
	switch {
	case err != nil && t.begins():
		s.log.Warn(words, append(args, "error", err)...)
	case err == nil && t.ends():
		s.log.Info("this is over: "+words, args...)
	}
}

// unfinished begins the names of folders that are being written.
const unfinished = ".new-"

// Keep writes e down. That it could not is logged, once: evidence that is not kept is asked for again.
func (s *Store) Keep(e *Evidence) {
	most := maxKept
	if e.AskedAttestations || e.AskedConfig {
		most = maxKeptAttested
	}
	if size := e.Size(); size == 0 || size > most {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ready() {
		return
	}
	err := s.keep(e)
	if errors.Is(err, os.ErrNotExist) {
		s.opened = false // the folder is gone, and is made again when it is time
	}
	s.report(&s.keeping, err, "evidence could not be kept on disk", "repository", escape(e.Repository), "digest", e.Digest)
}

func (s *Store) keep(e *Evidence) error {
	tmp, err := os.MkdirTemp(s.dir, unfinished)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := e.Save(tmp); err != nil {
		return err
	}
	name := entryName(e.question())
	// A crash between these two loses the entry, which costs a request.
	if err := os.RemoveAll(filepath.Join(s.dir, name)); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(s.dir, name)); err != nil {
		return err
	}
	s.add(name, sizeOnDisk(filepath.Join(s.dir, name)))
	return nil
}

// Recall returns what was kept in answer to q, or to a question that asked for more about the same; or nil.
func (s *Store) Recall(q Question) *Evidence {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ready() {
		return nil
	}
	for _, wider := range widerThan(q) {
		if e := s.recall(wider); e != nil {
			return e
		}
	}
	return nil
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

func (s *Store) recall(q Question) *Evidence {
	name := entryName(q)
	if _, ok := s.kept.Get(name); !ok {
		return nil
	}
	path := filepath.Join(s.dir, name)
	e, err := Saved(path)
	if err == nil && !e.Answers(q) {
		err = fmt.Errorf("%w: it is about %s@%s", ErrMismatch, escape(e.Repository), e.Digest)
	}
	s.report(&s.recalling, err, "kept evidence cannot be used and is dropped", "repository", escape(q.Repository), "digest", q.Digest)
	if err != nil {
		s.kept.Remove(name)
		return nil
	}
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.log.Debug("marking kept evidence as used", "error", err)
	}
	return e
}

// remove deletes an entry's folder.
func (s *Store) remove(name string) {
	s.report(&s.removing, os.RemoveAll(filepath.Join(s.dir, name)), "kept evidence could not be removed")
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
