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
//   - Policies of the cluster add to the node's own and take nothing away: they are asked only about what the
//     node's own let through, and share neither keys, evidence, places nor verdicts with them.
package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"golang.org/x/sync/singleflight"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rescue"
)

// Source fetches what is there about a digest. Evidence that is partly missing is
// returned with Evidence.Incomplete set; an error means that nothing was learnt.
type Source interface {
	Fetch(ctx context.Context, q evidence.Question) (*evidence.Evidence, error)
}

// Prover asks a transparency log for the proofs that did not come with signatures. It returns ev with
// them, and does not change it. *evidence.Logs is one.
type Prover interface {
	Prove(ctx context.Context, url string, publicKeys [][]byte, ev *evidence.Evidence) (*evidence.Evidence, error)
}

// Keeper remembers evidence across restarts. It is asked when a registry gives no answer, and told
// of what an allow rested on. Keep must not wait for a disk, nor Recall for longer than ctx lasts. *evidence.Store is one.
type Keeper interface {
	Keep(*evidence.Evidence)
	Recall(ctx context.Context, q evidence.Question) *evidence.Evidence // nil if there is none that answers all of q
}

// ErrNoPolicy is wrapped by errors of a Verifier that has no usable policy set.
var ErrNoPolicy = errors.New("no usable policy")

// UndecidedError says that a verdict could not be reached. It wraps the cause:
// evidence.ErrUnavailable, evidence.ErrUnauthorized, ErrNoPolicy, rescue.ErrPanicked or a context error.
type UndecidedError struct {
	Subject Subject
	Layer   Layer
	Policy  string // the policy that could not be judged, if one was reached
	// Verdict is what could be found out, if anything was judged. It allows nothing.
	Verdict *Verdict
	Err     error
}

func (e *UndecidedError) Error() string {
	if e.Policy != "" {
		return fmt.Sprintf("%s could not be judged for %s: %v", e.Layer.Named(e.Policy), e.Subject.subject(), e.Err)
	}
	return fmt.Sprintf("no verdict on %s: %v", e.Subject.subject(), e.Err)
}

func (e *UndecidedError) Unwrap() error { return e.Err }

// Options configure a Verifier.
type Options struct {
	Source Source
	// Keeper and Prover may be nil. ClusterKeeper is what the Keeper is, for what policies of the cluster ask.
	Keeper        Keeper
	ClusterKeeper Keeper
	Prover        Prover
	// NoMatch is asked of the node's own policies alone.
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
	// floors has the verdicts of the node's own policies where the cluster has some too, so that whoever changes those
	// does not have all registries asked again. They are not used twice as long for it.
	floors *cache
	// places are for images whose evidence is in memory, being fetched or judged: the bounds on what
	// is read for one image would be none if a hundred hostile ones were looked at together.
	places, clusterPlaces *evidence.Places
	now                   func() time.Time

	setting sync.Mutex // one change of what is in force at a time
	floor   given
	cluster given
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
	v := &Verifier{opts: o, places: evidence.NewPlaces(), clusterPlaces: evidence.NewClusterPlaces(), now: time.Now}
	for _, c := range []**cache{&v.cache, &v.floors} {
		var err error
		if *c, err = newCache(o.CacheSize); err != nil {
			return nil, err
		}
	}
	v.SetUnusable(errors.New("policies have not been loaded yet"))
	return v, nil
}

// Revision names the policies in force, as Verdict.Revision does; empty if there are none of the node's own.
func (v *Verifier) Revision() string { return v.state.Load().names }

// Cached returns the number of verdicts in the cache.
func (v *Verifier) Cached() int { return v.cache.len() }

