package verify

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	cosignbundle "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
)

const (
	testRepository = "registry.example/team/app"
	testImage      = testRepository + ":1"
)

var (
	appDigest   = digest.FromString("the image in question")
	otherDigest = digest.FromString("another image")
)

// keyMakers make each kind of key once, when it is first asked for: RSA keys take a while.
var keyMakers = map[string]func() crypto.Signer{
	"P-256": onCurve(elliptic.P256()), "other P-256": onCurve(elliptic.P256()), "third P-256": onCurve(elliptic.P256()),
	"P-384": onCurve(elliptic.P384()), "P-521": onCurve(elliptic.P521()),
	"RSA 2048": ofBits(2048), "RSA 3072": ofBits(3072), "RSA 4096": ofBits(4096),
	"Ed25519": sync.OnceValue(func() crypto.Signer {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return must(crypto.Signer(k), err)
	}),
}

func onCurve(c elliptic.Curve) func() crypto.Signer {
	return sync.OnceValue(func() crypto.Signer { return must(ecdsa.GenerateKey(c, rand.Reader)) })
}

func ofBits(n int) func() crypto.Signer {
	return sync.OnceValue(func() crypto.Signer { return must(rsa.GenerateKey(rand.Reader, n)) })
}

// must is for what fails only where the test itself is wrong.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func keyOfKind(kind string) crypto.Signer { return keyMakers[kind]() }

func publicPEM(k crypto.Signer) string {
	der := must(x509.MarshalPKIXPublicKey(k.Public()))
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// signer signs as a holder of the key does: with SHA-256 where nothing else is said.
func signer(k crypto.Signer, hash crypto.Hash) signature.Signer {
	return must(signature.LoadSigner(k, hash))
}

func sha256Signer(kind string) signature.Signer { return signer(keyOfKind(kind), crypto.SHA256) }

// simplePayload is the payload that cosign signs for a digest.
func simplePayload(d digest.Digest) []byte {
	ref := must(name.NewDigest(testRepository + "@" + d.String()))
	return must(payload.Cosign{Image: ref}.MarshalJSON())
}

// signed is a signature of the classic form over any payload.
func signed(s signature.Signer, raw []byte) evidence.Signature {
	sig := base64.StdEncoding.EncodeToString(must(s.SignMessage(bytes.NewReader(raw))))
	return evidence.Signature{
		Payload:         raw,
		Base64Signature: sig,
		Annotations:     map[string]string{"dev.cosignproject.cosign/signature": sig},
		Source:          digest.FromBytes(raw),
	}
}

func classicFor(kind string, d digest.Digest) evidence.Signature {
	return signed(sha256Signer(kind), simplePayload(d))
}

// statement is an in-toto statement about d, as cosign writes it.
func statement(d digest.Digest, predicateType string) []byte {
	return must(json.Marshal(map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{map[string]any{"digest": map[string]string{"sha256": d.Encoded()}}},
		"predicateType": predicateType,
	}))
}

// bundleOf wraps and signs a statement by cosign's own code. by is the PEM of the
// key or certificate that the bundle names.
func bundleOf(s signature.Signer, raw []byte, by string) evidence.Bundle {
	envelope := must(dsse.WrapSigner(s, types.IntotoPayloadType).SignMessage(bytes.NewReader(raw)))
	b := must(cosignbundle.MakeNewBundle(must(s.PublicKey()), nil, raw, envelope, []byte(by), nil))
	return evidence.Bundle{Raw: b, Source: digest.FromBytes(b)}
}

func bundleFor(kind string, d digest.Digest) evidence.Bundle {
	return bundleOf(sha256Signer(kind), statement(d, types.CosignSignPredicateType), publicPEM(keyOfKind(kind)))
}

// edited is a bundle with its JSON changed.
func edited(b evidence.Bundle, edit func(m map[string]any)) evidence.Bundle {
	var m map[string]any
	if err := json.Unmarshal(b.Raw, &m); err != nil {
		panic(err)
	}
	edit(m)
	raw := must(json.Marshal(m))
	return evidence.Bundle{Raw: raw, Source: digest.FromBytes(raw)}
}

// found is evidence about appDigest, of signatures and bundles.
func found(material ...any) *evidence.Evidence {
	ev := &evidence.Evidence{Repository: testRepository, Digest: appDigest}
	for _, m := range material {
		switch m := m.(type) {
		case evidence.Signature:
			ev.Signatures = append(ev.Signatures, m)
		case evidence.Bundle:
			ev.Bundles = append(ev.Bundles, m)
		case error:
			ev.Incomplete = m
		default:
			panic(fmt.Sprintf("no evidence: %T", m))
		}
	}
	return ev
}

// source is a Source in memory that counts what it is asked.
type source struct {
	calls atomic.Int64
	fetch func(ctx context.Context, repository string, d digest.Digest, c evidence.Credentials) (*evidence.Evidence, error)
}

