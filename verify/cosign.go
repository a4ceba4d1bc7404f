package verify

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
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
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
)

// This file is the only one that calls sigstore's code.

var (
	errNotByKey = errors.New("not signed by this key")
	// errOtherDigest: signed by the key, but the payload names another image. A
	// signature copied from one image to another looks like this.
	errOtherDigest = errors.New("signed by this key for another digest")
	// errNotASignature: signed by the key over this digest, but as an attestation. A key that
	// attests "scanned, and found wanting" has not said "run it".
	errNotASignature = errors.New("signed by this key, but not as an image signature")
)

// candidate is one piece of evidence that may be a signature. verify returns nil or
// one of the errors above.
type candidate interface {
	verify(ctx context.Context, k policy.PublicKey, d digest.Digest) error
	form() string
}

// candidatesFor lists the evidence an authority looks at, in the forms it takes.
func candidatesFor(a *policy.Authority, ev *evidence.Evidence) []candidate {
	var cs []candidate
	if a.Format != policy.BundleFormat {
		for i := range ev.Signatures {
			cs = append(cs, classic{&ev.Signatures[i]})
		}
	}
	if a.Format != policy.LegacyFormat {
		for i := range ev.Bundles {
			cs = append(cs, bundled{&ev.Bundles[i]})
		}
	}
	return cs
}

// classic is a simple-signing payload with its signature beside it.
type classic struct{ *evidence.Signature }

func (classic) form() string { return "classic" }

func (c classic) verify(ctx context.Context, k policy.PublicKey, d digest.Digest) error {
	verifier, err := signature.LoadVerifier(k.Key, k.Hash)
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
	byKey := false
	_, err = cosign.VerifyImageSignature(ctx, sig, h, &cosign.CheckOpts{
		SigVerifier: verifier,
		Offline:     true,
		IgnoreTlog:  true,
		IgnoreSCT:   true,
		// cosign asks about claims only once the signature is good.
		ClaimVerifier: func(sig oci.Signature, h v1.Hash, a map[string]any) error {
			byKey = true
			return cosign.SimpleClaimVerifier(sig, h, a)
		},
	})
	switch {
	case err == nil && byKey:
		return nil
	case byKey:
		return errOtherDigest
	default:
		return errNotByKey
	}
}

// bundled is a sigstore bundle: a DSSE envelope around an in-toto statement.
type bundled struct{ *evidence.Bundle }

func (bundled) form() string { return "bundle" }

func (c bundled) verify(_ context.Context, k policy.PublicKey, d digest.Digest) error {
	verifier, err := signature.LoadVerifier(k.Key, k.Hash)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotByKey, err)
	}
	var b bundle.Bundle
	if err := b.UnmarshalJSON(c.Raw); err != nil {
		return errNotByKey
	}
	want, err := hex.DecodeString(d.Encoded())
	if err != nil {
		return errNotByKey
	}
	// The key in the policy is the only trusted material: the bundle's hint of
	// which key it was is a stranger's word and is not looked at.
	material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
		return root.NewExpiringKey(verifier, time.Time{}, time.Time{}), nil
	})
	v, err := sgverify.NewVerifier(material, sgverify.WithNoObserverTimestamps(), sgverify.WithoutStatementPredicate())
	if err != nil {
		return errNotByKey
	}
	res, err := v.Verify(&b, sgverify.NewPolicy(sgverify.WithArtifactDigest(d.Algorithm().String(), want), sgverify.WithKey()))
	if err != nil {
		if _, err := v.Verify(&b, sgverify.NewPolicy(sgverify.WithoutArtifactUnsafe(), sgverify.WithKey())); err == nil {
			// Asked only to word the refusal.
			return errOtherDigest
		}
		return errNotByKey
	}
	// A bare message signature has no statement, and cosign makes none for images.
	if res.Statement == nil || res.Statement.GetPredicateType() != types.CosignSignPredicateType {
		return errNotASignature
	}
	return nil
}
