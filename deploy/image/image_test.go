package main

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// program is the smallest ELF file with one program header of the given type.
func program(kind uint32) []byte {
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[16:], 2)  // executable
	le.PutUint16(b[18:], 62) // x86-64
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[32:], 64) // program headers
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	le.PutUint16(b[58:], 64)
	le.PutUint32(b[64:], kind)
	return b
}

const (
	loaded  = 1 // PT_LOAD
	dynamic = 2 // PT_DYNAMIC
	interp  = 3 // PT_INTERP
)

func sample() (about, []build) {
	return about{repository: "registry.example/cosentry", version: "v1.2.3", revision: "abc", created: time.Unix(1700000000, 0).UTC()},
		[]build{
			{platform: v1.Platform{OS: "linux", Architecture: "amd64"}, data: program(loaded)},
			{platform: v1.Platform{OS: "linux", Architecture: "arm64"}, data: program(loaded)},
		}
}

// TestReproducible: the same program is the same image, whenever and wherever it is made, and what it was in the folder
// before is gone.
func TestReproducible(t *testing.T) {
	var digests []v1.Hash
	for range 2 {
		dir := filepath.Join(t.TempDir(), "image")
		if err := os.MkdirAll(filepath.Join(dir, "old"), 0o755); err != nil {
			t.Fatal(err)
		}
		a, programs := sample()
		idx, err := index(a, programs)
		if err != nil {
			t.Fatal(err)
		}
		if err := write(dir, a, idx); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "old")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what was there is still there (%v)", err)
		}
		read, err := layout.ImageIndexFromPath(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(read); err != nil {
			t.Error(err)
		}
		m, err := read.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Manifests) != 1 || m.Manifests[0].Annotations["io.containerd.image.name"] != "registry.example/cosentry:v1.2.3" {
			t.Fatalf("the layout holds %+v", m.Manifests)
		}
		digests = append(digests, m.Manifests[0].Digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("%s, then %s", digests[0], digests[1])
	}
}

// TestContent: one file and nothing else, run by nobody, for each platform.
func TestContent(t *testing.T) {
	a, programs := sample()
	idx, err := index(a, programs)
	if err != nil {
		t.Fatal(err)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, d := range m.Manifests {
		platforms = append(platforms, d.Platform.String())
		img, err := idx.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		c, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if c.OS+"/"+c.Architecture != d.Platform.String() {
			t.Errorf("the config of %s is for %s/%s", d.Platform, c.OS, c.Architecture)
		}
		if c.Config.User != "65532:65532" || c.Config.Labels["org.opencontainers.image.revision"] != "abc" {
			t.Errorf("user %q, labels %v", c.Config.User, c.Config.Labels)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%d layers (%v)", len(layers), err)
		}
		content, err := layers[0].Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		r := tar.NewReader(content)
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(data, program(loaded)) {
			t.Errorf("not the program (%v)", err)
		}
		if h.Name != "cosentry" || h.Mode != 0o755 || h.Uid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s, mode %o, of user %d, %s", h.Name, h.Mode, h.Uid, h.ModTime)
		}
		if h, err = r.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("there is another file: %v (%v)", h, err)
		}
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, platforms); diff != "" {
		t.Error(diff)
	}
}

// TestStatic: a program that needs what the image has not got would be refused by the kernel on the node, where nobody
// sees it.
func TestStatic(t *testing.T) {
	for _, kind := range []uint32{dynamic, interp} {
		if err := static(program(kind)); err == nil {
			t.Errorf("a program with header %d was taken", kind)
		}
	}
	if err := static([]byte("#!/bin/sh\n")); err == nil {
		t.Error("a script was taken")
	}
	if _, err := index(about{}, nil); err == nil {
		t.Error("an image for no platform was made")
	}
}
