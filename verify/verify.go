// Package verify answers one question: who signed these bytes, and does this
// node's policy accept them?
//
// Verifier.Verify matches policies by name, has evidence fetched for the digest, and
// judges it. The judging itself does no I/O: it is a function of the policy set
// and the evidence. Verdicts are kept in an LRU cache, keyed by digest, name,
// repository and policy revision; a verdict dies with the revision it was reached under.
//
// What Verify promises:
//   - It answers an allow only if every matching policy passed on evidence about
//     Subject.Digest itself. Whatever goes wrong on the way is an error or a refusal.
//   - "Not signed as demanded" is a Verdict; "could not find out" is an error
//     (*UndecidedError). Errors are never cached.
//   - It never resolves a tag, and reads nothing that a pod's author can set as
//     permission.
package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rescue"
)

// Source fetches what is there about a digest. Evidence that is partly missing is
// returned with Evidence.Incomplete set; an error means that nothing was learnt.
type Source interface {
	Fetch(ctx context.Context, q evidence.Question) (*evidence.Evidence, error)
}

// Keeper remembers evidence across restarts. It is asked when a registry gives no answer, and told
// of what an allow rested on. *evidence.Store is one.
type Keeper interface {
	Keep(*evidence.Evidence)
	Recall(q evidence.Question) *evidence.Evidence // nil if there is none that answers all of q
}

// ErrNoPolicy is wrapped by errors of a Verifier that has no usable policy set.
var ErrNoPolicy = errors.New("no usable policy")

// UndecidedError says that a verdict could not be reached. It wraps the cause:
// evidence.ErrUnavailable, evidence.ErrUnauthorized, ErrNoPolicy, rescue.ErrPanicked or a context error.
type UndecidedError struct {
	Subject Subject
	Policy  string // the policy that could not be judged, if one was reached
	Err     error
}

func (e *UndecidedError) Error() string {
	if e.Policy != "" {
		return fmt.Sprintf("policy %q could not be judged for %s: %v", e.Policy, e.Subject.subject(), e.Err)
	}
	return fmt.Sprintf("no verdict on %s: %v", e.Subject.subject(), e.Err)
}

func (e *UndecidedError) Unwrap() error { return e.Err }

// Options configure a Verifier.
type Options struct {
	Source Source
	// Keeper may be nil.
	Keeper  Keeper
	NoMatch NoMatch
	// CacheSize is the number of verdicts kept; AllowTTL and DenyTTL are how long.
	CacheSize         int
	AllowTTL, DenyTTL time.Duration
	// FetchTimeout bounds the fetching for one verification that several callers share, and
	// after it the judging. Each caller's own context bounds its own wait.
	FetchTimeout time.Duration
	// Cache is told of every look-up, Judged of every verification made; both may be nil.
	Cache  func(hit bool)
	Judged func(d time.Duration, err error)
	// Log is given the stack of a panic, at debug level. It may be nil.
	Log *slog.Logger
}

// Verifier is safe for concurrent use.
type Verifier struct {
	opts   Options
	state  atomic.Pointer[state]
	cache  *cache
	flight singleflight.Group
	// asking holds one place for each image whose evidence is in memory, being fetched or judged: the bounds on what
	// is read for one image would be none if a hundred hostile ones were looked at together.
	asking chan struct{}
	now    func() time.Time
}

// state is the policy set in force, or the reason why there is none.
type state struct {
	set *policy.Set
	err error
}

// New returns a Verifier that has no policies yet: until SetPolicies is called
// every Verify fails with ErrNoPolicy.
func New(o Options) (*Verifier, error) {
	switch {
	case o.Source == nil:
		return nil, errors.New("verifier needs a source of evidence")
	case o.NoMatch != NoMatchDeny && o.NoMatch != NoMatchWarn && o.NoMatch != NoMatchAllow:
		return nil, fmt.Errorf("noMatch %q is not one of deny, warn, allow", o.NoMatch)
	case o.CacheSize <= 0 || o.AllowTTL <= 0 || o.DenyTTL <= 0 || o.FetchTimeout <= 0:
		return nil, errors.New("verifier needs a positive cache size, TTLs and fetch timeout")
	}
	c, err := newCache(o.CacheSize)
	if err != nil {
		return nil, err
	}
	v := &Verifier{opts: o, cache: c, asking: make(chan struct{}, limits.Questions.Max()), now: time.Now}
	v.state.Store(&state{err: errors.New("policies have not been loaded yet")})
	return v, nil
}

// SetPolicies puts a set in force, atomically. Verdicts reached under another
// revision are dropped.
func (v *Verifier) SetPolicies(set *policy.Set) {
	if set == nil {
		v.SetUnusable(errors.New("no policy set was given"))
		return
	}
	v.state.Store(&state{set: set})
	v.cache.purge()
}

// SetUnusable takes the policy set away: every Verify fails with ErrNoPolicy and reason.
// It is for an agent that never had a good set; one that had keeps it.
func (v *Verifier) SetUnusable(reason error) {
	v.state.Store(&state{err: reason})
	v.cache.purge()
}

// Revision names the set in force; empty if there is none.
func (v *Verifier) Revision() string {
	if s := v.state.Load(); s.set != nil {
		return s.set.Revision()
	}
	return ""
}

// Cached returns the number of verdicts in the cache.
func (v *Verifier) Cached() int { return v.cache.len() }

