package cluster

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/cosentry/cosentry/integration/harness"
)

// product is cosentry's own image as an owner has it: in his registry, by digest, signed by a key of its own.
type product struct {
	image name.Digest
	// signer has the key, and public is its public half.
	signer *harness.Cosign
	public string
}

// written is what `make image` wrote.
func written(t *testing.T) v1.ImageIndex {
	t.Helper()
	all, err := layout.ImageIndexFromPath("../../bin/image")
	if err != nil {
		t.Fatalf("reading cosentry's image, run `make image`: %v", err)
	}
	manifest, err := all.IndexManifest()
	must(t, err)
	index, err := all.ImageIndex(manifest.Manifests[0].Digest) // the folder holds this image and no other
	must(t, err)
	return index
}

// publish pushes the image that `make image` wrote and signs it with the cosign command.
func (s *stage) publish(t *testing.T) product {
	t.Helper()
	signer, err := harness.NewCosign(s.tools, filepath.Join(s.dir, "signer"))
	must(t, err)
	_, err = signer.Run(t.Context(), "generate-key-pair")
	must(t, err)
	public, err := os.ReadFile(filepath.Join(signer.Dir, "cosign.pub"))
	must(t, err)
	return s.signed(t, product{signer: signer, public: string(public)}, "test", written(t))
}

// signed is p with another image, pushed and signed as the one before.
func (s *stage) signed(t *testing.T, p product, tag string, image harness.Pushable) product {
	t.Helper()
	var err error
	p.image, err = s.registry.Push("cosentry:"+tag, image)
	must(t, err)
	_, err = p.signer.Run(t.Context(), "sign", "--key", "cosign.key", "--tlog-upload=false", p.image.String())
	must(t, err)
	return p
}

// change makes the product another, whose program for this machine is changed, and returns the program's hash.
func (s *stage) change(t *testing.T, tag string, how func(program []byte) []byte) (sum string) {
	t.Helper()
	index := written(t)
	manifest, err := index.IndexManifest()
	must(t, err)
	for _, m := range manifest.Manifests {
		if m.Platform.Architecture != runtime.GOARCH {
			continue
		}
		one, err := index.Image(m.Digest)
		must(t, err)
		other, err := harness.Changed(one, func(program []byte) []byte {
			program = how(program)
			sum = fmt.Sprintf("%x", sha256.Sum256(program))
			return program
		})
		must(t, err)
		s.product = s.signed(t, s.product, tag, other)
		return sum
	}
	t.Fatalf("cosentry's image is not for %s", runtime.GOARCH)
	return ""
}

// floor are the node's own policies: cosentry's image by its key, the sandbox's by its digest alone, everything else in
// the registry's apps by the release key. What none of them is about is refused.
func (s *stage) floor() map[string]string {
	return map[string]string{
		"cosentry.yaml": harness.KeyPolicy("cosentry", s.product.image.Repository.Name()+"*", s.product.public),
		"floor.yaml":    harness.KeyPolicy("floor", s.registry.Addr+"/apps/**", s.release.PublicPEM),
		"pause.yaml": fmt.Sprintf(`apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata: {name: pause}
spec:
  images: [{glob: %q}]
  authorities: [{static: {action: pass}}]
`, s.image("pause*")),
	}
}
