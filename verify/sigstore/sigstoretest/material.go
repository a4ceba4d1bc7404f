package sigstoretest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	rekorbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	cosigntypes "github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/pki"
	"github.com/sigstore/rekor/pkg/types"
	rekordsse "github.com/sigstore/rekor/pkg/types/dsse"
	"github.com/sigstore/rekor/pkg/types/hashedrekord"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/cosentry/cosentry/verify/evidence"
)

// Repository is where the images are that payloads of the classic form name.
const Repository = "registry.example/team/app"

// By says who signs, and what is put beside the signature. The zero value is a keyless signature without log and timestamp.
type By struct {
	// Key signs, with Hash or SHA-256. Without it a fresh key does, for which Certificate is asked.
	Key         crypto.Signer
	Hash        crypto.Hash
	Certificate Certificate
	// CertifiedKey has Key, where it is set, certified as well: a keyless signature whose key is known.
	CertifiedKey bool
	// Log enters the signature into the transparency log, at LogTime or a moment after the instance was made.
	Log     bool
	LogTime time.Time
	// LogBy is another instance, whose log it is entered into.
	LogBy *Sigstore
	// Timestamp has the time signed; TimestampBy is another instance that signs it.
	Timestamp   bool
	TimestampBy *Sigstore
}

// signer is one who is ready to sign.
type signer struct {
	signature.Signer
	by   string // PEM of the key or the certificate
	cert *x509.Certificate
}

func (s *Sigstore) signer(by By) signer {
	s.tb.Helper()
	key, hash := by.Key, by.Hash
	if key == nil {
		key = NewKey(s.tb, "P-256")
	}
	if hash == 0 {
		hash = crypto.SHA256
	}
	sig, err := signature.LoadSigner(key, hash)
	s.check(err)
	if by.Key != nil && !by.CertifiedKey {
		return signer{Signer: sig, by: PublicPEM(key.Public())}
	}
	cert := s.Certify(key.Public(), by.Certificate)
	return signer{Signer: sig, by: certificatesPEM(cert), cert: cert}
}

// SimplePayload is what cosign signs in the classic form.
func SimplePayload(d digest.Digest) []byte {
	ref, err := name.NewDigest(Repository + "@" + d.String())
	if err != nil {
		panic(err) // no digest
	}
	raw, err := payload.Cosign{Image: ref}.MarshalJSON()
	if err != nil {
		panic(err) // made of nothing but strings
	}
	return raw
}

// Statement is an in-toto statement about an image.
func Statement(d digest.Digest, predicateType string, predicate any) []byte {
	raw, err := json.Marshal(map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": predicateType, "predicate": predicate,
		"subject": []any{map[string]any{"name": Repository, "digest": map[string]string{d.Algorithm().String(): d.Encoded()}}},
	})
	if err != nil {
		panic(err) // a predicate that is no JSON
	}
	return raw
}

// Signature is an image signature of the classic form.
func (s *Sigstore) Signature(d digest.Digest, by By) evidence.Signature {
	s.tb.Helper()
	return s.SignatureOver(SimplePayload(d), by)
}

// SignatureOver is a signature of the classic form over any payload.
func (s *Sigstore) SignatureOver(raw []byte, by By) evidence.Signature {
	s.tb.Helper()
	who := s.signer(by)
	sig, err := who.SignMessage(bytes.NewReader(raw))
	s.check(err)
	sum := sha256.Sum256(raw)
	return s.classic(raw, sig, sig, hashedrekord.KIND, types.ArtifactProperties{ArtifactHash: hex.EncodeToString(sum[:])}, who, by)
}

// Attestation is an attestation of the classic form.
func (s *Sigstore) Attestation(d digest.Digest, predicateType string, predicate any, by By) evidence.Signature {
	s.tb.Helper()
	return s.AttestationOver(Statement(d, predicateType, predicate), by)
}

// AttestationOver is an attestation of the classic form over any statement.
func (s *Sigstore) AttestationOver(statement []byte, by By) evidence.Signature {
	s.tb.Helper()
	who := s.signer(by)
	envelope := s.envelope(who, statement)
	return s.classic(envelope, nil, envelope, rekordsse.KIND, types.ArtifactProperties{ArtifactBytes: envelope}, who, by)
}

