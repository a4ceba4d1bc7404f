package sigstore

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	rekorbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	sigs "github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
)

// The annotations in which cosign keeps what stands beside a signature of the classic form.
const (
	certificateAnnotation = static.CertificateAnnotationKey
	chainAnnotation       = static.ChainAnnotationKey
	logAnnotation         = static.BundleAnnotationKey
	timestampAnnotation   = static.RFC3161TimestampAnnotationKey
)

// classic is a payload with its signature beside it: for an image signature a simple-signing document, for an
// attestation a DSSE envelope that holds its signatures itself.
type classic struct {
	ev   *evidence.Signature
	what thing
	fits bool

	parse    sync.Once
	many     bool // an attestation that is not signed exactly once
	cert     *certificate
	badCert  bool
	entry    *rekorbundle.RekorBundle
	badEntry bool
	stamp    []byte
	badStamp bool
}

func newClassic(s *evidence.Signature, what thing, fits bool) *classic {
	return &classic{ev: s, what: what, fits: fits}
}

// read parses the annotations. None of them is believed, and what is wrong with one matters only where it is demanded.
func (c *classic) read() {
	c.parse.Do(func() {
		var err error
		if c.what == attestation && !c.ev.SignedOnce() {
			c.many = true
			return
		}
		if leaf := c.ev.Annotations[certificateAnnotation]; leaf != "" {
			c.cert, err = readPEM(leaf, c.ev.Annotations[chainAnnotation])
			c.badCert = err != nil
		}
		if entry := c.ev.Annotations[logAnnotation]; entry != "" {
			c.entry, err = readEntry(entry)
			c.badEntry = err != nil
		}
		if stamp := c.ev.Annotations[timestampAnnotation]; stamp != "" {
			c.stamp, err = readStamp(stamp)
			c.badStamp = err != nil
		}
	})
}

// readEntry reads a log entry as cosign keeps it. Its body is base64 of JSON; cosign takes for granted that it is a string.
func readEntry(raw string) (*rekorbundle.RekorBundle, error) {
	if err := limits.LogEntry.Check(int64(len(raw)) / 2); err != nil {
		return nil, err
	}
	var b rekorbundle.RekorBundle
	if err := json.Unmarshal([]byte(raw), &b); err != nil {
		return nil, fmt.Errorf("reading a log entry: %w", err)
	}
	b64, ok := b.Payload.Body.(string)
	if !ok {
		return nil, errors.New("a log entry without a body")
	}
	body, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		return nil, fmt.Errorf("reading a log entry's body: %w", err)
	}
	if !knownEntry(body) {
		return nil, errors.New("a log entry of no known kind")
	}
	return &b, nil
}

func readStamp(raw string) ([]byte, error) {
	if err := limits.Timestamp.Check(int64(len(raw)) / 2); err != nil {
		return nil, err
	}
	var t rekorbundle.RFC3161Timestamp
	if err := json.Unmarshal([]byte(raw), &t); err != nil {
		return nil, fmt.Errorf("reading a timestamp: %w", err)
	}
	return t.SignedRFC3161Timestamp, limits.Timestamp.Check(int64(len(t.SignedRFC3161Timestamp)))
}

func (c *classic) judge(ctx context.Context, j *judgement) (*Attestation, *refusal) {
	if !c.fits {
		return nil, refused(Unreadable)
	}
	if c.read(); c.many {
		return nil, refused(Unreadable)
	}
	if len(j.Identities) == 0 {
		return j.byAnyKey(ctx, func(k namedKey) (*Attestation, *refusal) { return c.byKey(ctx, j, k) })
	}
	return c.byCertificate(ctx, j)
}

func (c *classic) byKey(ctx context.Context, j *judgement, k namedKey) (*Attestation, *refusal) {
	a, r := c.signedBy(ctx, j, k.verifier, NotByKey)
	if r != nil {
		return nil, r
	}
	a.KeyFingerprint = k.fingerprint
	if r := c.prove(j, a, k.verifier, c.certificateOf(k.verifier)); r != nil {
		return nil, r
	}
	return a, nil
}

// certificateOf is the certificate beside a signature by a key, if it is for that key: cosign then enters it
// into the log in place of the key. It is good for nothing else.
func (c *classic) certificateOf(v sigs.Verifier) *x509.Certificate {
	if c.cert == nil {
		return nil
	}
	key, err := v.PublicKey()
	if err != nil {
		return nil
	}
	if same, ok := c.cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !same.Equal(key) {
		return nil
	}
	return c.cert.Certificate
}