func (s *source) Fetch(ctx context.Context, q evidence.Question) (*evidence.Evidence, error) {
	s.calls.Add(1)
	var c evidence.Credentials
	if len(q.Credentials) > 0 {
		c = q.Credentials[0]
	}
	return s.fetch(ctx, q.Repository, q.Digest, c)
}

// holding is a source that has ev, whatever digest it is asked for.
func holding(ev *evidence.Evidence) *source {
	return &source{fetch: func(context.Context, string, digest.Digest, evidence.Credentials) (*evidence.Evidence, error) {
		return ev, nil
	}}
}

func failing(err error) *source {
	return &source{fetch: func(context.Context, string, digest.Digest, evidence.Credentials) (*evidence.Evidence, error) {
		return nil, err
	}}
}

// keyAuthority is the YAML of an authority with the public keys of the kinds; extra are fields
// of the authority ("signatureFormat: legacy") or, with "key." before them, of its key.
func keyAuthority(authority string, kinds []string, extra ...string) string {
	var keys strings.Builder
	for _, kind := range kinds {
		keys.WriteString(publicPEM(keyOfKind(kind)))
	}
	return keyPEMAuthority(authority, keys.String(), extra...)
}

func keyPEMAuthority(authority, keys string, extra ...string) string {
	y := "  - name: " + authority + "\n"
	inKey := ""
	for _, e := range extra {
		if field, ok := strings.CutPrefix(e, "key."); ok {
			inKey += "      " + field + "\n"
		} else {
			y += "    " + e + "\n"
		}
	}
	return y + "    key:\n" + inKey + "      data: |\n        " + strings.ReplaceAll(strings.TrimSpace(keys), "\n", "\n        ") + "\n"
}

func staticAuthority(action, message string) string {
	return fmt.Sprintf("  - static: {action: %s, message: %q}\n", action, message)
}

// policyDoc is a ClusterImagePolicy for every image of registry.example, in mode enforce or warn.
func policyDoc(policyName, mode string, authorities ...string) string {
	return policyFor("registry.example/**", policyName, mode, authorities...)
}

func policyFor(glob, policyName, mode string, authorities ...string) string {
	return "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: " + policyName + "}\n" +
		"spec:\n  mode: " + mode + "\n  images: [{glob: \"" + glob + "\"}]\n  authorities:\n" + strings.Join(authorities, "")
}

// byKey is the common policy: one key, enforced.
func byKey(kind string) string {
	return policyDoc("signed", "enforce", keyAuthority("release-key", []string{kind}))
}

func setOf(t testing.TB, docs ...string) *policy.Set {
	t.Helper()
	var all []policy.Documents
	for i, d := range docs {
		ps, err := policy.Parse(fmt.Sprintf("doc-%d.yaml", i), []byte(d))
		if err != nil {
			t.Fatalf("policy: %v\n%s", err, d)
		}
		all = append(all, ps)
	}
	set, err := policy.NewSet(all...)
	if err != nil {
		t.Fatalf("policy set: %v", err)
	}
	return set
}

// judgementOn is one of appSubject with what was found beside it.
func judgementOn(ev *evidence.Evidence) *judgement {
	return &judgement{subject: appSubject(), now: time.Now(), found: gathered{place{repository: testRepository}: ev}}
}

func testOptions(s Source) Options {
	return Options{Source: s, NoMatch: NoMatchDeny, CacheSize: 64, AllowTTL: time.Hour, DenyTTL: 30 * time.Second, FetchTimeout: time.Minute}
}

func newVerifier(t testing.TB, s Source, docs ...string) *Verifier {
	t.Helper()
	return newVerifierWith(t, testOptions(s), docs...)
}

func newVerifierWith(t testing.TB, o Options, docs ...string) *Verifier {
	t.Helper()
	v, err := New(o)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	v.SetPolicies(setOf(t, docs...), nil)
	return v
}

func appSubject() Subject {
	return Subject{Image: testImage, Repository: testRepository, Digest: appDigest}
}

func verdictOn(t testing.TB, v *Verifier, s Subject) Verdict {
	t.Helper()
	got, err := v.Verify(t.Context(), s)
	if err != nil {
		t.Fatalf("Verify: %v", err)
	}
	return got
}

// reasons joins what the policies say, for tests of the words.
func reasons(v Verdict) string {
	var all []string
	for _, p := range v.Policies {
		all = append(all, p.Reason)
	}
	return strings.Join(all, " | ")
}

func checkDecision(t testing.TB, v Verdict, allowed bool, words string) {
	t.Helper()
	if v.Allowed != allowed {
		t.Errorf("allowed is %v, want %v: %s", v.Allowed, allowed, reasons(v))
	}
	if !strings.Contains(reasons(v), words) {
		t.Errorf("reason %q does not contain %q", reasons(v), words)
	}
}
