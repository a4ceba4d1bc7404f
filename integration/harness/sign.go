package harness

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/sigstore/cosign/v2/pkg/oci/mutate"
	ociremote "github.com/sigstore/cosign/v2/pkg/oci/remote"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore/pkg/signature/payload"
	"google.golang.org/protobuf/encoding/protojson"
)

// Key is a fresh ECDSA P-256 key that signs images the way `cosign sign --key
// K --tlog-upload=false` does, by cosign's and sigstore-go's libraries: the
// demo need not wait for the command to be built.
type Key struct {
	pair *sign.EphemeralKeypair
	// PublicPEM is the public half, as policies hold it.
	PublicPEM string
}

// NewKey makes a key that exists in this process only.
func NewKey() (*Key, error) {
	pair, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	public, err := pair.GetPublicKeyPem()
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return &Key{pair: pair, PublicPEM: public}, nil
}

// SignClassic adds a signature to the image's sha256-….sig tag.
func (k *Key) SignClassic(ctx context.Context, r *Registry, image name.Digest) error {
	text, err := (&payload.Cosign{Image: image}).MarshalJSON()
	if err != nil {
		return fmt.Errorf("signing %s: %w", image, err)
	}
	raw, _, err := k.pair.SignData(ctx, text)
	if err != nil {
		return fmt.Errorf("signing %s: %w", image, err)
	}
	signature, err := static.NewSignature(text, base64.StdEncoding.EncodeToString(raw))
	if err != nil {
		return fmt.Errorf("signing %s: %w", image, err)
	}
	options := ociremote.WithRemoteOptions(r.auth())
	entity, err := ociremote.SignedEntity(image, options)
	if err != nil {
		return fmt.Errorf("signing %s: %w", image, err)
	}
	if entity, err = mutate.AttachSignatureToEntity(entity, signature); err != nil {
		return fmt.Errorf("signing %s: %w", image, err)
	}
	if err := ociremote.WriteSignatures(image.Repository, entity, options); err != nil {
		return fmt.Errorf("writing the signature of %s: %w", image, err)
	}
	return nil
}

// SignBundle adds a sigstore bundle that refers to the image: by the referrers
// API where the registry has it, otherwise by the fallback tag.
func (k *Key) SignBundle(ctx context.Context, r *Registry, image name.Digest) error {
	statement, err := StatementAbout(image)
	if err != nil {
		return fmt.Errorf("signing %s: %w", image, err)
	}
	content := &sign.DSSEData{Data: statement, PayloadType: "application/vnd.in-toto+json"}
	bundle, err := sign.Bundle(content, k.pair, sign.BundleOptions{Context: ctx})
	if err != nil {
		return fmt.Errorf("signing %s: %w", image, err)
	}
	data, err := protojson.Marshal(bundle)
	if err != nil {
		return fmt.Errorf("signing %s: %w", image, err)
	}
	return r.AttachSignature(image, data)
}

// AttachSignature has a bundle, in JSON, refer to the image.
func (r *Registry) AttachSignature(image name.Digest, bundle []byte) error {
	options := ociremote.WithRemoteOptions(r.auth())
	if err := ociremote.WriteAttestationNewBundleFormat(image, bundle, types.CosignSignPredicateType, options); err != nil {
		return fmt.Errorf("writing the signature of %s: %w", image, err)
	}
	return nil
}

// StatementAbout is the in-toto statement that cosign signs: the digest alone.
func StatementAbout(image name.Digest) ([]byte, error) {
	algorithm, value, _ := bytes.Cut([]byte(image.DigestStr()), []byte(":"))
	return json.Marshal(map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{map[string]any{"digest": map[string]string{string(algorithm): string(value)}}},
		"predicateType": types.CosignSignPredicateType,
		"predicate":     map[string]any{},
	})
}