func (c *classic) byCertificate(ctx context.Context, j *judgement) (*Attestation, *refusal) {
	switch {
	case c.badCert:
		return nil, refused(Unreadable)
	case c.cert == nil:
		return nil, refused(NoCertificate)
	}
	if !j.vouched(c.cert, c.times) {
		return nil, refused(UntrustedCertificate)
	}
	if r := c.cert.is(j.Identities); r != nil {
		return nil, r
	}
	// As cosign does for a certificate: SHA-256, whatever the kind of key.
	v, err := sigs.LoadVerifier(c.cert.PublicKey, crypto.SHA256)
	if err != nil {
		return nil, refused(Unreadable)
	}
	a, r := c.signedBy(ctx, j, v, BadSignature)
	if r == nil {
		who := c.cert.signedBy()
		who.ID, who.Form = a.ID, a.Form
		a.Signer = who
		r = c.prove(j, a, v, c.cert.Certificate)
	}
	if r == nil {
		r = c.certified(j, a)
	}
	if r != nil {
		return nil, r
	}
	return a, nil
}

// times are those at which the certificate will have to be valid, as far as they are told: nothing is proved yet.
func (c *classic) times(j *judgement) []time.Time {
	var all []time.Time
	if j.Logs != nil && c.entry != nil {
		all = append(all, time.Unix(c.entry.Payload.IntegratedTime, 0))
	}
	if j.Timestamps != nil {
		if at, r := c.stamped(j); r == nil {
			all = append(all, at)
		}
	}
	return all
}

// certified asks whether the certificate was valid whenever the signature is proved to have been made, for every one
// of those times, and whether a certificate transparency log holds it.
func (c *classic) certified(j *judgement, a *Attestation) *refusal {
	var times []time.Time
	if a.LogTime != nil {
		times = append(times, *a.LogTime)
	}
	if a.Timestamp != nil {
		times = append(times, *a.Timestamp)
	}
	if j.byNow() {
		times = append(times, j.Now)
	}
	if len(times) == 0 {
		return refused(NoLogTime)
	}
	var chains [][]*x509.Certificate
	for _, t := range times {
		if cosign.CheckExpiry(c.cert.Certificate, t) != nil {
			return refused(NotValidThen)
		}
		var ok bool
		if chains, ok = j.trustedAt(c.cert, t); !ok {
			return refused(NotValidThen)
		}
	}
	return j.sct(c.cert, chains)
}

type ociSignature = oci.Signature

// layer is the signature as cosign takes it, with what was parsed of it.
type layer struct {
	ociSignature
	cert  *x509.Certificate
	entry *rekorbundle.RekorBundle
}

func (l layer) Cert() (*x509.Certificate, error)          { return l.cert, nil }
func (l layer) Chain() ([]*x509.Certificate, error)       { return nil, nil }
func (l layer) Bundle() (*rekorbundle.RekorBundle, error) { return l.entry, nil }

func (c *classic) layer() (layer, error) {
	sig := c.ev.Base64Signature
	if c.what == attestation {
		// cosign takes anything that stands here for a signature over the payload, by which log entry and timestamp are bound.
		sig = ""
	}
	bare, err := static.NewSignature(c.ev.Payload, sig)
	if err != nil {
		return layer{}, fmt.Errorf("taking in a signature: %w", err)
	}
	return layer{ociSignature: bare}, nil
}

// signedBy asks cosign whether the payload is signed by the key, and then whether it claims what is asked for. Log entry,
// certificate and timestamp are left out here.
func (c *classic) signedBy(ctx context.Context, j *judgement, v sigs.Verifier, notBy Reason) (*Attestation, *refusal) {
	l, err := c.layer()
	if err != nil {
		return nil, refused(Unreadable)
	}
	// cosign asks about claims only once the signature is good.
	signed, why := false, refused(OtherImage)
	accepted := &Attestation{Signer: Signer{ID: idOf(c.ev.Source), Form: Classic}}
	opts := &cosign.CheckOpts{
		SigVerifier: v, Offline: true, IgnoreTlog: true, IgnoreSCT: true,
		ClaimVerifier: func(sig oci.Signature, h v1.Hash, a map[string]any) error {
			signed = true
			if c.what == attestation {
				why = c.claimsToAttest(h, accepted)
			} else {
				why = claimsToSign(sig, h, a)
			}
			if why != nil {
				return errors.New("another claim")
			}
			return nil
		},
	}
	verify := cosign.VerifyImageSignature
	if c.what == attestation {
		// VerifyImageAttestation is the same for many, on goroutines of its own: a panic there could not be recovered.
		verify = cosign.VerifyBlobAttestation
	}
	_, err = verify(ctx, l, j.image, opts)
	switch {
	case err == nil && signed && why == nil:
		return accepted, nil
	case signed && why != nil:
		return nil, why
	}
	return nil, refused(notBy)
}

