package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"sync"
	"testing"
)

// testKeys makes each kind of key once: RSA keys take a while.
var testKeys = sync.OnceValue(func() map[string]crypto.Signer {
	keys := map[string]crypto.Signer{}
	for name, c := range map[string]elliptic.Curve{
		"P-224": elliptic.P224(), "P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521(), "other P-256": elliptic.P256(),
	} {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			panic(err)
		}
		keys[name] = k
	}
	for name, bits := range map[string]int{"RSA 1024": 1024, "RSA 2048": 2048, "RSA 3072": 3072, "RSA 4096": 4096} {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			panic(err)
		}
		keys[name] = k
	}
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	keys["Ed25519"] = k
	return keys
})

// publicPEM is the PUBLIC KEY block of one of testKeys.
func publicPEM(t testing.TB, name string) string {
	t.Helper()
	k, ok := testKeys()[name]
	if !ok {
		t.Fatalf("no test key %q", name)
	}
	return pemOf(t, k.Public())
}

func pemOf(t testing.TB, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// block indents text as the body of a YAML block scalar.
func block(text string, indent int) string {
	pad := strings.Repeat(" ", indent)
	return "|\n" + pad + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+pad)
}

// keyPolicy is a document as people write it: one glob, one key.
func keyPolicy(t testing.TB, name, glob, key string) string {
	return `apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata:
  name: ` + name + `
spec:
  images:
  - glob: "` + glob + `"
  authorities:
  - name: release-key
    key:
      data: ` + block(publicPEM(t, key), 8) + "\n"
}

// doc puts spec's lines into an otherwise sound document; the spec begins in line 6.
func doc(spec string) string {
	return "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata:\n  name: p\nspec:\n  " +
		strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n  ") + "\n"
}

const staticPass = "authorities: [{static: {action: pass}}]"

func mustParse(t testing.TB, data string) []*Policy {
	t.Helper()
	parsed, err := Parse("test.yaml", []byte(data))
	if err != nil {
		t.Fatalf("Parse: %v\n%s", err, data)
	}
	return parsed.Policies
}

func setOf(policies ...*Policy) (*Set, error) { return NewSet(Documents{Policies: policies}) }

func mustSet(t testing.TB, data ...string) *Set {
	t.Helper()
	var all []*Policy
	for _, d := range data {
		all = append(all, mustParse(t, d)...)
	}
	s, err := setOf(all...)
	if err != nil {
		t.Fatalf("NewSet: %v", err)
	}
	return s
}

// faultsOf parses what must not parse.
func faultsOf(t testing.TB, data string) Errors {
	t.Helper()
	parsed, err := Parse("test.yaml", []byte(data))
	policies := parsed.Policies
	if err == nil {
		t.Fatalf("accepted:\n%s", data)
	}
	if len(policies) > 0 {
		t.Errorf("%d policies beside an error", len(policies))
	}
	var faults Errors
	if !errors.As(err, &faults) || len(faults) == 0 {
		t.Fatalf("error is %T, want Errors: %v", err, err)
	}
	return faults
}
