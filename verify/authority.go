package verify

import (
	"context"
	"errors"
	"fmt"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rules"
	"github.com/cosentry/cosentry/verify/sigstore"
)

// answer is an authority's result, with what a policy's rule is told of it.
type answer struct {
	AuthorityResult
	match rules.AuthorityMatch
	// missing is what was not to be had for the moment and could have made it pass.
	missing error
}

func (j *judgement) authority(ctx context.Context, a *policy.Authority) (r answer) {
	r.Authority = a.Name
	switch {
	case a.Static != nil:
		r.Kind, r.Passed = "static", a.Static.Pass
		r.match.Static = a.Static.Pass
		if !r.Passed {
			r.Reason = fmt.Sprintf("authority %q fails every image", a.Name)
			if a.Static.Message != "" {
				r.Reason += ": " + a.Static.Message
			}
		}
		return r
	case a.Key != nil:
		r.Kind = "key"
	case a.Keyless != nil:
		r.Kind = "keyless"
	default:
		r.Reason = fmt.Sprintf("authority %q is of no kind that this build can judge", a.Name)
		return r
	}
	demand, err := j.demand(a)
	if err != nil {
		r.Reason = fmt.Sprintf("authority %q cannot be judged: %v", a.Name, err)
		r.missing, r.Reference = gapOfReference(err), ofReference(err)
		r.asked(a, err)
		return r
	}
	ev := j.evidence(a)
	if ev == nil {
		// Another authority passed statically and nothing was fetched.
		r.Reason = fmt.Sprintf("no signature was looked for by authority %q", a.Name)
		return r
	}
	unproved := j.look(ctx, a, demand, ev, &r)
	if r.Passed {
		return r
	}
	if ev.Incomplete != nil {
		r.Reason += ": " + ev.Incomplete.Error()
		if r.missing == nil {
			r.missing = gap(ev.Incomplete)
		}
	}
	j.logCouldHelp(a, demand, unproved, &r)
	return r
}

// look judges what was found, for an authority that asks for signatures or for attestations. It says whether
// something lacks nothing but a log's proof.
func (j *judgement) look(ctx context.Context, a *policy.Authority, d sigstore.Demand, ev *evidence.Evidence, r *answer) (unproved bool) {
	m := j.material(ev)
	if len(a.Attestations) > 0 {
		return j.attestations(ctx, a, d, m, r)
	}
	signers, tally := m.Signatures(ctx, d)
	r.Found = tally.Found
	if len(signers) == 0 {
		r.Reason = fmt.Sprintf("no %ssignature by authority %q (%s)", inForm(a.Format), a.Name, tally.Why())
		return tally.Unproved > 0
	}
	r.Passed = true
	r.signedBy(signers)
	for _, s := range signers {
		r.match.Signatures = append(r.match.Signatures, byRule(s))
	}
	return false
}

// inForm names the one form that counts, so that "none found" is not read as none there.
func inForm(f policy.Format) string {
	switch f {
	case policy.LegacyFormat:
		return "classic "
	case policy.BundleFormat:
		return "bundled "
	}
	return ""
}

// signedBy names who signed.
func (r *answer) signedBy(signers []sigstore.Signer) {
	r.KeyFingerprint, r.Form = signers[0].KeyFingerprint, signers[0].Form
	r.Signers = signers[:min(len(signers), maxSigners)]
}

// byRule is a signer as a rule sees it.
func byRule(s sigstore.Signer) rules.Signature {
	return rules.Signature{
		ID: s.ID, Subject: s.Subject, Issuer: s.Issuer,
		GitHub: rules.GitHub(s.GitHub),
	}
}

// demand puts together what an authority demands, from the policy and from what it refers to.
func (j *judgement) demand(a *policy.Authority) (d sigstore.Demand, err error) {
	d = sigstore.Demand{Format: a.Format, Now: j.now}
	if a.Key != nil {
		if d.Keys, err = j.refs.Keys(a.Key); err != nil {
			return d, err
		}
		if len(d.Keys) == 0 {
			return d, errors.New("it has no key") // an empty list must not read as keyless, by anybody
		}
	} else {
		d.Identities, d.IgnoreSCT = a.Keyless.Identities, a.Keyless.IgnoreSCT
		if len(d.Identities) == 0 {
			return d, errors.New("it names no identity")
		}
		if d.CAs, err = j.refs.Certificates(a.Keyless); err != nil {
			return d, err
		}
	}
	if a.NeedsLog() {
		name := ""
		if a.Log != nil {
			name = a.Log.TrustRoot
		}
		if d.Logs, err = j.refs.Root(name); err != nil {
			return d, err
		}
	}
	if a.Timestamp != nil {
		if d.Timestamps, err = j.refs.Root(a.Timestamp.TrustRoot); err != nil {
			return d, err
		}
	}
	return d, nil
}

// evidence is what was found where the authority has its signatures, with proofs if a log was asked.
func (j *judgement) evidence(a *policy.Authority) *evidence.Evidence {
	at := placeOf(j.subject, a)
	if a.NeedsLog() && a.Log != nil {
		if p, ok := j.proved[proofKey{at, a.Log.URL}]; ok && p.ev != nil {
			return p.ev
		}
	}
	return j.found[at]
}

// material parses a piece of evidence once, however many authorities ask about it.
func (j *judgement) material(ev *evidence.Evidence) *sigstore.Material {
	m, ok := j.read[ev]
	if !ok {
		m = sigstore.Read(ev)
		j.read[ev] = m
	}
	return m
}

// logCouldHelp notes that a log may have the proof that did not come with a signature, if the policy names one to
// ask; or, once it was asked, why it could not be.
func (j *judgement) logCouldHelp(a *policy.Authority, d sigstore.Demand, unproved bool, r *answer) {
	if d.Logs == nil || a.Log == nil || a.Log.URL == "" {
		return
	}
	key := proofKey{placeOf(j.subject, a), a.Log.URL}
	if p, asked := j.proved[key]; asked {
		if p.ev == nil && r.missing == nil {
			r.Reason += fmt.Sprintf(": no proof could be asked for: %v", p.err)
			r.missing = gap(p.err)
		}
		return
	}
	if unproved {
		j.unproved[key] = append(j.unproved[key], d.Keys...)
	}
}
