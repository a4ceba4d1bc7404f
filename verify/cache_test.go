package verify

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
)

// clock is a time that stands still until it is moved.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func stopped(v *Verifier) *clock {
	c := &clock{t: time.Unix(1_700_000_000, 0)}
	v.now = c.now
	return c
}

func TestVerdictsExpire(t *testing.T) {
	good := found(classicFor("P-256", appDigest))
	for name, c := range map[string]struct {
		ev  *evidence.Evidence
		doc string
		ttl time.Duration
	}{
		"allow":   {good, byKey("P-256"), time.Hour},
		"deny":    {good, byKey("other P-256"), 30 * time.Second},
		"warning": {good, policyDoc("w", "warn", keyAuthority("k", []string{"other P-256"})), 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			s := holding(c.ev)
			v := newVerifier(t, s, c.doc)
			clock := stopped(v)
			ask := func(cached bool, questions int64) {
				t.Helper()
				got := verdictOn(t, v, appSubject())
				if asked := s.calls.Load(); asked != questions || got.Cached != cached {
					t.Errorf("%d questions, want %d; cached is %v, want %v", asked, questions, got.Cached, cached)
				}
			}
			ask(false, 1)
			clock.pass(c.ttl - time.Second)
			ask(true, 1)
			clock.pass(time.Second)
			ask(false, 2)
		})
	}
}

// The signature is taken off the registry: until the verdict expires it holds, then no longer.
func TestAnExpiredAllowIsAskedAnew(t *testing.T) {
	s := holding(found(classicFor("P-256", appDigest)))
	v := newVerifier(t, s, byKey("P-256"))
	clock := stopped(v)
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
	s.fetch = holding(found()).fetch
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
	clock.pass(time.Hour)
	checkDecision(t, verdictOn(t, v, appSubject()), false, "no signatures found")
}

// A verdict answers for exactly what it was reached on. Caches keyed by less have let images in.
func TestAHitServesNothingElse(t *testing.T) {
	s := &source{fetch: func(_ context.Context, repository string, d digest.Digest, _ evidence.Credentials) (*evidence.Evidence, error) {
		return &evidence.Evidence{Repository: repository, Digest: d, Signatures: []evidence.Signature{classicFor("P-256", appDigest)}}, nil
	}}
	v := newVerifier(t, s,
		policyFor("registry.example/**", "signed", "enforce", keyAuthority("k", []string{"P-256"})),
		policyFor("registry.example/frozen/**", "frozen", "enforce", staticAuthority("fail", "frozen")),
		policyFor("registry.example/team/app:staging*", "staging", "enforce", keyAuthority("k", []string{"other P-256"})))
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
	for name, c := range map[string]struct {
		change  func(*Subject)
		allowed bool
	}{
		"another tag under more policies":  {func(s *Subject) { s.Image = testRepository + ":staging-1" }, false},
		"a name under more policies":       {func(s *Subject) { s.Image = "registry.example/frozen/app:1" }, false},
		"a name under no policy":           {func(s *Subject) { s.Image = "elsewhere.example/team/app:1" }, false},
		"another digest":                   {func(s *Subject) { s.Digest = otherDigest }, false},
		"another place to look for it":     {func(s *Subject) { s.Repository = "registry.example/mirror/app" }, true},
		"the same bytes under another tag": {func(s *Subject) { s.Image = testRepository + ":2" }, true},
		"the same bytes by their digest":   {func(s *Subject) { s.Image = testRepository + "@" + appDigest.String() }, true},
	} {
		sub := appSubject()
		c.change(&sub)
		got := verdictOn(t, v, sub)
		if got.Cached || got.Allowed != c.allowed || got.Image != sub.Image || got.Digest != sub.Digest || got.Repository != sub.Repository {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := verdictOn(t, v, appSubject()); !got.Cached || !got.Allowed {
		t.Errorf("the first again: %+v", got)
	}
}

// Parts of a key must not run together: what is quoted in one part is not the border to the next.
func TestFlightKeysAreDistinct(t *testing.T) {
	seen := map[string]key{}
	for _, k := range []key{
		{image: "a", repository: "b"}, {image: "a b"}, {image: `a" "b`}, {repository: "a b"}, {image: "a", revision: "b"},
		{image: "a", digest: "b"}, {image: "a", credentials: "b"}, {image: `a\" \"b`},
	} {
		f := k.flight(evidence.Credentials{})
		if other, ok := seen[f]; ok {
			t.Errorf("%+v and %+v are one flight", k, other)
		}
		seen[f] = k
	}
}

// kubelet tries one pull secret after the other: a registry that shows no signatures to the first may
// show them to the second. What was seen once with good credentials is signed, whoever asks.
func TestCredentialsAndTheCache(t *testing.T) {
	a, b := evidence.Credentials{Username: "a", Password: "x"}, evidence.Credentials{Username: "b", Password: "x"}
	newSource := func() *source {
		return &source{fetch: func(_ context.Context, _ string, _ digest.Digest, c evidence.Credentials) (*evidence.Evidence, error) {
			if c == b {
				return found(classicFor("P-256", appDigest)), nil
			}
			return found(), nil
		}}
	}
	with := func(c evidence.Credentials) Subject {
		s := appSubject()
		s.Credentials = c
		return s
	}
	for mode, doc := range map[string]string{
		"enforce": byKey("P-256"), "warn": policyDoc("signed", "warn", keyAuthority("k", []string{"P-256"})),
	} {
		t.Run(mode, func(t *testing.T) {
			s := newSource()
			v := newVerifier(t, s, doc)
			for i, step := range []struct {
				c      evidence.Credentials
				passes bool
				asked  int64
			}{
				{a, false, 1}, {a, false, 1}, // a refusal is kept for those who met it
				{evidence.Credentials{}, false, 2}, // and for nobody else, not even without credentials
				{b, true, 3},
				{a, true, 3}, {evidence.Credentials{}, true, 3}, // what is signed is signed
			} {
				got := verdictOn(t, v, with(step.c))
				if got.Policies[0].Passed != step.passes || s.calls.Load() != step.asked {
					t.Errorf("step %d: passed is %v after %d questions, want %v after %d", i, got.Policies[0].Passed, s.calls.Load(), step.passes, step.asked)
				}
			}
		})
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	s := &source{fetch: func(_ context.Context, repository string, d digest.Digest, _ evidence.Credentials) (*evidence.Evidence, error) {
		return &evidence.Evidence{Repository: repository, Digest: d}, nil
	}}
	o := testOptions(s)
	o.CacheSize = 8
	v := newVerifierWith(t, o, byKey("P-256"))
	of := func(i int) Subject {
		sub := appSubject()
		sub.Digest = digest.FromString(fmt.Sprint(i))
		return sub
	}
	for i := range 100 {
		verdictOn(t, v, of(0)) // one that is in use stays
		verdictOn(t, v, of(i))
		if n := v.Cached(); n > 8 {
			t.Fatalf("%d verdicts in a cache of 8", n)
		}
	}
	if got := verdictOn(t, v, of(0)); !got.Cached {
		t.Error("the verdict that was always in use is gone")
	}
	if got := verdictOn(t, v, of(1)); got.Cached {
		t.Error("the oldest verdict is still there")
	}
}
