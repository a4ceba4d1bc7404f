package evidence

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
)

// maxKept is the most material about one image that a Store keeps, in bytes. An image has a few
// kilobytes.
const maxKept = 1 << 20

// Store keeps evidence on disk, one OCI image layout for each repository and digest, for the hours
// in which a registry is away or asks for credentials that came only with the pull. It holds
// signed data and no verdicts: what it gives back is judged like anything else, so a file that
// was tampered with grants nothing.
//
// A Store is safe for concurrent use by one process.
type Store struct {
	dir string
	log *slog.Logger
	mu  sync.Mutex
	// kept orders the folders by their last use; falling out of it removes one.
	kept *lru.Cache[string, struct{}]
}

// OpenStore opens the store in dir, which it makes if need be, for at most size images.
func OpenStore(dir string, size int, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the evidence store: %w", err)
	}
	s := &Store{dir: dir, log: log}
	var err error
	if s.kept, err = lru.NewWithEvict(size, func(name string, _ struct{}) { s.remove(name) }); err != nil {
		return nil, fmt.Errorf("opening the evidence store: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the evidence store: %w", err)
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
	names := make([]string, 0, len(used))
	for name := range used {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(used[a].Compare(used[b]), strings.Compare(a, b)) })
	for _, name := range names {
		s.kept.Add(name, struct{}{})
	}
	return s, nil
}

// unfinished begins the names of folders that are being written.
const unfinished = ".new-"

// Keep writes e down. That it could not is logged: evidence that is not kept is asked for again.
func (s *Store) Keep(e *Evidence) {
	if size := e.size(); size == 0 || size > maxKept {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.keep(e); err != nil {
		s.log.Warn("evidence could not be kept on disk", "repository", escape(e.Repository), "digest", e.Digest, "error", err)
	}
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
	name := entryName(e.Repository, e.Digest)
	// A crash between these two loses the entry, which costs a request.
	if err := os.RemoveAll(filepath.Join(s.dir, name)); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(s.dir, name)); err != nil {
		return err
	}
	s.kept.Add(name, struct{}{})
	return nil
}

// Recall returns what was kept about d in repository, or nil.
func (s *Store) Recall(repository string, d digest.Digest) *Evidence {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := entryName(repository, d)
	if _, ok := s.kept.Get(name); !ok {
		return nil
	}
	path := filepath.Join(s.dir, name)
	e, err := Saved(path)
	if err == nil && (e.Repository != repository || e.Digest != d) {
		err = fmt.Errorf("%w: it is about %s@%s", ErrMismatch, escape(e.Repository), e.Digest)
	}
	if err != nil {
		s.log.Warn("kept evidence cannot be used and is dropped", "repository", escape(repository), "digest", d, "error", err)
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
	if err := os.RemoveAll(filepath.Join(s.dir, name)); err != nil {
		s.log.Warn("kept evidence could not be removed", "error", err)
	}
}

// entryName is the folder of an entry: neither repository nor digest becomes part of a path.
func entryName(repository string, d digest.Digest) string {
	sum := sha256.Sum256([]byte(repository + "@" + d.String()))
	return hex.EncodeToString(sum[:])
}

func isEntry(name string) bool {
	b, err := hex.DecodeString(name)
	return err == nil && len(b) == sha256.Size
}

func (e *Evidence) size() int {
	n := 0
	for _, s := range e.Signatures {
		n += len(s.Payload) + len(s.Base64Signature)
		for k, v := range s.Annotations {
			n += len(k) + len(v)
		}
	}
	for _, b := range e.Bundles {
		n += len(b.Raw)
	}
	return n
}