// claimsToSign asks for the digest and, as the specification demands and cosign does not, for the type by which a payload
// says what it is: whatever else a key signs that names a digest is no signature.
func claimsToSign(sig oci.Signature, h v1.Hash, a map[string]any) *refusal {
	if cosign.SimpleClaimVerifier(sig, h, a) != nil {
		return refused(OtherImage)
	}
	raw, err := sig.Payload()
	if err != nil {
		return refused(Unreadable)
	}
	var p payload.SimpleContainerImage
	if err := json.Unmarshal(raw, &p); err != nil || p.Critical.Type != payload.CosignSignatureType {
		return refused(OtherUse)
	}
	return nil
}

// claimsToAttest does what cosign's IntotoSubjectClaimVerifier does, without making a tree of a predicate that may have
// megabytes.
func (c *classic) claimsToAttest(h v1.Hash, a *Attestation) *refusal {
	var envelope dsse.Envelope
	if err := json.Unmarshal(c.ev.Payload, &envelope); err != nil {
		return refused(Unreadable)
	}
	s, err := readStatement(&envelope)
	if exceeded := new(limits.Exceeded); errors.As(err, &exceeded) {
		return refused(Unreadable)
	}
	if err != nil || !s.isAbout(h) {
		return refused(OtherImage)
	}
	if isSignature(s.PredicateType) {
		return refused(OtherUse)
	}
	// Written anew: a stranger's fields in the envelope, in capitals or twice, are gone.
	if a.Envelope, err = json.Marshal(envelope); err != nil {
		return refused(Unreadable)
	}
	a.PredicateType = s.PredicateType
	return nil
}

// prove asks for the proofs that are demanded, and notes them. cert is what the log entry may name in place of the key.
func (c *classic) prove(j *judgement, a *Attestation, v sigs.Verifier, cert *x509.Certificate) *refusal {
	if j.Logs != nil {
		l, r := c.logged(j, v, cert)
		if r != nil {
			return r
		}
		a.proved(l)
	}
	if j.Timestamps != nil {
		t, r := c.stamped(j)
		if r != nil {
			return r
		}
		a.Timestamp = &t
	}
	return nil
}

// logged asks cosign whether the log entry is of this payload, signature and key, and promised by a trusted log.
func (c *classic) logged(j *judgement, v sigs.Verifier, cert *x509.Certificate) (*logged, *refusal) {
	switch {
	case c.badEntry:
		return nil, refused(BadLogEntry)
	case c.entry == nil:
		return nil, refused(NoLogEntry)
	}
	if _, ok := j.trusted.logs[c.entry.Payload.LogID]; !ok {
		return nil, refused(OtherLog)
	}
	l, err := c.layer()
	if err != nil {
		return nil, refused(Unreadable)
	}
	l.cert, l.entry = cert, c.entry
	proved, err := cosign.VerifyBundle(l, &cosign.CheckOpts{TrustedMaterial: &j.trusted, SigVerifier: v, Offline: true})
	if err != nil || !proved {
		return nil, refused(BadLogEntry)
	}
	at := time.Unix(c.entry.Payload.IntegratedTime, 0).UTC()
	return &logged{index: c.entry.Payload.LogIndex, time: &at}, nil
}

// stamped asks for a timestamp of the signature; of an attestation's envelope, as cosign makes them in this form.
func (c *classic) stamped(j *judgement) (time.Time, *refusal) {
	switch {
	case c.badStamp:
		return time.Time{}, refused(BadTimestamp)
	case len(c.stamp) == 0:
		return time.Time{}, refused(NoTimestamp)
	}
	over := c.ev.Payload
	if c.what == signature {
		var err error
		if over, err = base64.StdEncoding.DecodeString(c.ev.Base64Signature); err != nil {
			return time.Time{}, refused(BadTimestamp)
		}
	}
	e := &entity{signature: bareSignature(over), stamps: [][]byte{c.stamp}}
	return e.stamped(&j.trusted)
}