// Verify reaches a verdict on s, from the cache if one is there.
func (v *Verifier) Verify(ctx context.Context, s Subject) (Verdict, error) {
	st := v.state.Load()
	if st.set == nil {
		return Verdict{}, &UndecidedError{Subject: s, Err: fmt.Errorf("%w: %w", ErrNoPolicy, st.err)}
	}
	k := keyOf(s, st.set.Revision())
	if verdict, ok := v.cache.get(k, s.Credentials, v.now()); ok {
		v.observeCache(true)
		return verdict, nil
	}
	v.observeCache(false)
	// Only after the look-up: nothing is in the cache under another digest.
	if err := s.Digest.Validate(); err != nil || s.Digest.Algorithm() != digest.SHA256 {
		return Verdict{}, &UndecidedError{Subject: s, Err: fmt.Errorf("%.100q is not a sha256 digest", s.Digest)}
	}

	// A caller whose time is up must not start what would outlive it and hold a place.
	if ctx.Err() != nil {
		return Verdict{}, &UndecidedError{Subject: s, Err: fmt.Errorf("%w: %w", evidence.ErrUnavailable, context.Cause(ctx))}
	}

	// One verification at a time for each key, however many ask. It outlives the caller that
	// started it, so that one pod's cancellation does not fail the others; credentials are part of
	// the key, so that nobody waits on an answer obtained with another's.
	done := v.flight.DoChan(k.flight(s.Credentials), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.opts.FetchTimeout)
		defer cancel()
		var verdict Verdict
		// This is a goroutine of its own, and singleflight ends the process if it panics: a parser
		// that does so on a stranger's bytes must end neither the agent, and with it the node's
		// way to its runtime, nor in an allow.
		err := rescue.Do(v.opts.Log, "the verification", func() (err error) {
			verdict, err = v.verify(ctx, st, k, s)
			return err
		})
		var undecided *UndecidedError
		if err != nil && !errors.As(err, &undecided) {
			err = &UndecidedError{Subject: s, Err: err}
		}
		return verdict, err
	})
	select {
	case <-ctx.Done():
		return Verdict{}, &UndecidedError{Subject: s, Err: fmt.Errorf("%w: %w", evidence.ErrUnavailable, context.Cause(ctx))}
	case r := <-done:
		if r.Err != nil {
			return Verdict{}, r.Err
		}
		return r.Val.(Verdict), nil
	}
}

// verify is one verification, and its measurement.
func (v *Verifier) verify(ctx context.Context, st *state, k key, s Subject) (verdict Verdict, err error) {
	// The verification that was under way when Verify looked may have ended before this one began.
	if verdict, ok := v.cache.get(k, s.Credentials, v.now()); ok {
		return verdict, nil
	}
	if v.opts.Judged != nil {
		start := v.now()
		err = rescue.ErrPanicked // what is told if deciding does not return
		defer func() { v.opts.Judged(v.now().Sub(start), err) }()
	}
	return v.decide(ctx, st, k, s)
}

func (v *Verifier) decide(ctx context.Context, st *state, k key, s Subject) (Verdict, error) {
	matched, err := st.set.Match(s.Image, s.Digest)
	if err != nil {
		return Verdict{}, &UndecidedError{Subject: s, Err: err}
	}
	var ev *evidence.Evidence
	if needsEvidence(matched) {
		leave, err := v.enter(ctx)
		defer leave()
		ev = v.gather(ctx, s, err)
	}
	// A fetch that used up its time may still have found a good signature, so judging has as
	// much again.
	judging, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.opts.FetchTimeout)
	defer cancel()
	verdict, settled, err := judge(judging, matched, v.opts.NoMatch, s, ev)
	if err != nil {
		return Verdict{}, err
	}
	verdict.Revision = st.set.Revision()
	// A warning is kept as briefly as a refusal: somebody is about to sign.
	ttl := v.opts.DenyTTL
	if verdict.Allowed && !verdict.Warn {
		ttl = v.opts.AllowTTL
	}
	if verdict.Allowed && !verdict.Warn && ev != nil && ev.Incomplete == nil && v.opts.Keeper != nil {
		v.opts.Keeper.Keep(ev)
	}
	if settled {
		v.cache.put(k, s.Credentials, verdict, v.now().Add(ttl))
	}
	return verdict, nil
}

// enter waits for a place among those who may hold evidence in memory, and as long as ctx lasts.
func (v *Verifier) enter(ctx context.Context) (leave func(), err error) {
	select {
	case v.asking <- struct{}{}:
		return func() { <-v.asking }, nil
	case <-ctx.Done():
		return func() {}, fmt.Errorf("%w: too many other images are being asked about: %w", evidence.ErrUnavailable, context.Cause(ctx))
	}
}

// gather fetches the evidence about s. What a registry could not be asked about for the moment is
// filled up from what was kept: a pod must be able to restart while its registry is away, or
// when its pull secret came with the pull and not with the restart. Kept evidence is signed
// data like any other and is judged like it; that some is missing stays on record in Incomplete, so that
// without a good signature among it the outcome is "could not find out" and not "unsigned". err says why
// nobody can be asked, if that is so.
func (v *Verifier) gather(ctx context.Context, s Subject, err error) *evidence.Evidence {
	q := evidence.Question{Repository: s.Repository, Digest: s.Digest, Credentials: []evidence.Credentials{s.Credentials}}
	var ev *evidence.Evidence
	if err == nil {
		ev, err = v.opts.Source.Fetch(ctx, q)
		if err == nil && ev == nil {
			err = errors.New("no evidence was given, and no reason")
		}
	}
	if err != nil {
		// Policies that need no evidence, or only warn, are still judged.
		ev = &evidence.Evidence{Repository: s.Repository, Digest: s.Digest, Incomplete: err}
	}
	if ev.Incomplete == nil || definite(ev.Incomplete) || v.opts.Keeper == nil {
		return ev
	}
	if ev.Digest != s.Digest {
		return ev
	}
	return ev.With(v.opts.Keeper.Recall(q))
}

func (v *Verifier) observeCache(hit bool) {
	if v.opts.Cache != nil {
		v.opts.Cache(hit)
	}
}