// classic puts beside a payload what cosign puts there. A timestamp is of stamped.
func (s *Sigstore) classic(raw, sig, stamped []byte, kind string, props types.ArtifactProperties, who signer, by By) evidence.Signature {
	s.tb.Helper()
	b64 := base64.StdEncoding.EncodeToString(sig)
	all := map[string]string{static.SignatureAnnotationKey: b64}
	if who.cert != nil {
		all[static.CertificateAnnotationKey] = who.by
		parent, _ := s.by(by.Certificate)
		all[static.ChainAnnotationKey] = certificatesPEM(parent, s.root)
	}
	if by.Log {
		props.SignatureBytes = sig
		all[static.BundleAnnotationKey] = s.json(rekorbundle.EntryToBundle(s.enter(kind, props, who, by)))
	}
	if by.Timestamp {
		all[static.RFC3161TimestampAnnotationKey] = s.json(rekorbundle.TimestampToRFC3161Timestamp(s.stamp(stamped, by)))
	}
	return evidence.Signature{Payload: raw, Base64Signature: b64, Annotations: all, Source: digest.FromBytes(raw)}
}

func (s *Sigstore) json(v any) string {
	s.tb.Helper()
	raw, err := json.Marshal(v)
	s.check(err)
	return string(raw)
}

func (s *Sigstore) envelope(who signer, statement []byte) []byte {
	s.tb.Helper()
	envelope, err := dsse.WrapSigner(who, cosigntypes.IntotoPayloadType).SignMessage(bytes.NewReader(statement))
	s.check(err)
	return envelope
}

// Bundle is an image signature in a bundle.
func (s *Sigstore) Bundle(d digest.Digest, by By) evidence.Bundle {
	s.tb.Helper()
	return s.BundleOver(Statement(d, cosigntypes.CosignSignPredicateType, nil), by)
}

// AttestationBundle is an attestation in a bundle.
func (s *Sigstore) AttestationBundle(d digest.Digest, predicateType string, predicate any, by By) evidence.Bundle {
	s.tb.Helper()
	return s.BundleOver(Statement(d, predicateType, predicate), by)
}

// BundleOver is a bundle of any statement, made by cosign's own code.
func (s *Sigstore) BundleOver(statement []byte, by By) evidence.Bundle {
	s.tb.Helper()
	who := s.signer(by)
	envelope := s.envelope(who, statement)
	var entry *models.LogEntryAnon
	if by.Log {
		entry = s.enter(rekordsse.KIND, types.ArtifactProperties{ArtifactBytes: envelope}, who, by)
	}
	var stamp []byte
	if by.Timestamp {
		stamp = s.stamp(envelopeSignature(s, envelope), by)
	}
	key, err := who.PublicKey()
	s.check(err)
	raw, err := rekorbundle.MakeNewBundle(key, entry, statement, envelope, []byte(who.by), stamp)
	s.check(err)
	return evidence.Bundle{Raw: raw, Source: digest.FromBytes(raw)}
}

func envelopeSignature(s *Sigstore, envelope []byte) []byte {
	s.tb.Helper()
	var e struct{ Signatures []struct{ Sig []byte } }
	s.check(json.Unmarshal(envelope, &e))
	return e.Signatures[0].Sig
}

func (s *Sigstore) stamp(sig []byte, by By) []byte {
	s.tb.Helper()
	authority := s
	if by.TimestampBy != nil {
		authority = by.TimestampBy
	}
	stamp, err := authority.services.TimestampResponse(sig)
	s.check(err)
	return stamp
}

// enter makes an entry of the transparency log, with the log's promise and with proof that it is in the tree.
func (s *Sigstore) enter(kind string, props types.ArtifactProperties, who signer, by By) *models.LogEntryAnon {
	s.tb.Helper()
	log := s
	if by.LogBy != nil {
		log = by.LogBy
	}
	at := by.LogTime
	if at.IsZero() {
		at = s.made.Add(time.Second)
	}
	props.PKIFormat, props.PublicKeyBytes = string(pki.X509), [][]byte{[]byte(who.by)}
	return log.entry(log.body(kind, props), at.Unix())
}

func (s *Sigstore) body(kind string, props types.ArtifactProperties) []byte {
	s.tb.Helper()
	ctx := context.Background()
	proposed, err := types.NewProposedEntry(ctx, kind, "0.0.1", props)
	s.check(err)
	entry, err := types.CreateVersionedEntry(proposed)
	s.check(err)
	body, err := types.CanonicalizeEntry(ctx, entry)
	s.check(err)
	return body
}

func (s *Sigstore) entry(body []byte, at int64) *models.LogEntryAnon {
	s.tb.Helper()
	id, err := s.services.RekorLogID()
	s.check(err)
	index := int64(0)
	b64 := base64.StdEncoding.EncodeToString(body)
	set, err := s.services.RekorSignPayload(tlog.RekorPayload{Body: b64, IntegratedTime: at, LogIndex: index, LogID: id})
	s.check(err)
	proof, err := s.services.GetInclusionProof(body)
	s.check(err)
	return &models.LogEntryAnon{
		Body: b64, IntegratedTime: &at, LogIndex: &index, LogID: &id,
		Verification: &models.LogEntryAnonVerification{InclusionProof: proof, SignedEntryTimestamp: set},
	}
}
