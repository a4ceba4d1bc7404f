package evidence

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/cosentry/cosentry/verify/limits"
)

// Places bounds how much is asked about at once on a node, and so what may be in memory: limits.Questions in all. One
// registry gets no more than limits.RegistryQuestions of them, so that one which takes its time over every answer
// cannot keep the images of all others waiting. It is safe for concurrent use.
type Places struct {
	all       *semaphore.Weighted
	most      int64 // of all, and
	mostOfOne int64 // of one registry

	mu         sync.Mutex
	registries map[string]*registryPlaces // those that somebody is in or waits for
}

type registryPlaces struct {
	*semaphore.Weighted
	users int
}

// NewPlaces gives as many places as limits says, all free.
func NewPlaces() *Places { return newPlaces(limits.Questions, limits.RegistryQuestions) }

// NewClusterPlaces are the places for what the cluster's policies ask: limits.ClusterQuestions, none of which are
// those of NewPlaces. Whoever may write policies to the API server may name a registry that never answers.
func NewClusterPlaces() *Places {
	return newPlaces(limits.ClusterQuestions, limits.ClusterRegistryQuestions)
}

func newPlaces(all, registry limits.Bound) *Places {
	return &Places{
		all: semaphore.NewWeighted(all.Max()), most: all.Max(), mostOfOne: registry.Max(),
		registries: map[string]*registryPlaces{},
	}
}

// places is how many a question takes: as many as it may have the material of.
func (q Question) places() int64 {
	if q.Attestations {
		return limits.AttestedMaterial.Max() / limits.Material.Max()
	}
	return 1
}

// CheckCluster returns a *limits.Exceeded if the questions about one image are more than there are places for the
// cluster's policies.
func CheckCluster(questions ...Question) error {
	var n int64
	for _, q := range questions {
		n += q.places()
	}
	return limits.ClusterQuestions.Check(n)
}

// Enter waits for the places that some questions take together, which are those about one image, and as long as ctx
// lasts. leave gives them back; it may be called once they are given, and more often. Without places the error is
// [ErrUnavailable], and leave does nothing.
func (p *Places) Enter(ctx context.Context, questions ...Question) (leave func(), err error) {
	wanted, total := map[string]int64{}, int64(0)
	for _, q := range questions {
		registry, _, _ := strings.Cut(q.Repository, "/")
		// Never more than there are: who wants more than all is alone, and not waiting forever.
		wanted[registry] = min(wanted[registry]+q.places(), p.mostOfOne)
		total = min(total+q.places(), p.most)
	}
	var held []func()
	leave = sync.OnceFunc(func() {
		for _, give := range slices.Backward(held) {
			give()
		}
	})
	// A registry's own places first: who waits for a slow one holds nothing that others could use. In order of their
	// names, so that no two wait for each other.
	for _, registry := range slices.Sorted(maps.Keys(wanted)) {
		give, err := p.enterRegistry(ctx, registry, wanted[registry])
		if err != nil {
			leave()
			return leave, fmt.Errorf("%w: too many other images of %s are being asked about: %w", ErrUnavailable, escape(registry), context.Cause(ctx))
		}
		held = append(held, give)
	}
	if err := p.all.Acquire(ctx, total); err != nil {
		leave()
		return leave, fmt.Errorf("%w: too many other images are being asked about: %w", ErrUnavailable, context.Cause(ctx))
	}
	held = append(held, func() { p.all.Release(total) })
	return leave, nil
}

func (p *Places) enterRegistry(ctx context.Context, registry string, n int64) (give func(), err error) {
	p.mu.Lock()
	r, ok := p.registries[registry]
	if !ok {
		r = &registryPlaces{Weighted: semaphore.NewWeighted(p.mostOfOne)}
		p.registries[registry] = r
	}
	r.users++
	p.mu.Unlock()
	// Pods name registries; one that nobody is in is forgotten.
	forget := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if r.users--; r.users == 0 {
			delete(p.registries, registry)
		}
	}
	if err := r.Acquire(ctx, n); err != nil {
		forget()
		return nil, err
	}
	return func() { r.Release(n); forget() }, nil
}
