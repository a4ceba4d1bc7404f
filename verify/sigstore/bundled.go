package sigstore

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/sigstore/cosign/v2/pkg/types"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
)

// bundled is a sigstore bundle: a DSSE envelope around an in-toto statement.
type bundled struct {
	ev   *evidence.Bundle
	fits bool

	parse   sync.Once
	plain   *entity // without proofs; nil if it is none
	cert    *certificate
	sealed  func() []byte // the envelope, as it is given to others
	raw     *protobundle.VerificationMaterial
	early   bool // version 0.1, which has promises in place of proofs
	proofs  sync.Once
	entries []*tlog.Entry
}

func newBundled(b *evidence.Bundle, fits bool) *bundled { return &bundled{ev: b, fits: fits} }

// entity returns the bundle if it holds an envelope. A bare message signature is never
// one of an image: it has no statement to say what it is about.
//
// Log entries and timestamps are put aside first, to be parsed when they are asked for beside a signature that is good:
// whoever parses a log entry verifies a signature by the key that is in it, of whatever length.
func (b *bundled) entity() *entity {
	b.parse.Do(func() {
		if b.fits {
			b.plain = b.read()
		}
	})
	return b.plain
}

func (b *bundled) read() *entity {
	var whole protobundle.Bundle
	if err := protojson.Unmarshal(b.ev.Raw, &whole); err != nil {
		return nil
	}
	// As an attestation of the classic form: see there.
	if e := whole.GetDsseEnvelope(); len(e.GetSignatures()) != 1 || evidence.CheckStatement(e.GetPayload()) != nil {
		return nil
	}
	b.raw = whole.GetVerificationMaterial()
	bare, err := bundle.NewBundle(&protobundle.Bundle{
		MediaType:            whole.GetMediaType(),
		VerificationMaterial: &protobundle.VerificationMaterial{Content: b.raw.GetContent()},
		Content:              whole.GetContent(),
	})
	if err != nil || bare.GetDsseEnvelope() == nil {
		return nil
	}
	e, err := asEntity(bare)
	if err != nil {
		return nil
	}
	if c := e.content.Certificate(); c != nil {
		if b.cert, err = readCertificate(c); err != nil {
			return nil
		}
	}
	b.early = !bare.MinVersion("v0.2")
	// Only of an attestation that is accepted: what strangers put beside it is not kept once more.
	b.sealed = sync.OnceValue(func() []byte {
		raw, err := json.Marshal(e.signature.EnvelopeContent().RawEnvelope())
		if err != nil {
			return nil
		}
		return raw
	})
	return e
}

func asEntity(b *bundle.Bundle) (*entity, error) {
	version, err := b.Version()
	if err != nil {
		return nil, err
	}
	content, err := b.VerificationContent()
	if err != nil {
		return nil, err
	}
	sig, err := b.SignatureContent()
	if err != nil {
		return nil, err
	}
	if sig.EnvelopeContent() == nil {
		return nil, errors.New("no envelope")
	}
	return &entity{version: version, content: content, signature: sig}, nil
}

// with is the entity with the proofs that are demanded. It gives an error if they are not in their format.
func (b *bundled) with(j *judgement) (*entity, *refusal) {
	e := *b.plain
	if j.Logs != nil && len(b.raw.GetTlogEntries()) > 0 {
		b.proofs.Do(func() { b.entries = b.readEntries() })
		if e.entries = b.entries; e.entries == nil {
			return nil, refused(BadLogEntry)
		}
	}
	if j.Timestamps != nil {
		var bad *refusal
		if e.stamps, bad = b.stamps(); bad != nil {
			return nil, bad
		}
	}
	return &e, nil
}

// stamps are the signed timestamps, if they are not too many and none is too large.
func (b *bundled) stamps() (all [][]byte, bad *refusal) {
	stamps := b.raw.GetTimestampVerificationData().GetRfc3161Timestamps()
	if limits.Proofs.Check(int64(len(stamps))) != nil {
		return nil, refused(BadTimestamp)
	}
	for _, s := range stamps {
		if limits.Timestamp.Check(int64(len(s.GetSignedTimestamp()))) != nil {
			return nil, refused(BadTimestamp)
		}
		all = append(all, s.GetSignedTimestamp())
	}
	return all, nil
}

// readEntries returns nil if one of the entries is none, or too large, or if they are not what the bundle's version
// demands.
func (b *bundled) readEntries() []*tlog.Entry {
	if limits.Proofs.Check(int64(len(b.raw.GetTlogEntries()))) != nil {
		return nil
	}
	var all []*tlog.Entry
	promised, proved := false, false
	for _, raw := range b.raw.GetTlogEntries() {
		if !knownEntry(raw.GetCanonicalizedBody()) {
			return nil
		}
		entry, err := tlog.ParseTransparencyLogEntry(raw)
		if err != nil {
			return nil
		}
		promised = promised || entry.HasInclusionPromise()
		proved = proved || entry.HasInclusionProof()
		all = append(all, entry)
	}
	if b.early && !promised || !b.early && !proved {
		return nil
	}
	return all
}

func (b *bundled) judge(ctx context.Context, j *judgement) (*Attestation, *refusal) {
	if b.entity() == nil {
		return nil, refused(Unreadable)
	}
	if len(j.Identities) == 0 {
		return j.byAnyKey(ctx, func(k namedKey) (*Attestation, *refusal) { return b.byKey(j, k) })
	}
	return b.byCertificate(j)
}

