package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
)

// needsEvidence reports whether some policy can only be judged on signatures. A
// static pass is enough by itself and must not contact a registry.
func needsEvidence(matched []*policy.Policy) bool {
	for _, p := range matched {
		if !passesStatically(p) && hasKey(p) {
			return true
		}
	}
	return false
}

func passesStatically(p *policy.Policy) bool {
	for _, a := range p.Authorities {
		if a.Static != nil && a.Static.Pass {
			return true
		}
	}
	return false
}

func hasKey(p *policy.Policy) bool {
	for _, a := range p.Authorities {
		if a.Key != nil {
			return true
		}
	}
	return false
}

// judge reaches a verdict on s from evidence alone. It does no I/O.
//
// Every matching policy must pass; within one, any authority suffices. A policy
// that failed although evidence is missing is undecided: unless another policy refuses for certain,
// that is an *UndecidedError. settled is false where missing evidence shaped the
// verdict, so that the next request asks again.
func judge(ctx context.Context, matched []*policy.Policy, noMatch NoMatch, s Subject, ev *evidence.Evidence) (v Verdict, settled bool, err error) {
	v = Verdict{Image: s.Image, Repository: s.Repository, Digest: s.Digest, Allowed: true}
	if len(matched) == 0 {
		v.NoMatch = noMatch
		v.Allowed = noMatch == NoMatchWarn || noMatch == NoMatchAllow
		v.Warn = noMatch == NoMatchWarn
		return v, true, nil
	}
	if ev != nil && ev.Digest != s.Digest {
		return Verdict{}, false, &UndecidedError{Subject: s, Err: fmt.Errorf("evidence is about %s", ev.Digest)}
	}
	settled = true
	var undecided *UndecidedError
	var found candidates
	if ev != nil {
		found = candidatesOf(ev)
	}
	for _, p := range matched {
		r := judgePolicy(ctx, p, ev, found)
		if ctx.Err() != nil {
			// A registry may hold as many signatures as the bounds allow, and each costs time.
			return Verdict{}, false, &UndecidedError{Subject: s, Policy: p.Name, Err: fmt.Errorf("judging the signatures took too long: %w", context.Cause(ctx))}
		}
		v.Policies = append(v.Policies, r)
		if r.Passed {
			continue
		}
		missing := missingFor(p, ev)
		if missing != nil {
			settled = false
		}
		switch {
		case p.Mode == policy.Warn:
			v.Warn = true
		case missing != nil:
			if undecided == nil {
				undecided = &UndecidedError{Subject: s, Policy: p.Name, Err: missing}
			}
		default:
			v.Allowed = false
		}
	}
	if v.Allowed && undecided != nil {
		return Verdict{}, false, undecided
	}
	if !v.Allowed {
		// One certain refusal decides, whatever else could not be learnt.
		settled, v.Warn = true, false
	}
	return v, settled, nil
}

// missingFor returns why evidence that could have let p pass was not to be had for the
// moment. Evidence past a bound, or bytes that are not what was asked for, is no such
// case: asking again would not mend it, so it is a refusal.
func missingFor(p *policy.Policy, ev *evidence.Evidence) error {
	if !hasKey(p) || ev == nil || ev.Incomplete == nil || definite(ev.Incomplete) {
		return nil
	}
	return ev.Incomplete
}

// judgePolicy asks every authority, so that the explanation is whole.
func judgePolicy(ctx context.Context, p *policy.Policy, ev *evidence.Evidence, found candidates) PolicyResult {
	r := PolicyResult{Policy: p.Name, Mode: p.Mode.String()}
	var reasons []string
	for i := range p.Authorities {
		a := judgeAuthority(ctx, &p.Authorities[i], ev, found)
		a.Reason = cut(a.Reason, maxAuthorityReason)
		if a.Passed {
			r.Passed = true
		} else {
			if len(reasons) >= maxExplained {
				a.Reason = ""
			}
			reasons = append(reasons, a.Reason)
		}
		r.Authorities = append(r.Authorities, a)
	}
	switch {
	case r.Passed:
	case len(p.Authorities) == 0:
		r.Reason = "it names no authority"
	default:
		r.Reason = joined(reasons)
	}
	return r
}

// What a refusal says is bounded, because thousands are kept in the cache and a registry has its part in the words.
const (
	maxReason          = 1 << 10 // bytes, of a policy
	maxAuthorityReason = 512     // bytes
	maxExplained       = 16      // authorities of one policy that failed
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

func judgeAuthority(ctx context.Context, a *policy.Authority, ev *evidence.Evidence, found candidates) AuthorityResult {
	switch {
	case a.Static != nil && a.Key == nil:
		r := AuthorityResult{Authority: a.Name, Kind: "static", Passed: a.Static.Pass}
		if !r.Passed {
			r.Reason = fmt.Sprintf("authority %q fails every image", a.Name)
			if a.Static.Message != "" {
				r.Reason += ": " + a.Static.Message
			}
		}
		return r
	case a.Key != nil && a.Static == nil:
		return judgeKey(ctx, a, ev, found.in(a.Format))
	default:
		return AuthorityResult{Authority: a.Name, Reason: fmt.Sprintf("authority %q is of no kind that this build can judge", a.Name)}
	}
}

// judgeKey looks for one signature over the digest by one of the authority's keys.
func judgeKey(ctx context.Context, a *policy.Authority, ev *evidence.Evidence, found []candidate) AuthorityResult {
	r := AuthorityResult{Authority: a.Name, Kind: "key", Found: len(found)}
	if ev == nil {
		// Another authority passed statically and nothing was fetched.
		r.Reason = fmt.Sprintf("no signature was looked for by authority %q", a.Name)
		return r
	}
	var otherDigest, otherUse int
	for _, k := range a.Key.PublicKeys {
		for _, c := range found {
			if ctx.Err() != nil {
				break // the caller looks, and does not use this result
			}
			switch c.verify(ctx, k, ev.Digest) {
			case nil:
				r.Passed, r.KeyFingerprint, r.Form = true, k.Fingerprint, c.form()
				return r
			case errOtherDigest:
				otherDigest++
			case errNotASignature:
				otherUse++
			}
		}
	}
	r.Reason = fmt.Sprintf("no signature by authority %q (%s)", a.Name, countWords(r.Found, otherDigest, otherUse))
	if err := ev.Incomplete; err != nil {
		r.Reason += ": " + err.Error()
	}
	return r
}

func countWords(found, otherDigest, otherUse int) string {
	n := "1 signature found"
	switch {
	case found == 0:
		return "no signatures found"
	case found > 1:
		n = fmt.Sprintf("%d signatures found", found)
	}
	switch {
	case otherDigest > 0:
		return fmt.Sprintf("%s, %d by this key but for another image", n, otherDigest)
	case otherUse > 0:
		return fmt.Sprintf("%s, %d by this key but not as an image signature", n, otherUse)
	}
	return n + ", none by this key"
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
