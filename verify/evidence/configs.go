package evidence

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cosentry/cosentry/verify/limits"
)

// imageSource gives what an image is made of, by digest: from a registry or from a folder. What it gives hashes to the
// digest.
type imageSource interface {
	imageManifest(d digest.Digest) ([]byte, error)
	imageConfig(d descriptor) ([]byte, error)
	// each does n things, at once or one after the other.
	each(n int, do func(i int) error) error
}

// imageConfigs gets the config files of an image by platform, as policy-controller names them, and the documents that
// lead to them. It is all of them or none: a rule about every platform must not be content with those that answered.
//
// An entry of an index for unknown/unknown is passed over. Builders put their attestations there, and no runtime
// starts anything from it, because none is that platform. Nothing else that an index says of an entry is believed:
// not that it is an attestation, which would hide one that runs, and not its platform, which must be the config's.
func imageConfigs(src imageSource, image digest.Digest) (map[string][]byte, [][]byte, error) {
	top, err := src.imageManifest(image)
	if err != nil {
		return nil, nil, fmt.Errorf("image manifest: %w", err)
	}
	m, err := parseManifest(top)
	if err != nil {
		return nil, nil, err
	}
	all := platformConfigs{src: src, byKey: map[string][]byte{}}
	if len(m.Manifests) == 0 {
		if err := all.add(m, nil); err != nil {
			return nil, nil, err
		}
		return all.byKey, [][]byte{top}, nil
	}
	var entries []descriptor
	for _, entry := range m.Manifests {
		if p := entry.Platform; p == nil || p.OS != "unknown" || p.Architecture != "unknown" {
			entries = append(entries, entry)
		}
	}
	if err := limits.Platforms.Check(int64(len(entries))); err != nil {
		return nil, nil, err
	}
	documents := make([][]byte, len(entries)+1)
	documents[0] = top
	err = src.each(len(entries), func(i int) (err error) {
		documents[i+1], err = all.addEntry(entries[i])
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if len(all.byKey) == 0 {
		return nil, nil, fmt.Errorf("%w: the image's index names no image", ErrMismatch)
	}
	return all.byKey, documents, nil
}

// platformConfigs are config files as they come.
type platformConfigs struct {
	src imageSource

	mu    sync.Mutex
	byKey map[string][]byte
}

// addEntry adds the config of what an index names, and gives its manifest.
func (c *platformConfigs) addEntry(entry descriptor) ([]byte, error) {
	raw, err := c.src.imageManifest(entry.Digest)
	if err != nil {
		return nil, fmt.Errorf("image manifest %s: %w", escape(entry.Digest.String()), err)
	}
	m, err := parseManifest(raw)
	if err == nil && len(m.Manifests) > 0 {
		err = fmt.Errorf("%w: an index within an index", ErrMismatch)
	}
	if err == nil {
		err = c.add(m, entry.Platform)
	}
	if err != nil {
		return nil, fmt.Errorf("image manifest %s: %w", escape(entry.Digest.String()), err)
	}
	return raw, nil
}

// add gets the config that a manifest names. said is for which platform an index says it is, if it does: a runtime
// goes by that word, so a config of another platform would be judged for one image and another one run.
func (c *platformConfigs) add(m *manifest, said *v1.Platform) error {
	if m.Config == nil || len(m.Manifests) > 0 {
		return fmt.Errorf("%w: not the manifest of an image: it names no config", ErrMismatch)
	}
	raw, err := c.src.imageConfig(*m.Config)
	if err != nil {
		return fmt.Errorf("config %s: %w", escape(m.Config.Digest.String()), err)
	}
	var file *v1.ConfigFile
	if err := json.Unmarshal(raw, &file); err != nil || file == nil {
		return fmt.Errorf("%w: config %s: not a config file of an image", ErrMismatch, m.Config.Digest)
	}
	is := v1.Platform{OS: file.OS, Architecture: file.Architecture, Variant: file.Variant, OSVersion: file.OSVersion}
	if said != nil && !samePlatform(*said, is) {
		return fmt.Errorf("%w: config %s: it is for %s, and the image's index says %s", ErrMismatch, m.Config.Digest, escape(is.String()), escape(said.String()))
	}
	key := is.String()
	c.mu.Lock()
	defer c.mu.Unlock()
	// One of two would be hidden, and the runtime might choose that one.
	if have, ok := c.byKey[key]; ok && string(have) != string(raw) {
		return fmt.Errorf("%w: two different configs for %s", ErrMismatch, escape(key))
	}
	c.byKey[key] = raw
	return nil
}

// samePlatform compares what decides which image is started, in the spelling that a runtime makes of it. Variants are
// left out: indexes tell them where configs do not.
func samePlatform(a, b v1.Platform) bool {
	x := platforms.Normalize(ocispec.Platform{OS: a.OS, Architecture: a.Architecture, Variant: a.Variant})
	y := platforms.Normalize(ocispec.Platform{OS: b.OS, Architecture: b.Architecture, Variant: b.Variant})
	return x.OS == y.OS && x.Architecture == y.Architecture
}

// configs gets them from the registry.
func (g *gathering) configs(ctx context.Context) (map[string][]byte, [][]byte, error) {
	hosts := g.set.with(docker.HostCapabilityPull)
	byKey, documents, err := imageConfigs(&remoteImage{ctx, g, hosts[0]}, g.subject)
	if err != nil {
		return nil, nil, fmt.Errorf("config files of %s: %w", g.subject, err)
	}
	return byKey, documents, nil
}

// remoteImage is an image in a registry.
type remoteImage struct {
	ctx  context.Context // of the one question
	g    *gathering
	host *endpoint
}

func (r *remoteImage) imageManifest(d digest.Digest) ([]byte, error) {
	return once(r.g, &r.g.images, d, func() ([]byte, error) {
		return r.g.content(r.ctx, r.host, "manifest", "manifests", d, -1, limits.Manifest)
	})
}

func (r *remoteImage) imageConfig(d descriptor) ([]byte, error) {
	return r.g.blob(r.ctx, r.host, d, limits.Config)
}

func (r *remoteImage) each(n int, do func(i int) error) error {
	work := make([]func() error, n)
	for i := range work {
		work[i] = func() error { return do(i) }
	}
	return join(r.g.together("getting an image's config files", work...)...)
}
