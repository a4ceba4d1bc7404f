package verify

import (
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
)

// key names all that a verdict depends on besides the evidence. The name as written is part of
// it because policies match by name: a cache keyed on less once let another image in
// (a hit for one name skipped the rules of another).
type key struct {
	image, repository string
	digest            digest.Digest
	revision          string
	// pod is what about the pod makes a difference to the policies; empty where nothing does.
	pod string
	// credentials is set for refusals and warnings only. A registry may answer "no
	// signatures here" to one set of credentials and show them to the next, and kubelet
	// tries its pull secrets one after the other. An allow without a warning rests on signed bytes,
	// whoever fetched them.
	credentials string
}

func keyOf(s Subject, revision, pod string) key {
	return key{image: s.Image, repository: s.Repository, digest: s.Digest, revision: revision, pod: pod}
}

func (k key) with(c evidence.Credentials) key {
	if !c.IsZero() {
		k.credentials = c.Fingerprint()
	}
	return k
}

// flight is the key under which concurrent verifications are one.
func (k key) flight(c evidence.Credentials) string {
	k = k.with(c)
	return fmt.Sprintf("%q %q %q %q %q %q", k.image, k.repository, k.digest, k.revision, k.pod, k.credentials)
}

type entry struct {
	verdict Verdict
	expires time.Time
}

// cache is a bounded store of verdicts, each with its own time to live.
type cache struct {
	lru *lru.Cache[key, entry]
}

func newCache(size int) (*cache, error) {
	l, err := lru.New[key, entry](size)
	return &cache{lru: l}, err
}

func (c *cache) get(k key, cred evidence.Credentials, now time.Time) (Verdict, bool) {
	e, ok := c.entry(k, cred, now)
	e.verdict.Cached = true
	return e.verdict, ok
}

// entry is get with what it stands under: the verdict is not marked as one from here.
func (c *cache) entry(k key, cred evidence.Credentials, now time.Time) (entry, bool) {
	if e, ok := c.lookup(k, now); ok && !depends(e.verdict) {
		return e, true
	}
	return c.lookup(k.with(cred), now)
}

// depends reports whether v may rest on signatures that were not there for somebody.
func depends(v Verdict) bool { return !v.Allowed || v.Warn }

func (c *cache) lookup(k key, now time.Time) (entry, bool) {
	e, ok := c.lru.Get(k)
	if !ok {
		return entry{}, false
	}
	if !now.Before(e.expires) {
		c.lru.Remove(k)
		return entry{}, false
	}
	return e, true
}

func (c *cache) put(k key, cred evidence.Credentials, v Verdict, expires time.Time) {
	if depends(v) {
		k = k.with(cred)
	}
	c.lru.Add(k, entry{v, expires})
}

func (c *cache) purge()   { c.lru.Purge() }
func (c *cache) len() int { return c.lru.Len() }
