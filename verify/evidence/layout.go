package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cosentry/cosentry/verify/limits"
)

// The annotations of a layout's index, and of what it names.
const (
	savedRecords = "dev.cosentry.evidence.saved" // of the index: which questions are answered, as JSON
	savedTags    = "dev.cosentry.evidence.tags"  // of the index: which digest a tag stood for, as JSON
	savedOf      = "dev.cosentry.evidence.of"    // of a manifest: to which of the records it belongs, counted from 0
	savedAs      = "dev.cosentry.evidence.as"    // of a manifest: what it is to that record
)

// What a manifest is to a record.
const (
	asSignatures   = "signatures"
	asAttestations = "attestations"
	asBundle       = "bundle"
	asImage        = "image"
)

// record is one question that a layout answers.
type record struct {
	Repository   string        `json:"repository"`
	Digest       digest.Digest `json:"digest"`
	TagPrefix    string        `json:"tagPrefix,omitempty"`
	Attestations bool          `json:"attestations,omitempty"`
	Config       bool          `json:"config,omitempty"`
	// Incomplete is what could not be learnt when it was asked.
	Incomplete string `json:"incomplete,omitempty"`
}

func (r record) question() Question {
	return Question{Repository: r.Repository, Digest: r.Digest, TagPrefix: r.TagPrefix, Attestations: r.Attestations, Config: r.Config}
}

// Tag is which digest a tag stood for when evidence was saved.
type Tag struct {
	Repository, Tag string
	Digest          digest.Digest
}

// Save writes e to dir, which must exist and be empty. It is [SaveAll] of one.
func (e *Evidence) Save(dir string) error { return SaveAll(dir, []*Evidence{e}) }

// SaveAll writes evidence to dir, which must exist and be empty, as one OCI image layout (image specification 1.1).
// Classic signatures and attestations are the manifests that cosign tags, under their tags; each bundle is a manifest
// that refers to the image; and where config files are among the evidence, the image's own manifests lead to them. The
// image itself is not there: its layers, and what an index names beside them, are missing as the specification allows.
//
// tags say what the images were called, for [Layout.Resolve]. What was incomplete is written down as such, and is
// incomplete when it is read again: a registry that was away must not turn into an image that is unsigned.
func SaveAll(dir string, all []*Evidence, tags ...Tag) error {
	if err := saveAll(dir, all, tags); err != nil {
		return fmt.Errorf("saving evidence: %w", err)
	}
	return nil
}

func saveAll(dir string, all []*Evidence, tags []Tag) error {
	if err := limits.Saved.Check(int64(len(all))); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, ocispec.ImageBlobsDir, "sha256"), 0o700); err != nil {
		return err
	}
	l := writer{dir: dir}
	records := []record{}
	var manifests []ocispec.Descriptor
	for i, e := range all {
		r := record{Repository: e.Repository, Digest: e.Digest, TagPrefix: e.TagPrefix, Attestations: e.AskedAttestations, Config: e.AskedConfig}
		if e.Incomplete != nil {
			r.Incomplete = escape(e.Incomplete.Error())
		}
		records = append(records, r)
		manifests = append(manifests, l.evidence(i, e)...)
	}
	named := map[string]digest.Digest{}
	for _, t := range tags {
		named[t.Repository+":"+t.Tag] = t.Digest
	}
	l.file(ocispec.ImageIndexFile, marshal(ocispec.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageIndex,
		Manifests:   append([]ocispec.Descriptor{}, manifests...), // the specification wants a list, if an empty one
		Annotations: map[string]string{savedRecords: string(marshal(records)), savedTags: string(marshal(named))},
	}))
	l.file(ocispec.ImageLayoutFile, marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}))
	return l.err
}

// writer fills a folder. It goes on after the first error, which stays.
type writer struct {
	dir string
	err error
}

// evidence writes what belongs to the record with that number.
func (l *writer) evidence(number int, e *Evidence) []ocispec.Descriptor {
	var all []ocispec.Descriptor
	add := func(d ocispec.Descriptor, as string, more map[string]string) {
		d.Annotations = map[string]string{savedOf: strconv.Itoa(number), savedAs: as}
		maps.Copy(d.Annotations, more)
		all = append(all, d)
	}
	q := e.question()
	if len(e.Signatures) > 0 {
		add(l.classic(signatures, e.Signatures), asSignatures, map[string]string{ocispec.AnnotationRefName: q.signatureTag()})
	}
	if len(e.Attestations) > 0 {
		add(l.classic(attestations, e.Attestations), asAttestations, map[string]string{ocispec.AnnotationRefName: q.attestationTag()})
	}
	for _, b := range e.Bundles {
		m := l.manifest(bundleTypes[0])
		// Type and size of the image are not known here; what binds is the digest.
		m.Subject = &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: e.Digest}
		m.Layers = append(m.Layers, l.blob(bundleTypes[0], b.Raw))
		add(l.blob(m.MediaType, marshal(m)), asBundle, nil)
	}
	for _, raw := range e.Image {
		if d := l.blob(imageType(raw), raw); d.Digest == e.Digest {
			add(d, asImage, nil)
		}
	}
	for _, config := range e.Configs {
		l.blob(ocispec.MediaTypeImageConfig, config)
	}
	return all
}

// classic writes a manifest of the classic form.
func (l *writer) classic(kind classicKind, all []Signature) ocispec.Descriptor {
	m := l.manifest("")
	for _, s := range all {
		d := l.blob(kind.layerType, s.Payload)
		d.Annotations = s.Annotations
		m.Layers = append(m.Layers, d)
	}
	return l.blob(m.MediaType, marshal(m))
}

func (l *writer) manifest(artifactType string) ocispec.Manifest {
	return ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       l.blob(ocispec.MediaTypeEmptyJSON, ocispec.DescriptorEmptyJSON.Data),
	}
}

func (l *writer) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	l.file(blobPath(d), data)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (l *writer) file(name string, data []byte) {
	if l.err == nil {
		l.err = os.WriteFile(filepath.Join(l.dir, name), data, 0o600)
	}
}

// imageType is what a document of an image says that it is. It is written for other readers of the layout and not
// believed by this one.
func imageType(raw []byte) string {
	var m struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
	}
	switch err := json.Unmarshal(raw, &m); {
	case err == nil && m.MediaType != "":
		return m.MediaType
	case len(m.Manifests) > 0:
		return ocispec.MediaTypeImageIndex
	}
	return ocispec.MediaTypeImageManifest
}

// folder is a layout that is read. Nothing in it is believed: each blob must hash to its name, and all that is read is
// bounded.
type folder struct {
	dir    string
	budget budget
}

func (f *folder) content(d digest.Digest, bound limits.Bound) ([]byte, error) {
	// Before it becomes part of a path.
	if err := checkDigest(d); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	data, err := f.read(blobPath(d), bound)
	if err != nil {
		return nil, err
	}
	if digest.FromBytes(data) != d {
		return nil, fmt.Errorf("%w: the blob %s holds other bytes", ErrMismatch, d)
	}
	return data, nil
}

func (f *folder) read(name string, bound limits.Bound) ([]byte, error) {
	file, err := os.Open(filepath.Join(f.dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrMismatch, name)
	}
	return f.budget.readAll(file, bound)
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
