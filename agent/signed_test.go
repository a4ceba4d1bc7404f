package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	layers "github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// signedImage is an image in a registry of its own, signed by one key in the classic form.
type signedImage struct {
	server        *httptest.Server
	image, digest string
	publicKey     string // PEM
}

func newSigned(t *testing.T) *signedImage {
	t.Helper()
	s := &signedImage{server: httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))}
	t.Cleanup(s.server.Close)
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	s.image, s.digest = strings.TrimPrefix(s.server.URL, "http://")+"/app:1", h.String()
	s.push(t, s.image, img)

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	s.publicKey = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"app"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, s.digest)
	hash := sha256.Sum256(payload)
	sig, err := ecdsa.SignASN1(rand.Reader, key, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	signature, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{
		Layer:       layers.NewLayer(payload, "application/vnd.dev.cosign.simplesigning.v1+json"),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig)},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.push(t, strings.TrimSuffix(s.image, ":1")+":sha256-"+h.Hex+".sig", signature)
	return s
}

func (s *signedImage) push(t *testing.T, to string, img v1.Image) {
	t.Helper()
	ref, err := name.ParseReference(to)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
}

// policy demands the signature of every image of the registry.
func (s *signedImage) policy(name, publicKey string) string {
	return "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: " + name + "}\n" +
		"spec:\n  images: [{glob: \"127.0.0.1:*/**\"}]\n  authorities:\n  - name: release-key\n    key:\n      data: |\n        " +
		strings.ReplaceAll(strings.TrimSpace(publicKey), "\n", "\n        ") + "\n"
}
