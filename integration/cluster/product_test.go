package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/cosentry/cosentry/integration/harness"
)

// product is cosentry's own image as an owner has it: in his registry, by digest, signed by a key of its own.
type product struct {
	image name.Digest
	// public is the key's public half.
	public string
}

// publish pushes the image that `make image` wrote and signs it with the cosign command.
func (s *stage) publish(t *testing.T) product {
	t.Helper()
	const written = "../../bin/image"
	index, err := layout.ImageIndexFromPath(written)
	if err != nil {
		t.Fatalf("reading cosentry's image, run `make image`: %v", err)
	}
	digest, err := s.registry.Push("cosentry:test", index)
	must(t, err)
	signer, err := harness.NewCosign(s.tools, filepath.Join(s.dir, "signer"))
	must(t, err)
	_, err = signer.Run(t.Context(), "generate-key-pair")
	must(t, err)
	_, err = signer.Run(t.Context(), "sign", "--key", "cosign.key", "--tlog-upload=false", digest.String())
	must(t, err)
	public, err := os.ReadFile(filepath.Join(signer.Dir, "cosign.pub"))
	must(t, err)
	return product{image: digest, public: string(public)}
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
