package evidence

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	cosignbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/tle"
	"github.com/sigstore/rekor/pkg/types"
	rekordsse "github.com/sigstore/rekor/pkg/types/dsse"
	dsse001 "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	"github.com/sigstore/rekor/pkg/types/hashedrekord"
	hashedrekord001 "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	"github.com/sigstore/rekor/pkg/types/intoto"
	intoto001 "github.com/sigstore/rekor/pkg/types/intoto/v0.0.1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cosentry/cosentry/verify/limits"
)

// The annotations of cosign's classic form that matter here.
const (
	logAnnotation         = "dev.sigstore.cosign/bundle"
	certificateAnnotation = "dev.sigstore.cosign/certificate"
)

// leafHash names an entry in a log: RFC 6962's hash of the entry's canonical body.
type leafHash [sha256.Size]byte

func (h leafHash) String() string { return hex.EncodeToString(h[:]) }

func hashLeaf(body []byte) leafHash { return sha256.Sum256(slices.Concat([]byte{0}, body)) }

// leafHashOf computes the name from what came, whatever name it came under.
func leafHashOf(entry models.LogEntryAnon) (leafHash, bool) {
	text, ok := entry.Body.(string)
	if !ok {
		return leafHash{}, false
	}
	body, err := base64.StdEncoding.DecodeString(text)
	return hashLeaf(body), err == nil
}

// isWhole says whether all is there that a proof is made of, and nothing that would make its readers panic is missing.
func isWhole(e models.LogEntryAnon) bool {
	if e.LogID == nil || e.LogIndex == nil || e.IntegratedTime == nil || e.Verification == nil {
		return false
	}
	if id, err := hex.DecodeString(*e.LogID); err != nil || len(id) != sha256.Size {
		return false
	}
	p := e.Verification.InclusionProof
	return len(e.Verification.SignedEntryTimestamp) > 0 && p != nil &&
		p.LogIndex != nil && p.RootHash != nil && p.TreeSize != nil && p.Checkpoint != nil
}

// piece is one signature, attestation or bundle without proof.
type piece struct {
	// entries are the names of what a log may have about it: the likeliest first.
	entries []leafHash
	// attach puts an entry beside it.
	attach func(models.LogEntryAnon) error
}

// put attaches what was found: of the first name that has an entry, the oldest, as cosign takes it. What a log gives
// that cannot be attached is no proof.
func (p piece) put(found map[leafHash][]models.LogEntryAnon) {
	for _, name := range p.entries {
		all := slices.SortedStableFunc(slices.Values(found[name]), func(a, b models.LogEntryAnon) int {
			return cmp.Compare(*a.IntegratedTime, *b.IntegratedTime)
		})
		for _, entry := range all {
			if p.attach(entry) == nil {
				return
			}
		}
	}
}

// unproved lists what of e has no proof and could have one: made by its own certificate or by one of the keys. e's
// lists must be the caller's own.
func unproved(ctx context.Context, publicKeys [][]byte, e *Evidence) ([]piece, error) {
	keys := usable(publicKeys)
	var all []piece
	add := func(entries []leafHash, attach func(models.LogEntryAnon) error) {
		if len(entries) > 0 {
			all = append(all, piece{entries, attach})
		}
	}
	// One payload may be that of many, and each is hashed and parsed anew.
	sum := limits.Sum{Bytes: e.Bound()}
	for i := range e.Signatures {
		if s := &e.Signatures[i]; s.Annotations[logAnnotation] == "" && ctx.Err() == nil && sum.Takes(s.Payload, 0) {
			add(hashedEntries(ctx, s, s.keys(keys)), s.prove)
		}
	}
	for i := range e.Attestations {
		if s := &e.Attestations[i]; s.Annotations[logAnnotation] == "" && ctx.Err() == nil && sum.Takes(s.Payload, 0) {
			add(attestationEntries(ctx, s, keys), s.prove)
		}
	}
	for i := range e.Bundles {
		b := &e.Bundles[i]
		// All that are parsed stay in memory until the log has answered.
		if ctx.Err() != nil || !sum.Takes(b.Raw, limits.CountElements(b.Raw)) {
			continue
		}
		if parsed := parseUnproved(b.Raw); parsed != nil {
			add(bundleEntries(ctx, parsed, keys), func(entry models.LogEntryAnon) error { return b.prove(parsed, entry) })
		}
	}
	if ctx.Err() != nil {
		return nil, transportError(ctx.Err(), "looking for what has no proof")
	}
	return all, nil
}

