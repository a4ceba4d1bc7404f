package verify

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
)

// vector is what cosign 2.6.5 wrote to a registry for one image and one key:
//
//	openssl genpkey -algorithm … -out k.pem
//	cosign import-key-pair --key k.pem
//	cosign sign --key import-cosign.key --tlog-upload=false [--new-bundle-format] REPO@DIGEST
type vector struct {
	Key, Digest, Payload, Signature string
	Bundle                          json.RawMessage
}

func vectors(t testing.TB) map[string]vector {
	t.Helper()
	files, err := filepath.Glob("sigstore/testdata/cosign-2.6.5/*.json")
	if err != nil || len(files) != 7 {
		t.Fatalf("vectors: %v, %v", files, err)
	}
	all := map[string]vector{}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var v vector
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		all[strings.TrimSuffix(filepath.Base(f), ".json")] = v
	}
	return all
}

func (v vector) classic() evidence.Signature {
	return evidence.Signature{Payload: []byte(v.Payload), Base64Signature: v.Signature}
}

func (v vector) bundle() evidence.Bundle { return evidence.Bundle{Raw: v.Bundle} }

func (v vector) subject() Subject {
	s := appSubject()
	s.Digest = digest.Digest(v.Digest)
	return s
}

func (v vector) evidence(material ...any) *evidence.Evidence {
	ev := found(material...)
	ev.Digest = digest.Digest(v.Digest)
	return ev
}

// What the real cosign signs is accepted, for every kind of key, in both forms, under a policy that
// says nothing but the key. cosign signs with SHA-384 and SHA-512 for the larger curves and
// with Ed25519ph, none of which a plain verifier of the key takes.
func TestWhatCosignSignsIsAccepted(t *testing.T) {
	for kind, vec := range vectors(t) {
		for form, ev := range map[string]*evidence.Evidence{
			"classic": vec.evidence(vec.classic()), "bundle": vec.evidence(vec.bundle()),
		} {
			t.Run(kind+" "+form, func(t *testing.T) {
				v := newVerifier(t, holding(ev), policyDoc("signed", "enforce", keyPEMAuthority("release-key", vec.Key)))
				got := verdictOn(t, v, vec.subject())
				checkDecision(t, got, true, "")
				a, ok := got.Policies[0].Authority()
				if !ok || a.Form != form || !strings.HasPrefix(a.KeyFingerprint, "SHA256:") || a.Found != 1 {
					t.Errorf("authority %+v", a)
				}
			})
		}
	}
}

// The same evidence says nothing for another key of the same kind's holder, nor for another image.
func TestWhatCosignSignsIsForItsKeyAndImageOnly(t *testing.T) {
	all := vectors(t)
	for kind, vec := range all {
		ev := vec.evidence(vec.classic(), vec.bundle())
		for other, o := range all {
			if other == kind {
				continue
			}
			v := newVerifier(t, holding(ev), policyDoc("signed", "enforce", keyPEMAuthority("release-key", o.Key)))
			checkDecision(t, verdictOn(t, v, vec.subject()), false, "2 signatures found, none by this key")
		}
		moved := found(vec.classic(), vec.bundle())
		v := newVerifier(t, holding(moved), policyDoc("signed", "enforce", keyPEMAuthority("release-key", vec.Key)))
		checkDecision(t, verdictOn(t, v, appSubject()), false, "2 signatures found, 2 by this key but for another image")
	}
}

// A policy that names a hash other than the default means that one alone.
func TestAHashThatThePolicyNamesIsTheOnlyOne(t *testing.T) {
	for _, c := range []struct {
		kind, hash string
		allowed    bool
	}{
		{"ecdsa-p256", "sha256", true}, {"ecdsa-p256", "sha384", false}, {"ecdsa-p256", "sha512", false},
		{"ecdsa-p384", "sha384", true}, {"ecdsa-p384", "sha512", false},
		{"ecdsa-p521", "sha512", true}, {"ecdsa-p521", "sha384", false},
		{"rsa-2048", "sha256", true}, {"rsa-2048", "sha512", false},
		{"ed25519", "sha512", true}, {"ed25519", "sha256", true},
	} {
		vec := vectors(t)[c.kind]
		for _, ev := range []*evidence.Evidence{vec.evidence(vec.classic()), vec.evidence(vec.bundle())} {
			v := newVerifier(t, holding(ev), policyDoc("signed", "enforce", keyPEMAuthority("k", vec.Key, "key.hashAlgorithm: "+c.hash)))
			if got := verdictOn(t, v, vec.subject()); got.Allowed != c.allowed {
				t.Errorf("%s with %s: allowed is %v", c.kind, c.hash, got.Allowed)
			}
		}
	}
}
