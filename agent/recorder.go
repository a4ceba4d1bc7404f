package main

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
)

// recorder remembers the evidence that a verdict rests on.
type recorder struct {
	from verify.Source
	logs verify.Prover

	mu   sync.Mutex
	all  []*evidence.Evidence
	tags []evidence.Tag
	// proved is what logs put beside a piece of evidence, once for each log.
	proved map[*evidence.Evidence][]*evidence.Evidence

	repository string
	digest     digest.Digest
}

func (r *recorder) Fetch(ctx context.Context, q evidence.Question) (*evidence.Evidence, error) {
	ev, err := r.from.Fetch(ctx, q)
	if ev != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.all = append(r.all, ev)
	}
	return ev, err
}

func (r *recorder) Prove(ctx context.Context, url string, publicKeys [][]byte, ev *evidence.Evidence) (*evidence.Evidence, error) {
	proved, err := r.logs.Prove(ctx, url, publicKeys, ev)
	if proved != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.proved == nil {
			r.proved = map[*evidence.Evidence][]*evidence.Evidence{}
		}
		r.proved[ev] = append(r.proved[ev], proved)
	}
	return proved, err
}

// image is told what is judged.
func (r *recorder) image(ref gate.Reference, d digest.Digest) {
	r.repository, r.digest = ref.Repository, d
	if ref.Tag != "" {
		r.tags = append(r.tags, evidence.Tag{Repository: ref.Repository, Tag: ref.Tag, Digest: d})
	}
}

// save writes what was fetched. All that is beside the image is fetched with it, whatever the policies at hand asked for:
// whoever saves it wants to try others on it.
func (r *recorder) save(ctx context.Context, dir string) error {
	if r.digest == "" {
		return nil // it never came to fetching, and the explanation says why
	}
	if _, err := r.Fetch(ctx, evidence.Question{Repository: r.repository, Digest: r.digest, Attestations: true, Config: true}); err != nil {
		return fmt.Errorf("saving evidence: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("saving evidence: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*evidence.Evidence, 0, len(r.all))
	for _, ev := range r.all {
		all = append(all, r.withProofs(ev))
	}
	return evidence.SaveAll(dir, all, r.tags...)
}

// withProofs is ev with what every log that was asked put beside it: where it is read again, no log is asked.
func (r *recorder) withProofs(ev *evidence.Evidence) *evidence.Evidence {
	for i, proved := range r.proved[ev] {
		if i == 0 {
			ev = proved
		} else {
			ev = ev.With(proved)
		}
	}
	return ev
}