// usable are the keys and certificates, in PEM, that Rekor's code is let to see: a stranger's key may be made to take
// minutes.
func usable(pems [][]byte) [][]byte {
	var out [][]byte
	for _, p := range pems {
		if certificates, err := cryptoutils.UnmarshalCertificatesFromPEM(p); err == nil && len(certificates) == 1 {
			if reasonable(certificates[0].PublicKey) {
				out = append(out, p)
			}
			continue
		}
		if key, err := cryptoutils.UnmarshalPEMToPublicKey(p); err == nil && reasonable(key) {
			out = append(out, p)
		}
	}
	return out
}

// reasonable says whether a signature by the key can be checked in no time.
func reasonable(key any) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return limits.CertificateKey.Check(int64(k.N.BitLen())) == nil
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return true
	}
	return false
}

// keys are those by which s may be: that of its own certificate, and others.
func (s *Signature) keys(others [][]byte) [][]byte {
	return slices.Concat(usable([][]byte{[]byte(s.Annotations[certificateAnnotation])}), others)
}

// hashedEntries are those that cosign makes of a signature over a payload.
func hashedEntries(ctx context.Context, s *Signature, keys [][]byte) (entries []leafHash) {
	signature, err := base64.StdEncoding.DecodeString(s.Base64Signature)
	if err != nil || len(signature) == 0 {
		return nil
	}
	hash256, hash384, hash512 := sha256.Sum256(s.Payload), sha512.Sum384(s.Payload), sha512.Sum512(s.Payload)
	for _, key := range keys {
		for _, hash := range []string{
			"sha256:" + hex.EncodeToString(hash256[:]),
			"sha384:" + hex.EncodeToString(hash384[:]),
			"sha512:" + hex.EncodeToString(hash512[:]),
		} {
			entries = appendEntry(ctx, entries, hashedrekord.KIND, hashedrekord001.APIVERSION, types.ArtifactProperties{
				SignatureBytes: signature, ArtifactHash: hash, PublicKeyBytes: [][]byte{key}, PKIFormat: "x509",
			})
		}
	}
	return entries
}

// attestationEntries are those of the envelope that an attestation is.
func attestationEntries(ctx context.Context, s *Signature, keys [][]byte) []leafHash {
	if !s.SignedOnce() {
		return nil
	}
	var envelope dsse.Envelope
	if json.Unmarshal(s.Payload, &envelope) != nil {
		return nil
	}
	if statement, err := envelope.DecodeB64Payload(); err != nil || checkForLog(statement) != nil {
		return nil
	}
	return envelopeEntries(ctx, [][]byte{s.Payload}, s.keys(keys))
}

// envelopeEntries are those that clients make of an envelope, of which each of envelopes is one spelling.
func envelopeEntries(ctx context.Context, envelopes, keys [][]byte) (entries []leafHash) {
	for _, key := range keys {
		for _, envelope := range envelopes {
			p := types.ArtifactProperties{ArtifactBytes: envelope, PublicKeyBytes: [][]byte{key}}
			entries = appendEntry(ctx, entries, rekordsse.KIND, dsse001.APIVERSION, p)
			entries = appendEntry(ctx, entries, intoto.KIND, intoto001.APIVERSION, p)
		}
	}
	return entries
}

