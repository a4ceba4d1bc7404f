package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rules"
	"github.com/cosentry/cosentry/verify/sigstore"
)

// attestations judges an authority that asks for attestations: each one that it names must be there, signed as it
// demands, of the type, and accepted by its rule. None of a type is a failure. It says whether one lacks nothing but a log's proof.
func (j *judgement) attestations(ctx context.Context, a *policy.Authority, d sigstore.Demand, m *sigstore.Material, r *answer) (unproved bool) {
	verified, tally := m.Attestations(ctx, d)
	r.Found = tally.Found
	if len(verified) == 0 {
		r.Reason = fmt.Sprintf("no %sattestation by authority %q (%s)", inForm(a.Format), a.Name, tally.Why())
		r.asked(a, errors.New(tally.Why()))
		return tally.Unproved > 0
	}
	r.match.Attestations = map[string][]rules.Attestation{}
	var signers []sigstore.Signer
	r.Passed = true
	for i := range a.Attestations {
		want := &a.Attestations[i]
		accepted, warning, missing, err := j.attestation(ctx, want, verified)
		result := AttestationResult{Name: want.Name, PredicateType: want.PredicateType, Passed: err == nil, Warning: cut(warning, maxAuthorityReason)}
		if err != nil {
			result.Reason = cut(err.Error(), maxAuthorityReason)
			if r.Passed {
				r.Reason = fmt.Sprintf("authority %q: attestation %q: %v", a.Name, want.Name, err)
			}
			r.Passed = false
			r.Reference = r.Reference || ofReference(err)
			if r.missing == nil {
				r.missing = missing
			}
		}
		r.Attestations = append(r.Attestations, result)
		for _, att := range accepted {
			signers = append(signers, att.Signer)
			r.match.Attestations[want.Name] = append(r.match.Attestations[want.Name], rules.Attestation{
				Signature: byRule(att.Signer), PredicateType: want.PredicateType,
			})
		}
	}
	if r.Passed {
		r.signedBy(signers)
	}
	return tally.Unproved > 0
}

// asked lists the attestations that an authority asks for where none could be looked at, and why.
func (r *answer) asked(a *policy.Authority, why error) {
	for i := range a.Attestations {
		want := &a.Attestations[i]
		r.Attestations = append(r.Attestations, AttestationResult{
			Name: want.Name, PredicateType: want.PredicateType, Reason: cut(why.Error(), maxAuthorityReason),
		})
	}
}

// attestation returns those of the verified that are what is wanted; without any, it says why, and what could not be
// found out. One that is accepted suffices, whatever is wrong with others of the type.
func (j *judgement) attestation(ctx context.Context, want *policy.Attestation, verified []sigstore.Attestation) (accepted []sigstore.Attestation, warning string, missing, err error) {
	text, kind := "", ""
	if want.Rule != nil {
		if text, err = j.refs.Rule(want.Rule); err != nil {
			return nil, "", gapOfReference(err), fmt.Errorf("its rule cannot be had: %w", err)
		}
		kind = want.Rule.Type
	}
	ofType := 0
	var first error
	for _, att := range verified {
		if ctx.Err() != nil {
			return nil, "", nil, context.Cause(ctx) // the caller looks, and does not use this result
		}
		payload, err := rules.Payload(want.PredicateType, att.Envelope)
		if payload == nil && err == nil {
			continue // of another type
		}
		ofType++
		if err == nil && want.Rule != nil {
			var said string
			said, err = rules.Evaluate(ctx, want.Name, kind, text, payload)
			if warning == "" {
				warning = said
			}
			if missing == nil {
				missing = gapOfRule(err)
			}
		}
		if err == nil {
			accepted = append(accepted, att)
		} else if first == nil {
			first = err
		}
	}
	switch {
	case len(accepted) > 0:
		return accepted, warning, nil, nil
	case ofType == 0:
		return nil, "", nil, fmt.Errorf("none of type %q among the %d that are signed", want.PredicateType, len(verified))
	default:
		return nil, warning, missing, first
	}
}

// rule evaluates a policy's rule over the authorities that passed, as policy-controller does.
func (j *judgement) rule(ctx context.Context, p *policy.Policy, all []answer) (warning string, missing, err error) {
	input := rules.Result{AuthorityMatches: map[string]rules.AuthorityMatch{}}
	for _, a := range all {
		if a.Passed {
			input.AuthorityMatches[a.Authority] = a.match
		}
	}
	if p.FetchConfigFile {
		ev := j.found[place{repository: j.subject.Repository}]
		if ev == nil || len(ev.Configs) == 0 {
			err := errors.New("the image's config files, which its rule is about, could not be had")
			if ev != nil && ev.Incomplete != nil {
				err = fmt.Errorf("%w: %w", err, ev.Incomplete)
				return "", gap(ev.Incomplete), err
			}
			return "", nil, err
		}
		configs, err := readConfigs(ev.Configs)
		if err != nil {
			return "", nil, err
		}
		input.Config = configs
	}
	if p.IncludeObjectMeta {
		pod := j.subject.Pod
		if pod == nil {
			// Without it a CUE rule would find nothing to object to.
			return "", nil, errors.New("its rule is about the pod's metadata, and it is not known which pod the image is for")
		}
		input.Metadata = &rules.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, Labels: pod.Labels, Annotations: pod.Annotations}
	}
	if p.IncludeTypeMeta {
		input.Type = rules.Pod()
	}
	text, err := j.refs.Rule(p.Rule)
	if err != nil {
		return "", gapOfReference(err), fmt.Errorf("its rule cannot be had: %w", err)
	}
	raw, err := input.JSON()
	if err != nil {
		return "", nil, err
	}
	warning, err = rules.Evaluate(ctx, "ClusterImagePolicy", p.Rule.Type, text, raw)
	return warning, gapOfRule(err), err
}

// readConfigs reads config files as a runtime does.
func readConfigs(raw map[string][]byte) (map[string]*v1.ConfigFile, error) {
	all := make(map[string]*v1.ConfigFile, len(raw))
	for platform, data := range raw {
		var c v1.ConfigFile
		if err := json.Unmarshal(data, &c); err != nil {
			return nil, fmt.Errorf("the image's config file for %s, which its rule is about, cannot be read: %w", cut(platform, 100), err)
		}
		all[platform] = &c
	}
	return all, nil
}

// gapOfRule is the error unless it is the rule's own no: what could not be evaluated in its time is no refusal.
func gapOfRule(err error) error {
	var no *rules.Refused
	if err == nil || errors.As(err, &no) {
		return nil
	}
	return gap(err)
}
