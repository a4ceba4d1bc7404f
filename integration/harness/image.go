package harness

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Images builds images from the machine's static busybox.
type Images struct {
	busybox, pause v1.Layer
}

// NewImages makes the layers that all images share.
func NewImages(tools Tools) (*Images, error) {
	busybox, err := busyboxLayer(tools.Path("busybox"))
	if err != nil {
		return nil, fmt.Errorf("making the busybox layer: %w", err)
	}
	data, err := os.ReadFile(tools.Path("pause"))
	if err != nil {
		return nil, fmt.Errorf("making the pause layer: %w", err)
	}
	pause, err := layer(func(w *tar.Writer) error { return addFile(w, "pause", 0o755, data) })
	if err != nil {
		return nil, fmt.Errorf("making the pause layer: %w", err)
	}
	return &Images{busybox: busybox, pause: pause}, nil
}

// Pause is the sandbox's image.
func (i *Images) Pause() (v1.Image, error) {
	return build(v1.Config{Entrypoint: []string{"/pause"}}, runtime.GOARCH, i.pause)
}

// Saying is a busybox image whose file /words holds words and whose command
// prints them: what runs shows by what it prints which bytes it came from.
func (i *Images) Saying(words string) (v1.Image, error) { return i.saying(words, runtime.GOARCH) }

// MultiArch is an index of two images, of which one is for this machine.
func (i *Images) MultiArch(words string) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	other := map[string]string{"amd64": "arm64"}[runtime.GOARCH]
	if other == "" {
		other = "amd64"
	}
	for _, arch := range []string{other, runtime.GOARCH} {
		img, err := i.saying(words, arch)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return index, nil
}

// Changed is an image of one layer with one file, as cosentry's own is, that has other bytes in that file.
func Changed(img v1.Image, change func([]byte) []byte) (v1.Image, error) {
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading an image to change it: %w", err)
	}
	header, data, err := onlyFile(img)
	if err != nil {
		return nil, fmt.Errorf("reading an image to change it: %w", err)
	}
	own, err := layer(func(w *tar.Writer) error { return addFile(w, header.Name, header.Mode, change(data)) })
	if err != nil {
		return nil, fmt.Errorf("changing an image: %w", err)
	}
	return build(config.Config, config.Architecture, own)
}

func onlyFile(img v1.Image) (*tar.Header, []byte, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, nil, err
	}
	if len(layers) != 1 {
		return nil, nil, fmt.Errorf("it has %d layers and not one", len(layers))
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		return nil, nil, err
	}
	defer content.Close()
	r := tar.NewReader(content)
	header, err := r.Next()
	if err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, nil, err
	}
	if _, err := r.Next(); err != io.EOF {
		return nil, nil, fmt.Errorf("its layer holds more than %s (%v)", header.Name, err)
	}
	return header, data, nil
}

func (i *Images) saying(words, arch string) (v1.Image, error) {
	own, err := layer(func(w *tar.Writer) error { return addFile(w, "words", 0o644, []byte(words+"\n")) })
	if err != nil {
		return nil, fmt.Errorf("making an image that says %q: %w", words, err)
	}
	return build(v1.Config{Cmd: []string{"/bin/cat", "/words"}, Env: []string{"PATH=/bin"}}, arch, i.busybox, own)
}

func build(config v1.Config, arch string, layers ...v1.Layer) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(img, layers...)
	if err != nil {
		return nil, fmt.Errorf("building an image: %w", err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("building an image: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", arch, config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return nil, fmt.Errorf("building an image: %w", err)
	}
	return img, nil
}

// Pushable is an image or an index.
type Pushable interface {
	remote.Taggable
	Digest() (v1.Hash, error)
}

// Push writes what to path, as repository:tag, and returns its name by digest.
func (r *Registry) Push(path string, what Pushable) (name.Digest, error) {
	ref, err := r.Ref(path)
	if err != nil {
		return name.Digest{}, err
	}
	switch t := what.(type) {
	case v1.Image:
		err = remote.Write(ref, t, r.auth())
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, t, r.auth())
	default:
		err = fmt.Errorf("%T is neither image nor index", what)
	}
	if err != nil {
		return name.Digest{}, fmt.Errorf("pushing %s: %w", ref, err)
	}
	digest, err := what.Digest()
	if err != nil {
		return name.Digest{}, fmt.Errorf("pushing %s: %w", ref, err)
	}
	return ref.Context().Digest(digest.String()), nil
}

func (r *Registry) auth() remote.Option {
	if r.Username == "" {
		return remote.WithAuth(authn.Anonymous)
	}
	return remote.WithAuth(&authn.Basic{Username: r.Username, Password: r.Password})
}

func busyboxLayer(path string) (v1.Layer, error) {
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("listing applets: %w", err)
	}
	return layer(func(w *tar.Writer) error {
		if err := addFile(w, "bin/busybox", 0o755, binary); err != nil {
			return err
		}
		for _, applet := range strings.Fields(string(list)) {
			if applet == "busybox" {
				continue
			}
			header := &tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", ModTime: time.Unix(0, 0)}
			if err := w.WriteHeader(header); err != nil {
				return err
			}
		}
		return nil
	})
}

func layer(fill func(*tar.Writer) error) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := fill(w); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}

func addFile(w *tar.Writer, name string, mode int64, data []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), ModTime: time.Unix(0, 0)}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}
