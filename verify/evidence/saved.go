package evidence

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cosentry/cosentry/verify/limits"
)

// Layout answers questions from what [SaveAll] wrote, without asking any registry. What it holds is judged like what a
// registry gives: the files grant nothing by being there. It is safe for concurrent use.
type Layout struct {
	dir     string
	records []record
	tags    map[string]digest.Digest
	// manifests of each record.
	manifests [][]savedManifest
}

type savedManifest struct {
	digest digest.Digest
	as     string
}

// Open reads the index of a folder that [SaveAll] wrote. The rest is read when it is asked for.
func Open(dir string) (*Layout, error) {
	l, err := openLayout(dir)
	if err != nil {
		return nil, fmt.Errorf("reading saved evidence in %s: %w", dir, err)
	}
	return l, nil
}

func openLayout(dir string) (*Layout, error) {
	f := folder{dir: dir, budget: budget{material: limits.Material}}
	raw, err := f.read(ocispec.ImageIndexFile, limits.Manifest)
	if err != nil {
		return nil, err
	}
	return parseLayout(dir, raw)
}

func parseLayout(dir string, raw []byte) (*Layout, error) {
	var index struct {
		Manifests   []descriptor      `json:"manifests"`
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("%w: index.json: %s", ErrMismatch, clean(err))
	}
	l := &Layout{dir: dir}
	for name, into := range map[string]any{savedRecords: &l.records, savedTags: &l.tags} {
		text := index.Annotations[name]
		// The index was counted as one document in which this is one string.
		if err := limits.Elements.Check(limits.CountElements([]byte(text))); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(text), into); err != nil {
			return nil, fmt.Errorf("%w: index.json: the annotation %s: %s", ErrMismatch, name, clean(err))
		}
	}
	if err := limits.Saved.Check(int64(len(l.records))); err != nil {
		return nil, err
	}
	for _, r := range l.records {
		if err := r.question().check(); err != nil {
			return nil, fmt.Errorf("%w: index.json: %w", ErrMismatch, err)
		}
	}
	l.manifests = make([][]savedManifest, len(l.records))
	for _, m := range index.Manifests {
		n, err := strconv.Atoi(m.Annotations[savedOf])
		if err != nil || n < 0 || n >= len(l.records) {
			return nil, fmt.Errorf("%w: index.json: %s belongs to no record", ErrMismatch, escape(m.Digest.String()))
		}
		l.manifests[n] = append(l.manifests[n], savedManifest{m.Digest, m.Annotations[savedAs]})
		// Signatures, attestations and the image have one each; all the others are bundles.
		if err := limits.Referrers.Check(int64(len(l.manifests[n])) - 3); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Saved reads what Save wrote. Every byte is bounded and must hash to the digest under which it is named, as if a
// registry had given it; the files grant nothing by being there.
func Saved(dir string) (*Evidence, error) {
	l, err := Open(dir)
	if err != nil {
		return nil, err
	}
	if len(l.records) != 1 {
		return nil, fmt.Errorf("reading saved evidence in %s: %w: it is about %d images or places", dir, ErrMismatch, len(l.records))
	}
	e, err := l.read(0)
	if err != nil {
		return nil, fmt.Errorf("reading saved evidence in %s: %w", dir, err)
	}
	return e, nil
}

// Fetch answers as a Fetcher would have when the evidence was saved. What was not saved, or cannot be read, is
// incomplete for [ErrNotSaved]: it is not known to be signed, and not known to be unsigned.
func (l *Layout) Fetch(ctx context.Context, q Question) (*Evidence, error) {
	if err := q.check(); err != nil {
		return nil, fmt.Errorf("looking for saved evidence about %s: %w", escape(q.Repository), err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("looking for saved evidence about %s@%s: %w", escape(q.Repository), q.Digest, err)
	}
	not := func(err error) (*Evidence, error) {
		e := q.asked()
		e.Incomplete = incomplete(q.Digest, err)
		return e, nil
	}
	for i, r := range l.records {
		if !r.question().asked().Answers(q) {
			continue
		}
		e, err := l.read(i)
		if err != nil {
			// Its own kind of error is about these files and not about the image, so it is left behind.
			return not(fmt.Errorf("%w: %s@%s: it cannot be read: %s", ErrNotSaved, escape(q.Repository), q.Digest, clean(err)))
		}
		return e.only(q), nil
	}
	return not(fmt.Errorf("%w: %s@%s: save it again with all policies that are asked about", ErrNotSaved, escape(q.Repository), q.Digest))
}

// only leaves away what q did not ask for.
func (e *Evidence) only(q Question) *Evidence {
	e.AskedAttestations, e.AskedConfig = q.Attestations, q.Config
	if !q.Attestations {
		e.Attestations = nil
	}
	if !q.Config {
		e.Configs, e.Image = nil, nil
	}
	return e
}

// Resolve says for which digest a tag stood when the evidence was saved. A tag that was not is [ErrNotSaved].
func (l *Layout) Resolve(ctx context.Context, repository, tag string, _ Credentials) (digest.Digest, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("resolving %s:%s: %w", escape(repository), escape(tag), err)
	}
	d, ok := l.tags[repository+":"+tag]
	if !ok {
		return "", fmt.Errorf("resolving %s:%s: %w", escape(repository), escape(tag), ErrNotSaved)
	}
	if err := checkDigest(d); err != nil {
		return "", fmt.Errorf("resolving %s:%s: %w: %w", escape(repository), escape(tag), ErrMismatch, err)
	}
	return d, nil
}

// read reads all that belongs to a record.
func (l *Layout) read(number int) (*Evidence, error) {
	r := l.records[number]
	reading := &savedReading{
		folder: folder{dir: l.dir, budget: budget{material: r.question().asked().Bound()}},
		e:      r.question().asked(), bundle: limits.Payload,
	}
	if r.Attestations {
		reading.bundle = limits.Attestation
	}
	for _, m := range l.manifests[number] {
		if err := reading.add(m); err != nil {
			return nil, err
		}
	}
	e := reading.e
	e.Bundles = distinct(e.Bundles, Bundle.same)
	switch {
	case r.Incomplete != "":
		// Whatever it was, it may be different when asked again.
		e.Incomplete = incomplete(r.Digest, fmt.Errorf("%w: when it was saved: %s", ErrNotSaved, escape(r.Incomplete)))
	case r.Config && e.Configs == nil:
		return nil, fmt.Errorf("%w: the image's config files are missing", ErrMismatch)
	}
	return e, nil
}

// savedReading is the reading of one record.
type savedReading struct {
	folder
	e      *Evidence
	bundle limits.Bound
}

func (s *savedReading) add(m savedManifest) (err error) {
	if m.as == asImage {
		if m.digest != s.e.Digest {
			return fmt.Errorf("%w: another image's manifest", ErrMismatch)
		}
		s.e.Configs, s.e.Image, err = imageConfigs(s, m.digest)
		return err
	}
	raw, err := s.content(m.digest, limits.Manifest)
	if err != nil {
		return err
	}
	switch m.as {
	case asSignatures:
		return s.classic(signatures, raw, &s.e.Signatures)
	case asAttestations:
		return s.classic(attestations, raw, &s.e.Attestations)
	case asBundle:
		return s.bundles(m.digest, raw)
	}
	return fmt.Errorf("%w: a manifest saved as %s", ErrMismatch, escape(m.as))
}

func (s *savedReading) classic(kind classicKind, raw []byte, into *[]Signature) error {
	layers, err := kind.layers(raw)
	if err != nil {
		return err
	}
	if len(*into) > 0 {
		return fmt.Errorf("%w: two manifests of %ss", ErrMismatch, kind.what)
	}
	for _, layer := range layers {
		payload, err := s.content(layer.Digest, kind.bound)
		if err != nil {
			return err
		}
		*into = append(*into, kind.signature(payload, layer))
	}
	return nil
}

func (s *savedReading) bundles(source digest.Digest, raw []byte) error {
	m, err := parseManifest(raw)
	if err != nil {
		return err
	}
	layers, err := bundleLayers(m, s.e.Digest)
	if err != nil {
		return err
	}
	if err := limits.Signatures.Check(int64(len(s.e.Bundles) + len(layers))); err != nil {
		return err
	}
	for _, layer := range layers {
		bundle, err := s.content(layer.Digest, s.bundle)
		if err != nil {
			return err
		}
		s.e.Bundles = append(s.e.Bundles, Bundle{Raw: bundle, Source: source})
	}
	return nil
}

func (s *savedReading) imageManifest(d digest.Digest) ([]byte, error) {
	return s.content(d, limits.Manifest)
}

func (s *savedReading) imageConfig(d descriptor) ([]byte, error) {
	return s.content(d.Digest, limits.Config)
}

func (s *savedReading) each(n int, do func(i int) error) error {
	var errs []error
	for i := range n {
		errs = append(errs, do(i))
	}
	return join(errs...)
}
