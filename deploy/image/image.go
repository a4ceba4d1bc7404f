package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// binaryPath is where the one file of the image is.
const binaryPath = "/cosentry"

// build is cosentry for one platform.
type build struct {
	platform v1.Platform
	data     []byte
}

// about is what the image says of itself.
type about struct {
	// repository, with the version as tag, is its name where it is imported without a registry.
	repository, version string
	// revision is the commit; empty where it is not known.
	revision string
	// created is the commit's time, or the zero time: that of the build would make every build another image.
	created time.Time
}

// tag is that of a release, or one that stays, as deploy/overlays/kind wants it, for all that are named after their commit.
func (a about) tag() string {
	if strings.HasPrefix(a.version, unreleased) {
		return unreleased
	}
	return a.version
}

// unreleased begins the versions that are none of a release.
const unreleased = "devel"

func (a about) labels() map[string]string {
	labels := map[string]string{
		"org.opencontainers.image.title":       "cosentry",
		"org.opencontainers.image.description": "Lets only images run that are signed as the node's policies demand",
		"org.opencontainers.image.source":      "https://github.com/cosentry/cosentry",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     a.version,
	}
	if a.revision != "" {
		labels["org.opencontainers.image.revision"] = a.revision
	}
	return labels
}

// index is the image for all platforms: one layer with one file each.
func index(a about, builds []build) (v1.ImageIndex, error) {
	if len(builds) == 0 {
		return nil, errors.New("an image for no platform")
	}
	all := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range builds {
		img, err := image(a, b)
		if err != nil {
			return nil, fmt.Errorf("image for %s: %w", b.platform.String(), err)
		}
		platform := b.platform
		all = mutate.AppendManifests(all, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	return mutate.Annotations(all, a.labels()).(v1.ImageIndex), nil
}

func image(a about, b build) (v1.Image, error) {
	if err := static(b.data); err != nil {
		return nil, err
	}
	content, err := archive(b.data)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: a.created}, CreatedBy: "cosentry/deploy/image"}})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(img, &v1.ConfigFile{
		OS: b.platform.OS, Architecture: b.platform.Architecture, Variant: b.platform.Variant, Created: v1.Time{Time: a.created},
		RootFS:  config.RootFS,
		History: config.History,
		Config: v1.Config{
			Entrypoint: []string{binaryPath},
			Cmd:        []string{"version"},
			// Whoever runs it without saying as whom gets nobody. The DaemonSet says it for each container.
			User:       "65532:65532",
			WorkingDir: "/",
			Labels:     a.labels(),
		},
	})
}

// archive is the layer: one file, owned by root, of no time.
func archive(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	err := w.WriteHeader(&tar.Header{
		Name: binaryPath[1:], Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(data)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	})
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// static refuses a program that needs a loader or a library: there is none in the image, and none that fits on a host.
func static(data []byte) error {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("reading the program: %w", err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			return errors.New("the program is linked dynamically")
		}
	}
	return nil
}

// write replaces the OCI layout at dir. Its one entry is the index, under the name by which containerd imports it.
func write(dir string, a about, idx v1.ImageIndex) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), ".image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	p, err := layout.Write(fresh, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return err
	}
	if err := p.AppendIndex(idx, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": a.tag(),
		"io.containerd.image.name":          a.repository + ":" + a.tag(),
	})); err != nil {
		return err
	}
	if err := os.Chmod(fresh, 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(fresh, dir)
}