func (b *bundled) byKey(j *judgement, k namedKey) (*Attestation, *refusal) {
	t := j.trusted.withKey(k.verifier)
	if b.cert != nil {
		return nil, refused(NotByKey)
	}
	// Log entries are not even parsed beside a signature by somebody else.
	if j.Logs != nil && !b.signed(t) {
		return nil, refused(NotByKey)
	}
	a, why := b.accept(j, t, Signer{KeyFingerprint: k.fingerprint}, sgverify.WithKey())
	if why != nil {
		return nil, why()
	}
	return a, nil
}

func (b *bundled) byCertificate(j *judgement) (*Attestation, *refusal) {
	if b.cert == nil {
		return nil, refused(NoCertificate)
	}
	if !j.vouched(b.cert, b.times) {
		return nil, refused(UntrustedCertificate)
	}
	if r := b.cert.is(j.Identities); r != nil {
		return nil, r
	}
	// The identity is matched above, as it is for the classic form; sigstore-go's own matching knows one alternative name.
	a, why := b.accept(j, j.forBundles(), b.cert.signedBy(), sgverify.WithoutIdentitiesUnsafe())
	if why != nil {
		return nil, why()
	}
	return a, nil
}

// times are those at which the certificate will have to be valid, as far as they are told: nothing is proved yet.
func (b *bundled) times(j *judgement) []time.Time {
	var all []time.Time
	if entries := b.raw.GetTlogEntries(); j.Logs != nil && limits.Proofs.Check(int64(len(entries))) == nil {
		for _, entry := range entries {
			all = append(all, time.Unix(entry.GetIntegratedTime(), 0))
		}
	}
	if j.Timestamps != nil {
		e := *b.plain
		var bad *refusal
		if e.stamps, bad = b.stamps(); bad == nil {
			if at, r := e.stamped(&j.trusted); r == nil {
				all = append(all, at)
			}
		}
	}
	return all
}

// accept lets sigstore-go's verifier decide. The function that is returned with a refusal words it.
func (b *bundled) accept(j *judgement, t *trusted, who Signer, by sgverify.PolicyOption) (*Attestation, func() *refusal) {
	e, bad := b.with(j)
	if bad != nil {
		return nil, func() *refusal {
			if r := b.ownRefusal(j, t); r != nil {
				return r
			}
			return bad
		}
	}
	v, err := sgverify.NewVerifier(t, j.options...)
	if err != nil {
		return nil, func() *refusal { return refused(NotJudged) }
	}
	res, err := v.Verify(e, sgverify.NewPolicy(sgverify.WithArtifactDigest("sha256", j.sum), by))
	if err != nil || res.Statement == nil {
		return nil, func() *refusal { return b.refusal(j, e, t) }
	}
	predicate := res.Statement.GetPredicateType()
	if isSignature(predicate) != (j.what == signature) {
		return nil, func() *refusal { return refused(OtherUse) }
	}
	who.ID, who.Form = idOf(b.ev.Source), Bundle
	if j.Logs != nil {
		who.proved(e.provedEntry(t))
	}
	for _, ts := range res.VerifiedTimestamps {
		if j.Timestamps != nil && who.Timestamp == nil && ts.Type == "TimestampAuthority" {
			at := ts.Timestamp.UTC()
			who.Timestamp = &at
		}
	}
	a := &Attestation{Signer: who, PredicateType: predicate}
	if j.what == attestation {
		if a.Envelope = b.sealed(); a.Envelope == nil {
			return nil, func() *refusal { return refused(Unreadable) }
		}
	}
	return a, nil
}

// signed reports whether the envelope is signed by the key that is trusted, or by the bundle's certificate.
func (b *bundled) signed(t *trusted) bool {
	return sgverify.VerifySignature(b.plain.signature, b.plain.content, t) == nil
}

// ownRefusal says what is the matter with a bundle without its proofs, or nil.
func (b *bundled) ownRefusal(j *judgement, t *trusted) *refusal {
	if !b.signed(t) {
		if b.cert != nil {
			return refused(BadSignature)
		}
		return refused(NotByKey)
	}
	about := []sgverify.ArtifactDigest{{Algorithm: "sha256", Digest: j.sum}}
	if sgverify.VerifySignatureWithArtifactDigests(b.plain.signature, b.plain.content, t, about) != nil {
		return refused(OtherImage)
	}
	if s, err := readStatement(b.plain.signature.EnvelopeContent().RawEnvelope()); err != nil || isSignature(s.PredicateType) != (j.what == signature) {
		return refused(OtherUse)
	}
	return nil
}

// refusal says why sigstore-go's verifier may have refused: the first of its demands that is not met.
func (b *bundled) refusal(j *judgement, e *entity, t *trusted) *refusal {
	if r := b.ownRefusal(j, t); r != nil {
		return r
	}
	if b.cert != nil {
		if chains, ok := j.trustedAt(b.cert, b.cert.NotBefore); ok {
			if r := j.sct(b.cert, chains); r != nil {
				return r
			}
		}
	}
	var times []time.Time
	if j.Logs != nil {
		if r := e.logRefusal(t, b.cert != nil && j.Timestamps == nil); r != nil {
			return r
		}
		if l := e.provedEntry(t); l != nil && l.time != nil {
			times = append(times, *l.time)
		}
	}
	if j.Timestamps != nil {
		at, r := e.stamped(t)
		if r != nil {
			return r
		}
		times = append(times, at)
	}
	if j.byNow() {
		times = append(times, j.Now)
	}
	for _, at := range times {
		if b.cert != nil && !j.validThen(b.cert, at) {
			return refused(NotValidThen)
		}
	}
	return refused(NotAccepted)
}

// isSignature: only a statement that says so is an image signature, and that one is no attestation.
func isSignature(predicateType string) bool { return predicateType == types.CosignSignPredicateType }
