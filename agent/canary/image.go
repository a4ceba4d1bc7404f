package canary

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image is a canary as a registry has it.
type image struct {
	name string // 32 hex digits
	// manifest is what digest is of. blobs has the config and the layer by their digests.
	digest   string
	manifest []byte
	blobs    map[string][]byte
	layer    string // the digest of the one
}

// newImage makes an image that never was before: one small random file, for this machine's platform, without
// anything to run.
func newImage() (*image, error) {
	random := make([]byte, 16)
	rand.Read(random)
	i := &image{name: hex.EncodeToString(random), blobs: map[string][]byte{}}
	var files bytes.Buffer
	t := tar.NewWriter(&files)
	if err := t.WriteHeader(&tar.Header{Name: "canary", Mode: 0o444, Size: int64(len(i.name))}); err != nil {
		return nil, err
	}
	if _, err := t.Write([]byte(i.name)); err != nil {
		return nil, err
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	layer := static.NewLayer(files.Bytes(), types.OCIUncompressedLayer)
	img, err := mutate.AppendLayers(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), layer)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Labels = map[string]string{"org.opencontainers.image.title": "a canary of cosentry: nobody signed it, and nothing in it runs"}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, err
	}
	return i, i.take(img, layer, files.Bytes())
}

// take keeps the bytes of img as a registry gives them.
func (i *image) take(img v1.Image, layer v1.Layer, files []byte) error {
	raw, err := img.RawManifest()
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	configDigest, err := img.ConfigName()
	if err != nil {
		return err
	}
	layerDigest, err := layer.Digest()
	if err != nil {
		return fmt.Errorf("hashing the layer: %w", err)
	}
	i.manifest, i.digest, i.layer = raw, digest.String(), layerDigest.String()
	i.blobs[configDigest.String()], i.blobs[i.layer] = config, files
	return nil
}