// Verify reaches a verdict on s, from the cache if one is there.
func (v *Verifier) Verify(ctx context.Context, s Subject) (Verdict, error) {
	st := v.state.Load()
	if st.err != nil {
		return Verdict{}, &UndecidedError{Subject: s, Err: fmt.Errorf("%w: %w", ErrNoPolicy, st.err)}
	}
	m, err := st.match(s.Image, s.Digest)
	if err != nil {
		return Verdict{}, &UndecidedError{Subject: s, Err: err}
	}
	about := m.questions(st, s)
	k := keyOf(s, st.revision, about.pod)
	if verdict, ok := v.cache.get(k, s.Credentials, v.now()); ok {
		v.observeCache(true)
		return verdict, nil
	}
	v.observeCache(false)
	// A caller whose time is up must not start what would outlive it and hold a place.
	if ctx.Err() != nil {
		return Verdict{}, &UndecidedError{Subject: s, Err: fmt.Errorf("%w: %w", evidence.ErrUnavailable, context.Cause(ctx))}
	}

	// One verification at a time for each key, however many ask. It outlives the caller that
	// started it, so that one pod's cancellation does not fail the others; credentials are part of
	// the key, so that nobody waits on an answer obtained with another's.
	done := v.flight.DoChan(k.flight(s.Credentials), func() (any, error) {
		var verdict Verdict
		// This is a goroutine of its own, and singleflight ends the process if it panics: a parser
		// that does so on a stranger's bytes must end neither the agent, and with it the node's
		// way to its runtime, nor in an allow.
		err := rescue.Do(v.opts.Log, "the verification", func() (err error) {
			verdict, err = v.verify(context.WithoutCancel(ctx), st, k, s, about)
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
func (v *Verifier) verify(ctx context.Context, st *state, k key, s Subject, about questions) (verdict Verdict, err error) {
	// The verification that was under way when Verify looked may have ended before this one began.
	if verdict, ok := v.cache.get(k, s.Credentials, v.now()); ok {
		return verdict, nil
	}
	if v.opts.Judged != nil {
		start := v.now()
		err = rescue.ErrPanicked // what is told if deciding does not return
		defer func() { v.opts.Judged(v.now().Sub(start), err) }()
	}
	return v.decide(ctx, st, k, s, about)
}

// judge bounds the time of a judgement. A fetch that used up its time may still have found a good signature, so
// judging has as much again.
func (v *Verifier) judge(ctx context.Context, j *judgement, l *layer, policies []*policy.Policy) (Verdict, bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.opts.FetchTimeout)
	defer cancel()
	return j.judge(ctx, policies, l.noMatch)
}

// toKeep is what an allow rested on, and who remembers it.
type toKeep struct {
	keeper Keeper
	all    []*evidence.Evidence
}

// restsOn is what j found, if all questions were answered.
func restsOn(keeper Keeper, j *judgement) (k toKeep) {
	if keeper == nil {
		return k
	}
	k.keeper = keeper
	proved := map[place]*evidence.Evidence{}
	for key, p := range j.proved {
		if p.err == nil {
			proved[key.at] = p.ev
		}
	}
	for at, ev := range j.found {
		if ev.Incomplete != nil {
			continue
		}
		if with, ok := proved[at]; ok {
			ev = with
		}
		k.all = append(k.all, ev)
	}
	return k
}

// keep hands it over.
func (k toKeep) keep() {
	for _, ev := range k.all {
		k.keeper.Keep(ev)
	}
}

// prove asks the logs that policies name for the proofs that did not come with signatures.
func (v *Verifier) prove(ctx context.Context, j *judgement) map[proofKey]proof {
	proved := map[proofKey]proof{}
	for key, keys := range j.unproved {
		p := proof{err: fmt.Errorf("%w: no log can be asked here", evidence.ErrUnavailable)}
		if v.opts.Prover != nil {
			p.ev, p.err = v.opts.Prover.Prove(ctx, key.url, pems(keys), j.found[key.at])
		}
		if p.ev != nil && p.ev.Digest != j.subject.Digest {
			p = proof{err: errors.New("the answer is about something else")}
		}
		proved[key] = p
	}
	return proved
}

// pems are the keys as a log takes them.
func pems(keys []policy.PublicKey) (all [][]byte) {
	for _, k := range keys {
		if raw, err := cryptoutils.MarshalPublicKeyToPEM(k.Key); err == nil && !slices.ContainsFunc(all, func(b []byte) bool { return bytes.Equal(b, raw) }) {
			all = append(all, raw)
		}
	}
	return all
}

func (v *Verifier) observeCache(hit bool) {
	if v.opts.Cache != nil {
		v.opts.Cache(hit)
	}
}
