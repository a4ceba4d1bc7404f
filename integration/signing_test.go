package integration

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/cosentry/cosentry/integration/harness"
	"github.com/cosentry/cosentry/integration/sigstore"
)

// signers are a sigstore of the test's own and the real cosign command, which knows no other.
type signers struct {
	t        testing.TB
	cosign   *harness.Cosign
	sigstore *sigstore.Instance
	// trustedRoot is the path of the sigstore's trusted_root.json.
	trustedRoot string
}

// signer is somebody who signs, as the command is told, and as it is told to verify.
type signer struct {
	sign, verify []string
	// public is a key's public half in PEM.
	public string
}

var (
	releaser = sigstore.Identity{Issuer: "https://issuer.test", Email: "releaser@example.test"}
	workflow = sigstore.Identity{
		Issuer: "https://token.actions.githubusercontent.com",
		URI:    "https://github.com/example/app/.github/workflows/release.yaml@refs/tags/v1.0.0",
		Workflow: &sigstore.Workflow{
			Trigger: "push", SHA: strings.Repeat("5a", 20), Name: "release", Repository: "example/app", Ref: "refs/tags/v1.0.0",
		},
	}
)

// newSigners starts a sigstore whose files, and the command's, are in dir.
func newSigners(t testing.TB, tools harness.Tools, dir string) *signers {
	t.Helper()
	instance, err := sigstore.New()
	must(t, err)
	t.Cleanup(instance.Stop)
	env, trustedRoot, err := instance.Environment(filepath.Join(dir, "trust"))
	must(t, err)
	cosign, err := harness.NewCosign(tools, dir, env...)
	must(t, err)
	return &signers{t: t, cosign: cosign, sigstore: instance, trustedRoot: trustedRoot}
}

// do runs the command, which must succeed.
func (s *signers) do(args ...string) string {
	s.t.Helper()
	output, err := s.cosign.Run(s.t.Context(), args...)
	must(s.t, err)
	return output
}

// key has the command generate a key.
func (s *signers) key(name string) signer {
	s.t.Helper()
	s.do("generate-key-pair", "--output-key-prefix", name)
	return s.named(name)
}

func (s *signers) named(name string) signer {
	s.t.Helper()
	public, err := os.ReadFile(filepath.Join(s.cosign.Dir, name+".pub"))
	must(s.t, err)
	return signer{sign: []string{"--key", name + ".key"}, verify: []string{"--key", name + ".pub"}, public: string(public)}
}

// imported has the command import a key that was made elsewhere.
func (s *signers) imported(name string, key crypto.Signer) signer {
	s.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(s.t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	must(s.t, os.WriteFile(filepath.Join(s.cosign.Dir, name+".pem"), text, 0o600))
	s.do("import-key-pair", "--key", name+".pem", "--output-key-prefix", name)
	by := s.named(name)
	if k, ok := key.Public().(*ecdsa.PublicKey); ok && k.Curve == elliptic.P384() {
		by.verify = append(by.verify, "--signature-digest-algorithm", "sha384")
	} else if ok && k.Curve == elliptic.P521() {
		by.verify = append(by.verify, "--signature-digest-algorithm", "sha512")
	}
	return by
}

// keyless signs as who, at this sigstore.
func (s *signers) keyless(who sigstore.Identity) signer {
	s.t.Helper()
	token, err := s.sigstore.Token(who)
	must(s.t, err)
	file := filepath.Join(s.cosign.Dir, rand.Text()+".jwt")
	must(s.t, os.WriteFile(file, []byte(token), 0o600))
	return signer{
		sign:   []string{"--fulcio-url", s.sigstore.Fulcio.URL, "--identity-token", file},
		verify: []string{"--certificate-oidc-issuer", who.Issuer, "--certificate-identity", who.Email + who.URI},
	}
}

// how says what a signature comes with.
type how struct {
	bundle, log, stamp bool
}

func (h how) signFlags(s *signers) []string {
	var flags []string
	if h.bundle {
		flags = append(flags, "--new-bundle-format")
	}
	if h.log {
		flags = append(flags, "--rekor-url", s.sigstore.Rekor.URL)
	} else {
		flags = append(flags, "--tlog-upload=false")
	}
	if h.stamp {
		flags = append(flags, "--timestamp-server-url", s.sigstore.TimestampURL())
	}
	return flags
}

func (h how) verifyFlags(s *signers) []string {
	var flags []string
	if h.bundle {
		flags = append(flags, "--new-bundle-format", "--trusted-root", s.trustedRoot)
	}
	if !h.log {
		flags = append(flags, "--insecure-ignore-tlog=true")
	}
	if h.stamp {
		flags = append(flags, "--use-signed-timestamps")
	}
	return flags
}

// sign has the command sign an image, and then verify it: what the command itself does not
// accept would show nothing.
func (s *signers) sign(image name.Digest, by signer, h how, flags ...string) {
	s.t.Helper()
	s.do(slices.Concat([]string{"sign"}, by.sign, h.signFlags(s), flags, []string{image.String()})...)
	s.do(slices.Concat([]string{"verify"}, by.verify, h.verifyFlags(s), []string{image.String()})...)
}

// attest has the command attest to an image, and then verify it.
func (s *signers) attest(image name.Digest, by signer, h how, predicateType, predicate string) {
	s.t.Helper()
	file := filepath.Join(s.cosign.Dir, "predicate.json")
	must(s.t, os.WriteFile(file, []byte(predicate), 0o600))
	kind := []string{"--type", predicateType}
	s.do(slices.Concat([]string{"attest", "--predicate", file}, kind, by.sign, h.signFlags(s), []string{image.String()})...)
	s.do(slices.Concat([]string{"verify-attestation"}, kind, by.verify, h.verifyFlags(s), []string{image.String()})...)
}

func mustKey[K crypto.Signer](t testing.TB, key K, err error) crypto.Signer {
	t.Helper()
	must(t, err)
	return key
}

// otherKeys are keys of every kind that the command can import, beside the one it generates.
func otherKeys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	keys := map[string]crypto.Signer{}
	for kind, curve := range map[string]elliptic.Curve{"ecdsa-p384": elliptic.P384(), "ecdsa-p521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		keys[kind] = mustKey(t, key, err)
	}
	for kind, bits := range map[string]int{"rsa-2048": 2048, "rsa-4096": 4096} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		keys[kind] = mustKey(t, key, err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	keys["ed25519"] = mustKey(t, key, err)
	return keys
}
