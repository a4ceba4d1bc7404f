package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/sigstore"
	"github.com/cosentry/cosentry/verify/trust"
)

// judgement is one judging: what is asked about, what is there, and the time. It does no I/O.
type judgement struct {
	subject Subject
	layer   Layer // of the policies
	refs    *trust.Snapshot
	found   gathered
	now     time.Time
	// proved is what was found at a place with the proofs that a log was asked for.
	proved map[proofKey]proof
	read   map[*evidence.Evidence]*sigstore.Material
	// unproved are the places where a log could still be asked for proofs.
	unproved map[proofKey][]policy.PublicKey
}

// proofKey is where proofs are asked for, and for what.
type proofKey struct {
	at  place
	url string
}

type proof struct {
	ev  *evidence.Evidence
	err error // why none could be had
}

// judge reaches a verdict from what was found.
//
// Every matching policy must pass; within one, any authority suffices, and the policy's rule must accept what they
// found. A policy that failed although something is missing is undecided: unless another policy refuses for certain,
// that is an *UndecidedError. settled is false where something missing shaped the verdict, so that the next request
// asks again.
func (j *judgement) judge(ctx context.Context, matched []*policy.Policy, noMatch NoMatch) (v Verdict, settled bool, err error) {
	s := j.subject
	j.read, j.unproved = map[*evidence.Evidence]*sigstore.Material{}, map[proofKey][]policy.PublicKey{}
	v = Verdict{Image: s.Image, Repository: s.Repository, Digest: s.Digest, Allowed: true}
	if len(matched) == 0 {
		v.NoMatch = noMatch
		v.Allowed = noMatch == NoMatchWarn || noMatch == NoMatchAllow
		v.Warn = noMatch == NoMatchWarn
		return v, true, nil
	}
	for _, ev := range j.found {
		if ev.Digest != s.Digest {
			return Verdict{}, false, &UndecidedError{Subject: s, Err: fmt.Errorf("evidence is about %s", ev.Digest)}
		}
	}
	settled = true
	var undecided *UndecidedError
	for _, p := range matched {
		r, missing := j.policy(ctx, p)
		if ctx.Err() != nil {
			// A registry may hold as many signatures as the bounds allow, and each costs time.
			return Verdict{}, false, &UndecidedError{Subject: s, Layer: j.layer, Policy: p.Name, Err: fmt.Errorf("judging the signatures took too long: %w", context.Cause(ctx))}
		}
		v.Policies = append(v.Policies, r)
		if r.Passed {
			continue
		}
		if missing != nil {
			settled = false
			v.Policies[len(v.Policies)-1].Undecided = true
		}
		switch {
		case p.Mode == policy.Warn:
			v.Warn = true
		case missing != nil:
			if undecided == nil {
				undecided = &UndecidedError{Subject: s, Layer: j.layer, Policy: p.Name, Err: missing}
			}
		default:
			v.Allowed = false
		}
	}
	if v.Allowed && undecided != nil {
		known := v
		known.Allowed, known.Warn = false, false
		undecided.Verdict = &known
		return Verdict{}, false, undecided
	}
	if !v.Allowed {
		// One certain refusal decides, whatever else could not be learnt.
		settled, v.Warn = true, false
	}
	return v, settled, nil
}

// policy asks every authority, so that the explanation is whole. missing says what was not to be had for the
// moment and could have let the policy pass.
func (j *judgement) policy(ctx context.Context, p *policy.Policy) (r PolicyResult, missing error) {
	r = PolicyResult{Policy: p.Name, Layer: j.layer, Mode: p.Mode.String()}
	var reasons []string
	all := make([]answer, len(p.Authorities))
	for i := range p.Authorities {
		a := j.authority(ctx, &p.Authorities[i])
		a.Reason = cut(a.Reason, maxAuthorityReason)
		all[i] = a
		if a.Passed {
			r.Passed = true
		} else {
			if len(reasons) >= maxExplained {
				a.Reason = ""
			}
			reasons = append(reasons, a.Reason)
		}
		if missing == nil {
			missing = a.missing
		}
		a.Undecided = !a.Passed && a.missing != nil
		r.Authorities = append(r.Authorities, a.AuthorityResult)
	}
	switch {
	case len(p.Authorities) == 0:
		r.Reason = "it names no authority"
	case !r.Passed:
		r.Reason = joined(reasons)
	case p.Rule != nil:
		warning, gap, err := j.rule(ctx, p, all)
		r.Warning = cut(warning, maxReason)
		if missing == nil {
			missing = gap
		}
		if err != nil {
			r.Passed, r.Reason, r.Reference = false, cut(err.Error(), maxReason), ofReference(err)
		}
	}
	if r.Passed {
		missing = nil
	}
	return r, missing
}

// What a refusal says is bounded, because thousands are kept in the cache and a registry has its part in the words.
const (
	maxReason          = 1 << 10 // bytes, of a policy
	maxAuthorityReason = 512     // bytes
	maxExplained       = 16      // authorities of one policy that failed
	maxSigners         = 16      // of one authority that are named in a verdict
)

// joined puts as many of the reasons as there is room for into one sentence, and says how many are left out.
func joined(reasons []string) string {
	const more = len("; … and 0000000 more")
	var words strings.Builder
	for i, reason := range reasons {
		if i >= maxExplained || words.Len()+len("; ")+len(reason)+more > maxReason {
			fmt.Fprintf(&words, "; … and %d more", len(reasons)-i)
			break
		}
		if i > 0 {
			words.WriteString("; ")
		}
		words.WriteString(reason)
	}
	return words.String()
}

// cut ends a text that is too long where a character ends.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len("…")], "") + "…"
}

// gap returns why evidence is incomplete if asking again later may mend it. Evidence past a bound, or bytes that are
// not what was asked for, are no such cases: they are refusals.
func gap(err error) error {
	if err == nil || definite(err) {
		return nil
	}
	return err
}

// ofReference says whether err is about what a policy refers to and does not hold.
func ofReference(err error) bool {
	return errors.Is(err, trust.ErrUnavailable) || errors.Is(err, trust.ErrMissing) || errors.Is(err, trust.ErrInvalid)
}

// gapOfReference returns why what a policy refers to could not be had if that is only so for now. What the node's owner
// has not put there, or wrongly, makes an authority fail until it is mended.
func gapOfReference(err error) error {
	if errors.Is(err, trust.ErrUnavailable) || !errors.Is(err, trust.ErrMissing) && !errors.Is(err, trust.ErrInvalid) {
		return err
	}
	return nil
}

// definite reports whether err says something about the evidence itself, as against
// something about the way there. Where several errors are joined all must; one
// that is not known here is none, so that it is never kept as a refusal.
func definite(err error) bool {
	switch err {
	case evidence.ErrMismatch, evidence.ErrNotFound:
		return true
	}
	switch e := err.(type) {
	case *limits.Exceeded:
		return true
	case interface{ Unwrap() error }:
		cause := e.Unwrap()
		return cause != nil && definite(cause)
	case interface{ Unwrap() []error }:
		causes := e.Unwrap()
		return len(causes) > 0 && !slices.ContainsFunc(causes, func(cause error) bool { return !definite(cause) })
	}
	return false
}
