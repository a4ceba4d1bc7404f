package sigstore

import (
	"context"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rescue"
)

// Material is evidence about one digest, each piece of which is parsed at most once, however many demands are made.
// It may be used by several goroutines at once.
type Material struct {
	digest       digest.Digest
	signatures   []piece // classic
	attestations []piece // classic
	bundles      []piece // of which nobody knows yet what they are
}

// piece is one signature or attestation. What it returns beside nil is why it does not count.
type piece interface {
	judge(ctx context.Context, j *judgement) (*Attestation, *refusal)
}

// Read takes evidence in. What is parsed of it stays in memory with the Material, so together its pieces may have no more
// elements than the bound: a bundle of 1 MiB takes 30 MiB if it is made for that. They may have no more bytes either than
// may be read about a digest: 128 pieces may be one blob, which was read once. A piece beyond a bound is unreadable.
func Read(ev *evidence.Evidence) *Material {
	m := &Material{}
	if ev == nil {
		return m
	}
	m.digest = ev.Digest
	sum := limits.Sum{Bytes: ev.Bound()}
	for i := range ev.Signatures {
		s := &ev.Signatures[i]
		m.signatures = append(m.signatures, newClassic(s, signature, sum.Takes(s.Payload, limits.CountElements(s.Annotations[logAnnotation]))))
	}
	for i := range ev.Bundles {
		b := &ev.Bundles[i]
		m.bundles = append(m.bundles, newBundled(b, sum.Takes(b.Raw, limits.CountElements(b.Raw))))
	}
	for i := range ev.Attestations {
		a := &ev.Attestations[i]
		elements := limits.CountElements(a.Payload) + limits.CountElements(a.Annotations[logAnnotation])
		m.attestations = append(m.attestations, newClassic(a, attestation, sum.Takes(a.Payload, elements)))
	}
	return m
}

// in lists the pieces of the forms that a demand takes.
func (m *Material) in(f policy.Format, what thing) []piece {
	old := m.signatures
	if what == attestation {
		old = m.attestations
	}
	switch f {
	case policy.LegacyFormat:
		return old
	case policy.BundleFormat:
		return m.bundles
	case policy.AnyFormat:
		return slices.Concat(old, m.bundles)
	}
	return nil
}

// Signatures returns every image signature that meets the demand. If ctx ends, what is returned says nothing.
func (m *Material) Signatures(ctx context.Context, d Demand) ([]Signer, Tally) {
	found, t := m.judge(ctx, d, signature)
	var signers []Signer
	for i := range found {
		signers = append(signers, found[i].Signer)
	}
	return signers, t
}

// Attestations returns every attestation that meets the demand, of whatever predicate type. If ctx ends, what is
// returned says nothing.
func (m *Material) Attestations(ctx context.Context, d Demand) ([]Attestation, Tally) {
	return m.judge(ctx, d, attestation)
}

func (m *Material) judge(ctx context.Context, d Demand, what thing) ([]Attestation, Tally) {
	pieces := m.in(d.Format, what)
	t := Tally{Found: len(pieces), thing: what, keyless: len(d.Identities) > 0}
	j := newJudgement(d, m.digest, what)
	var accepted []Attestation
	for _, p := range pieces {
		if j == nil || ctx.Err() != nil {
			t.note(refused(NotJudged))
			continue
		}
		var a *Attestation
		r := refused(Unreadable)
		// A panic is no answer about the image, and it is the piece's own: the others are judged.
		_ = rescue.Do(nil, "judging a signature", func() error {
			a, r = p.judge(ctx, j)
			return nil
		})
		if a == nil && r == nil {
			r = refused(Unreadable)
		}
		t.note(r)
		if r == nil {
			accepted = append(accepted, *a)
		}
	}
	return accepted, t
}

// idOf is the hex of a digest, or nothing where it is none.
func idOf(d digest.Digest) string {
	_, id, _ := strings.Cut(string(d), ":")
	return id
}
