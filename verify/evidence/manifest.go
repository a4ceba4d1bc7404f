package evidence

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/limits"
)

const (
	simpleSigningType   = "application/vnd.dev.cosign.simplesigning.v1+json"
	dsseType            = "application/vnd.dsse.envelope.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	bundleTypePrefix    = "application/vnd.dev.sigstore.bundle"
)

// bundleTypes are the versions of the bundle that sigstore-go parses, in both spellings.
var bundleTypes = []string{
	bundleTypePrefix + ".v0.3+json",
	bundleTypePrefix + "+json;version=0.3",
	bundleTypePrefix + "+json;version=0.2",
	bundleTypePrefix + "+json;version=0.1",
}

// manifestTypes is what is asked for. The answer's Content-Type is not read: one document that is read in two ways
// by two readers is how one digest comes to mean two things.
var manifestTypes = strings.Join([]string{
	"application/vnd.oci.image.manifest.v1+json",
	"application/vnd.oci.image.index.v1+json",
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"*/*",
}, ", ")

const indexType = "application/vnd.oci.image.index.v1+json"

// descriptor is what is used of an OCI descriptor. The artifactType of an index entry is left out on purpose:
// registries have been seen to write a wrong one, and a filter on it would hide signatures.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      digest.Digest     `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
	Platform    *v1.Platform      `json:"platform"`
}

// manifest is an OCI image manifest or image index, told apart by what it holds.
type manifest struct {
	Config    *descriptor  `json:"config"`
	Layers    []descriptor `json:"layers"`
	Manifests []descriptor `json:"manifests"`
	Subject   *descriptor  `json:"subject"`
}

// parseManifest reads a document that has layers, manifests, or neither, but not both: the image specification
// names such a document as an attack.
func parseManifest(raw []byte) (*manifest, error) {
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("%w: not a manifest: %s", ErrMismatch, clean(err))
	}
	if len(m.Layers) > 0 && len(m.Manifests) > 0 {
		return nil, fmt.Errorf("%w: a manifest with both layers and manifests", ErrMismatch)
	}
	return &m, nil
}

// parseReferrers reads a list of referrers. A document without the member is not a list of none: an error page that
// happens to be JSON must not pass for the word of a referrers API.
func parseReferrers(raw []byte) ([]descriptor, error) {
	var shape struct {
		Manifests *json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &shape); err != nil {
		return nil, fmt.Errorf("%w: not a list of referrers: %s", ErrMismatch, clean(err))
	}
	if shape.Manifests == nil {
		return nil, fmt.Errorf("%w: not a list of referrers: it has no manifests", ErrMismatch)
	}
	m, err := parseManifest(raw)
	if err != nil {
		return nil, err
	}
	return m.Manifests, nil
}

// layers are those of a classic manifest that hold what it is for.
func (kind classicKind) layers(raw []byte) ([]descriptor, error) {
	m, err := parseManifest(raw)
	if err != nil {
		return nil, err
	}
	var layers []descriptor
	for _, layer := range m.Layers {
		if layer.MediaType == kind.layerType {
			layers = append(layers, layer)
		}
	}
	if err := limits.Signatures.Check(int64(len(layers))); err != nil {
		return nil, err
	}
	return layers, nil
}

// signature is what a layer and its payload say. An attestation carries its signatures within.
func (kind classicKind) signature(payload []byte, layer descriptor) Signature {
	s := Signature{Payload: payload, Annotations: layer.Annotations, Source: layer.Digest}
	if kind.layerType == simpleSigningType {
		s.Base64Signature = layer.Annotations[signatureAnnotation]
	}
	return s
}

// bundleLayers are the layers of a referrer that hold bundles, if it refers to subject. The subject is what makes a
// manifest one about this image; that it was listed as one is only the registry's word. The error beside layers tells
// of bundles that this build cannot read.
func bundleLayers(m *manifest, subject digest.Digest) ([]descriptor, error) {
	if m.Subject == nil || m.Subject.Digest != subject {
		return nil, fmt.Errorf("%w: a manifest listed as a referrer has another subject", ErrMismatch)
	}
	var layers []descriptor
	var unknown error
	for _, layer := range m.Layers {
		switch {
		case slices.Contains(bundleTypes, layer.MediaType):
			layers = append(layers, layer)
		case strings.HasPrefix(layer.MediaType, bundleTypePrefix):
			unknown = fmt.Errorf("%w: bundle of a version that is not supported: %s", ErrMismatch, escape(layer.MediaType))
		}
	}
	return layers, unknown
}

// checkDigest allows sha256 alone. Other algorithms are refused in words, because cosign names no place for the
// signatures of an image whose digest is sha512: its tag would be longer than a tag may be.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %s: %w", escape(d.String()), err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %s: only sha256 is supported", escape(d.String()))
	}
	return nil
}
