package verify

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
)

// This file and keys.go are the only ones that call sigstore's code.

var (
	errNotByKey = errors.New("not signed by this key")
	// errOtherDigest: signed by the key, but the payload names another image. A
	// signature copied from one image to another looks like this.
	errOtherDigest = errors.New("signed by this key for another digest")
	// errNotASignature: signed by the key over this digest, but as an attestation or as a payload
	// of another type. A key that attests "scanned, and found wanting" has not said "run it".
	errNotASignature = errors.New("signed by this key, but not as an image signature")
)

// candidate is one piece of evidence that may be a signature. verify returns nil or
// one of the errors above.
type candidate interface {
	verify(ctx context.Context, k policy.PublicKey, d digest.Digest) error
	form() string
}

// candidates is all that may be a signature, in both forms. It is made once for a
// judgement, so that however many keys are asked, each bundle is parsed once. Parsed ones stay in memory until its
// end, so together they may have no more elements than the bound: a bundle of 1 MiB takes 30 MiB if it is made for that.
type candidates struct{ classic, bundled []candidate }

func candidatesOf(ev *evidence.Evidence) candidates {
	var c candidates
	for i := range ev.Signatures {
		c.classic = append(c.classic, classic{&ev.Signatures[i]})
	}
	var elements int64
	for i := range ev.Bundles {
		b := &bundled{Bundle: &ev.Bundles[i]}
		if n := limits.CountElements(b.Raw); limits.Elements.Check(elements+n) == nil {
			elements += n
		} else {
			b.parsed = true // and is none
		}
		c.bundled = append(c.bundled, b)
	}
	return c
}

// in lists the candidates of the forms that an authority takes.
func (c candidates) in(f policy.Format) []candidate {
	switch f {
	case policy.LegacyFormat:
		return c.classic
	case policy.BundleFormat:
		return c.bundled
	case policy.AnyFormat:
		return slices.Concat(c.classic, c.bundled)
	}
	return nil
}

// classic is a simple-signing payload with its signature beside it.
type classic struct{ *evidence.Signature }

func (classic) form() string { return "classic" }

func (c classic) verify(ctx context.Context, k policy.PublicKey, d digest.Digest) error {
	verifier, err := verifierFor(k)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotByKey, err)
	}
	// Annotations are left behind: a certificate or log entry beside the
	// signature could only be asked for by a policy that names it.
	sig, err := static.NewSignature(c.Payload, c.Base64Signature)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotByKey, err)
	}
	h, err := v1.NewHash(d.String())
	if err != nil {
		return fmt.Errorf("%w: %w", errNotByKey, err)
	}
	byKey, ofDigest := false, false
	_, err = cosign.VerifyImageSignature(ctx, sig, h, &cosign.CheckOpts{
		SigVerifier: verifier,
		Offline:     true,
		IgnoreTlog:  true,
		IgnoreSCT:   true,
		// cosign asks about claims only once the signature is good.
		ClaimVerifier: func(sig oci.Signature, h v1.Hash, a map[string]any) error {
			byKey = true
			if err := cosign.SimpleClaimVerifier(sig, h, a); err != nil {
				return err
			}
			ofDigest = true
			return claimsToBeASignature(c.Payload)
		},
	})
	switch {
	case err == nil && byKey && ofDigest:
		return nil
	case ofDigest:
		return errNotASignature
	case byKey:
		return errOtherDigest
	default:
		return errNotByKey
	}
}

// claimsToBeASignature asks for the type by which a payload says what it is, as the specification
// demands and cosign does not: whatever else a key signs that names a digest is no signature.
func claimsToBeASignature(raw []byte) error {
	var p payload.SimpleContainerImage
	if err := json.Unmarshal(raw, &p); err != nil {
		return err
	}
	if p.Critical.Type != payload.CosignSignatureType {
		return errNotASignature
	}
	return nil
}

// bundled is a sigstore bundle: a DSSE envelope around an in-toto statement.
type bundled struct {
	*evidence.Bundle
	parsed bool
	bundle *bundle.Bundle // nil if it is none or too large, once parsed
}

func (*bundled) form() string { return "bundle" }

// envelope returns the bundle if it holds an envelope. A bare message signature is never
// one of an image: it has no statement to say what it is about.
func (c *bundled) envelope() *bundle.Bundle {
	if !c.parsed {
		c.parsed = true
		var b bundle.Bundle
		if err := b.UnmarshalJSON(c.Raw); err == nil && b.GetDsseEnvelope() != nil {
			c.bundle = &b
		}
	}
	return c.bundle
}

func (c *bundled) verify(_ context.Context, k policy.PublicKey, d digest.Digest) error {
	verifier, err := verifierFor(k)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotByKey, err)
	}
	want, err := hex.DecodeString(d.Encoded())
	if err != nil {
		return fmt.Errorf("%w: %w", errNotByKey, err)
	}
	b := c.envelope()
	if b == nil {
		return errNotByKey
	}
	// The key in the policy is the only trusted material: the bundle's hint of
	// which key it was is a stranger's word and is not looked at.
	material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
		return root.NewExpiringKey(verifier, time.Time{}, time.Time{}), nil
	})
	v, err := sgverify.NewVerifier(material, sgverify.WithNoObserverTimestamps(), sgverify.WithoutStatementPredicate())
	if err != nil {
		return fmt.Errorf("%w: %w", errNotByKey, err)
	}
	res, err := v.Verify(b, sgverify.NewPolicy(sgverify.WithArtifactDigest(d.Algorithm().String(), want), sgverify.WithKey()))
	if err != nil {
		if _, err := v.Verify(b, sgverify.NewPolicy(sgverify.WithoutArtifactUnsafe(), sgverify.WithKey())); err == nil {
			// Asked only to word the refusal.
			return errOtherDigest
		}
		return errNotByKey
	}
	if res.Statement == nil || res.Statement.GetPredicateType() != types.CosignSignPredicateType {
		return errNotASignature
	}
	return nil
}
