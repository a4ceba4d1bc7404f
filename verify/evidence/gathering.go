package evidence

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/limits"
)

// gathering is the work on one question. It asks each thing once, however many lists name it, and never more than
// limits.Parallel at a time.
type gathering struct {
	fetcher  *Fetcher
	repo     repository
	set      *hostSet
	question Question
	subject  digest.Digest
	slots    chan struct{}
	bundle   limits.Bound // on the size of one
	budget   budget

	mu      sync.Mutex
	bundled map[digest.Digest]int // by referrer
	blobs   map[digest.Digest]func() ([]byte, error)
	images  map[digest.Digest]func() ([]byte, error) // manifests of the image itself
	// manifests are kept parsed, which drops the bytes of all that is not looked at.
	manifests map[digest.Digest]func() (*manifest, error)
}

// ask puts one question to one host, with the credentials that may work there.
func (g *gathering) ask(ctx context.Context, ep *endpoint, operation, method string, u *url.URL, accept string, bound limits.Bound) (*answer, *ask, error) {
	q := &ask{
		operation: operation, method: method, url: u, accept: accept, bound: bound, budget: &g.budget,
		scope: "repository:" + g.repo.path + ":pull", timeout: g.fetcher.timeout,
	}
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
	case <-ctx.Done():
		return nil, q, transportError(ctx.Err(), q.String())
	}
	a, err := ep.try(ctx, q, g.repo.path, g.question.Credentials, g.fetcher.candidates(ep, g.repo, g.question.Credentials))
	return a, q, err
}

// tagged gets what a tag names. Nothing says what its digest should be; what it lists is checked on its own.
func (g *gathering) tagged(ctx context.Context, ep *endpoint, operation, tag string) ([]byte, error) {
	u := ep.url(g.repo.path, "manifests", tag)
	a, q, err := g.ask(ctx, ep, operation, http.MethodGet, u, manifestTypes, limits.Manifest)
	if err != nil {
		return nil, err
	}
	return a.body, a.err(q)
}

// manifest gets one by digest: from the host that listed it, then from the others.
func (g *gathering) manifest(ctx context.Context, listedBy *endpoint, d digest.Digest) (*manifest, error) {
	return once(g, &g.manifests, d, func() (*manifest, error) {
		raw, err := g.content(ctx, listedBy, "manifest", "manifests", d, -1, limits.Manifest)
		if err != nil {
			return nil, err
		}
		return parseManifest(raw)
	})
}

// blob gets a payload, a bundle or a config file by its descriptor.
func (g *gathering) blob(ctx context.Context, listedBy *endpoint, d descriptor, bound limits.Bound) ([]byte, error) {
	return once(g, &g.blobs, d.Digest, func() ([]byte, error) {
		if d.Size < 0 {
			return nil, fmt.Errorf("%w: blob %s of %d bytes", ErrMismatch, d.Digest, d.Size)
		}
		if err := bound.Check(d.Size); err != nil {
			return nil, fmt.Errorf("blob %s: %w", d.Digest, err)
		}
		return g.content(ctx, listedBy, "blob", "blobs", d.Digest, d.Size, bound)
	})
}

// countBundles counts them before they are asked for, over all referrers, however many lists name a referrer.
func (g *gathering) countBundles(referrer digest.Digest, n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.bundled == nil {
		g.bundled = map[digest.Digest]int{}
	}
	g.bundled[referrer] = n
	return g.checkBundles()
}

// tooManyBundles is the error once there are more than are looked at.
func (g *gathering) tooManyBundles() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.checkBundles()
}

func (g *gathering) checkBundles() error {
	total := 0
	for _, n := range g.bundled {
		total += n
	}
	return limits.Signatures.Check(int64(total))
}

// once makes the work for a digest happen once; others wait for its result. It is also where a digest is checked that
// a registry named, before it becomes part of a URL.
func once[T any](g *gathering, memory *map[digest.Digest]func() (T, error), d digest.Digest, work func() (T, error)) (T, error) {
	if err := checkDigest(d); err != nil {
		var none T
		return none, fmt.Errorf("%w: %v", ErrMismatch, err)
	}
	g.mu.Lock()
	if *memory == nil {
		*memory = map[digest.Digest]func() (T, error){}
	}
	do, ok := (*memory)[d]
	if !ok {
		do = sync.OnceValues(work)
		(*memory)[d] = do
	}
	g.mu.Unlock()
	return do()
}

// content gets bytes that hash to d. Which host they come from does not matter, so a mirror that serves others is
// passed over. size is -1 where it is not known.
func (g *gathering) content(ctx context.Context, first *endpoint, operation, kind string, d digest.Digest, size int64, bound limits.Bound) ([]byte, error) {
	var failed failures
	hosts := []*endpoint{first}
	for _, ep := range g.set.endpoints {
		if ep != first && ep.canPull() {
			hosts = append(hosts, ep)
		}
	}
	for _, ep := range hosts {
		a, q, err := g.ask(ctx, ep, operation, http.MethodGet, ep.url(g.repo.path, kind, d.String()), manifestTypes, bound)
		if err == nil {
			err = a.err(q)
		}
		if err == nil && size >= 0 && int64(len(a.body)) != size {
			err = fmt.Errorf("%w: %s: %d bytes where %d were announced", ErrMismatch, q, len(a.body), size)
		}
		if err == nil && digest.FromBytes(a.body) != d {
			err = fmt.Errorf("%w: %s: the bytes do not hash to the digest", ErrMismatch, q)
		}
		if err == nil {
			return a.body, nil
		}
		failed.add(err)
	}
	return nil, failed.foremost("a host to pull from")
}

// failures of several hosts that were asked the same.
type failures struct {
	missing error
	others  []error
}

func (f *failures) add(err error) {
	switch {
	case err == nil:
	case errors.Is(err, ErrNotFound):
		f.missing = err
	default:
		f.others = append(f.others, err)
	}
}

// foremost is what to report: that it is not there only if every host said so.
func (f *failures) foremost(want string) error {
	switch {
	case len(f.others) > 0:
		return join(f.others...)
	case f.missing != nil:
		return f.missing
	default:
		return fmt.Errorf("%w: the host configuration names none: %s", ErrUnavailable, want)
	}
}
