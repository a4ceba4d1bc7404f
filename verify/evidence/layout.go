package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cosentry/cosentry/verify/limits"
)

// The annotations of a layout's index that say what the evidence is about.
const (
	aboutRepository = "dev.cosentry.evidence.repository"
	aboutDigest     = "dev.cosentry.evidence.digest"
)

// Save writes e to dir, which must exist and be empty, as an OCI image layout
// (image specification 1.1): the classic signatures as the manifest that cosign tags
// sha256-<hex>.sig, each bundle as a manifest that refers to the image. What was incomplete is
// not written down.
func (e *Evidence) Save(dir string) error {
	l := layout{dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, ocispec.ImageBlobsDir, "sha256"), 0o700); err != nil {
		return fmt.Errorf("saving evidence: %w", err)
	}
	index := ocispec.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageIndex,
		Annotations: map[string]string{aboutRepository: e.Repository, aboutDigest: e.Digest.String()},
	}
	if len(e.Signatures) > 0 {
		m := l.manifest("")
		for _, s := range e.Signatures {
			d := l.blob(simpleSigningType, s.Payload)
			d.Annotations = s.Annotations
			m.Layers = append(m.Layers, d)
		}
		d := l.document(m.MediaType, m)
		d.Annotations = map[string]string{ocispec.AnnotationRefName: signatureTag(e.Digest)}
		index.Manifests = append(index.Manifests, d)
	}
	for _, b := range e.Bundles {
		m := l.manifest(bundleTypes[0])
		// Type and size of the image are not known here; what binds is the digest.
		m.Subject = &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: e.Digest}
		m.Layers = append(m.Layers, l.blob(bundleTypes[0], b.Raw))
		index.Manifests = append(index.Manifests, l.document(m.MediaType, m))
	}
	l.file(ocispec.ImageIndexFile, marshal(index))
	l.file(ocispec.ImageLayoutFile, marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}))
	if l.err != nil {
		return fmt.Errorf("saving evidence: %w", l.err)
	}
	return nil
}

// Saved reads what Save wrote. Every byte is bounded and must hash to the digest under which
// it is named, as if a registry had given it; the files grant nothing by being there.
func Saved(dir string) (*Evidence, error) {
	e, err := readLayout(dir)
	if err != nil {
		return nil, fmt.Errorf("reading saved evidence in %s: %w", dir, err)
	}
	return e, nil
}

func readLayout(dir string) (*Evidence, error) {
	l := layout{dir: dir}
	raw, err := l.read(ocispec.ImageIndexFile, limits.Manifest)
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("%w: index.json: %w", ErrMismatch, err)
	}
	e := &Evidence{Repository: index.Annotations[aboutRepository], Digest: digest.Digest(index.Annotations[aboutDigest])}
	if err := checkDigest(e.Digest); err != nil {
		return nil, err
	}
	if err := limits.Referrers.Check(int64(len(index.Manifests)) - 1); err != nil {
		return nil, err
	}
	for _, entry := range index.Manifests {
		raw, err := l.content(entry.Digest, limits.Manifest)
		if err != nil {
			return nil, err
		}
		m, err := parseManifest(raw)
		if err != nil {
			return nil, err
		}
		for _, layer := range m.Layers {
			if err := limits.Signatures.Check(int64(len(e.Signatures) + len(e.Bundles) + 1)); err != nil {
				return nil, err
			}
			data, err := l.content(layer.Digest, limits.Payload)
			if err != nil {
				return nil, err
			}
			switch {
			case layer.MediaType == simpleSigningType:
				e.Signatures = append(e.Signatures, Signature{
					Payload:         data,
					Base64Signature: layer.Annotations[signatureAnnotation],
					Annotations:     layer.Annotations,
					Source:          layer.Digest,
				})
			case slices.Contains(bundleTypes, layer.MediaType):
				e.Bundles = append(e.Bundles, Bundle{Raw: data, Source: entry.Digest})
			}
		}
	}
	return e, nil
}

// layout is a folder being written or read. Writing goes on after the first error, which stays.
type layout struct {
	dir    string
	err    error
	budget budget // for reading
}

func (l *layout) manifest(artifactType string) ocispec.Manifest {
	return ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       l.blob(ocispec.MediaTypeEmptyJSON, ocispec.DescriptorEmptyJSON.Data),
	}
}

func (l *layout) document(mediaType string, v any) ocispec.Descriptor {
	return l.blob(mediaType, marshal(v))
}

func (l *layout) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	l.file(blobPath(d), data)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (l *layout) file(name string, data []byte) {
	if l.err == nil {
		l.err = os.WriteFile(filepath.Join(l.dir, name), data, 0o600)
	}
}

func (l *layout) content(d digest.Digest, bound limits.Bound) ([]byte, error) {
	// Before it becomes part of a path.
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	data, err := l.read(blobPath(d), bound)
	if err != nil {
		return nil, err
	}
	if digest.FromBytes(data) != d {
		return nil, fmt.Errorf("%w: the blob %s holds other bytes", ErrMismatch, d)
	}
	return data, nil
}

func (l *layout) read(name string, bound limits.Bound) ([]byte, error) {
	f, err := os.Open(filepath.Join(l.dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrMismatch, name)
	}
	return l.budget.readAll(f, bound)
}

func blobPath(d digest.Digest) string {
	return filepath.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// marshal cannot fail: these types hold strings and numbers.
func marshal(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}