// appendEntry adds the name of an entry. Rekor's code makes none unless the signature is by the key, so that a log is
// not asked about the others.
func appendEntry(ctx context.Context, entries []leafHash, kind, version string, p types.ArtifactProperties) []leafHash {
	if ctx.Err() != nil {
		return entries
	}
	proposed, err := types.NewProposedEntry(ctx, kind, version, p)
	if err != nil {
		return entries
	}
	entry, err := types.UnmarshalEntry(proposed)
	if err != nil {
		return entries
	}
	body, err := types.CanonicalizeEntry(ctx, entry)
	if err != nil {
		return entries
	}
	if name := hashLeaf(body); !slices.Contains(entries, name) {
		entries = append(entries, name)
	}
	return entries
}

// prove puts an entry beside a signature of the classic form. The annotations are copied: they are the evidence's that
// was given.
func (s *Signature) prove(entry models.LogEntryAnon) error {
	text, err := json.Marshal(cosignbundle.EntryToBundle(&entry))
	if err != nil {
		return fmt.Errorf("writing down a log entry: %w", err)
	}
	annotations := map[string]string{}
	for name, value := range s.Annotations {
		annotations[name] = value
	}
	annotations[logAnnotation] = string(text)
	s.Annotations = annotations
	return nil
}

// parseUnproved gives a bundle with an envelope, signed once, and no log entry; or nil.
func parseUnproved(raw []byte) *protobundle.Bundle {
	var b protobundle.Bundle
	if err := protojson.Unmarshal(raw, &b); err != nil {
		return nil
	}
	if len(b.GetDsseEnvelope().GetSignatures()) != 1 || checkForLog(b.GetDsseEnvelope().GetPayload()) != nil {
		return nil
	}
	if b.GetVerificationMaterial() == nil || len(b.GetVerificationMaterial().GetTlogEntries()) > 0 {
		return nil
	}
	return &b
}

// bundleEntries are those that clients make of the envelope in a bundle. The hash of an entry is over the envelope as
// it was sent to the log, which the bundle does not keep: one spelling is cosign's, the other sigstore-go's.
func bundleEntries(ctx context.Context, b *protobundle.Bundle, keys [][]byte) []leafHash {
	inside := b.GetDsseEnvelope()
	envelope := dsse.Envelope{PayloadType: inside.GetPayloadType(), Payload: base64.StdEncoding.EncodeToString(inside.GetPayload())}
	for _, s := range inside.GetSignatures() {
		envelope.Signatures = append(envelope.Signatures, dsse.Signature{KeyID: s.GetKeyid(), Sig: base64.StdEncoding.EncodeToString(s.GetSig())})
	}
	m := b.GetVerificationMaterial()
	certificate := m.GetCertificate().GetRawBytes()
	if chain := m.GetX509CertificateChain().GetCertificates(); len(chain) > 0 {
		certificate = chain[0].GetRawBytes()
	}
	if parsed, err := x509.ParseCertificate(certificate); err == nil {
		if text, err := cryptoutils.MarshalCertificateToPEM(parsed); err == nil {
			keys = slices.Concat(usable([][]byte{text}), keys)
		}
	}
	return envelopeEntries(ctx, [][]byte{marshal(envelope), marshal(inside)}, keys)
}

// prove puts an entry into a bundle.
func (b *Bundle) prove(parsed *protobundle.Bundle, entry models.LogEntryAnon) error {
	proof, err := tle.GenerateTransparencyLogEntry(entry)
	if err != nil {
		return fmt.Errorf("reading a log entry: %w", err)
	}
	material := parsed.GetVerificationMaterial()
	material.TlogEntries = append(material.TlogEntries, proof)
	raw, err := protojson.Marshal(parsed)
	if err != nil {
		material.TlogEntries = nil
		return fmt.Errorf("writing down a bundle: %w", err)
	}
	b.Raw = raw
	return nil
}
