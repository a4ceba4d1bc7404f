package node

import (
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxLookups bounds the images remembered; a node holds a few hundred.
const maxLookups = 4096

// lookups remembers answers of Lookup for image IDs. It is off until image events are
// followed, and forgets everything at each event: images change rarely.
type lookups struct {
	mu  sync.Mutex
	on  bool
	gen uint64
	lru *lru.Cache[lookup, Image]
}

type lookup struct{ id, handler, repository string }

func newLookups() *lookups {
	c, err := lru.New[lookup, Image](maxLookups)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &lookups{lru: c}
}

// lookupKey says whether spec names one content for good.
func lookupKey(spec *runtimeapi.ImageSpec, repository string) (lookup, bool) {
	id := spec.GetImage()
	return lookup{id, spec.GetRuntimeHandler(), repository}, IsID(id)
}

func (l *lookups) generation() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gen
}

func (l *lookups) get(k lookup) (Image, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.on {
		return Image{}, false
	}
	return l.lru.Get(k)
}

// put keeps img unless an image changed since generation was read.
func (l *lookups) put(k lookup, img Image, generation uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.on && l.gen == generation {
		l.lru.Add(k, img)
	}
}

func (l *lookups) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gen++
	l.lru.Purge()
}

func (l *lookups) enable() {
	l.forget()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.on = true
}

func (l *lookups) disable() {
	l.mu.Lock()
	l.on = false
	l.mu.Unlock()
	l.forget()
}
