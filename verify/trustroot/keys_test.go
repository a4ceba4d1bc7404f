package trustroot

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/cosentry/cosentry/verify/policy"
)

func TestFromKeysTrustsWhatTheDocumentNames(t *testing.T) {
	s := newSigstore(t)
	got, err := FromKeys(keysOf(t, s))
	r := accepted(t, got, err)
	leaf, _, err := s.GenerateLeafCert("somebody@example.com", "https://issuer.test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.FulcioCertificateAuthorities()[0].Verify(leaf, leaf.NotBefore.Add(time.Second)); err != nil {
		t.Errorf("a certificate of the authority: %v", err)
	}
	stranger, _, err := newSigstore(t).GenerateLeafCert("somebody@example.com", "https://issuer.test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.FulcioCertificateAuthorities()[0].Verify(stranger, stranger.NotBefore.Add(time.Second)); err == nil {
		t.Error("another authority's certificate is accepted")
	}
	// A log's ID is the hash of its key, as in the entries it signs.
	if diff := cmp.Diff(slices.Sorted(maps.Keys(s.RekorLogs())), slices.Sorted(maps.Keys(r.RekorLogs()))); diff != "" {
		t.Errorf("Rekor's log IDs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(s.CTLogs())), slices.Sorted(maps.Keys(r.CTLogs()))); diff != "" {
		t.Errorf("certificate transparency log IDs (-want +got):\n%s", diff)
	}
	stamp, err := s.TimestampResponse([]byte("signature"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.TimestampingAuthorities()[0].Verify(stamp, []byte("signature")); err != nil {
		t.Errorf("a timestamp: %v", err)
	}
	if !r.Expires.IsZero() {
		t.Errorf("keys written out expire at %v", r.Expires)
	}
}

func TestFromKeysTakesAChainInAnyOrder(t *testing.T) {
	s := newSigstore(t)
	keys := keysOf(t, s)
	fulcio := s.FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority)
	keys.CertificateAuthorities[0].CertChain = pemOf(append([]*x509.Certificate{fulcio.Root}, fulcio.Intermediates...)...)
	got, err := FromKeys(keys)
	r := accepted(t, got, err)
	ca := r.FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority)
	if !ca.Root.Equal(fulcio.Root) || len(ca.Intermediates) != len(fulcio.Intermediates) {
		t.Errorf("root %v with %d intermediates", ca.Root.Subject, len(ca.Intermediates))
	}
}

func TestFromKeysTakesAnIntermediateAsAnchorIfThereIsNoRoot(t *testing.T) {
	s := newSigstore(t)
	keys := keysOf(t, s)
	fulcio := s.FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority)
	keys.CertificateAuthorities[0].CertChain = pemOf(fulcio.Intermediates...)
	got, err := FromKeys(keys)
	ca := accepted(t, got, err).FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority)
	if !ca.Root.Equal(fulcio.Intermediates[len(fulcio.Intermediates)-1]) {
		t.Errorf("the anchor is %v", ca.Root.Subject)
	}
}

func TestFromKeysKeepsAChainsTimes(t *testing.T) {
	s := newSigstore(t)
	keys := keysOf(t, s)
	until := time.Now().Add(-time.Hour)
	keys.CertificateAuthorities[0].ValidUntil = until
	got, err := FromKeys(keys)
	r := accepted(t, got, err)
	leaf, _, err := s.GenerateLeafCert("somebody@example.com", "https://issuer.test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.FulcioCertificateAuthorities()[0].Verify(leaf, time.Now()); err == nil {
		t.Error("a certificate is accepted after its authority's time")
	}
	if !r.Ends.Equal(until) {
		t.Errorf("ends %v, want %v", r.Ends, until)
	}
}

func TestFromKeysTakesLogsOfEveryKind(t *testing.T) {
	for name, key := range map[string]crypto.PublicKey{
		"ECDSA P-256": ecKey(t, elliptic.P256()), "ECDSA P-384": ecKey(t, elliptic.P384()), "ECDSA P-521": ecKey(t, elliptic.P521()),
		"RSA 2048": rsaKey(t, 2048), "Ed25519": edKey(t),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := FromKeys(&policy.SigstoreKeys{TLogs: []policy.LogInstance{{BaseURL: "https://rekor.test", PublicKey: keyPEM(t, key)}}})
			logs := accepted(t, got, err).RekorLogs()
			der, err := x509.MarshalPKIXPublicKey(key)
			if err != nil {
				t.Fatal(err)
			}
			l := logs[hexOf(der)]
			if l == nil || l.BaseURL != "https://rekor.test" || l.HashFunc != crypto.SHA256 {
				t.Fatalf("logs %v", logs)
			}
			if !l.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(key) {
				t.Error("another key")
			}
		})
	}
}

func TestFromKeysRefusesWhatNobodyCouldMean(t *testing.T) {
	s := newSigstore(t)
	leaf, private, err := s.GenerateLeafCert("somebody@example.com", "https://issuer.test")
	if err != nil {
		t.Fatal(err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	good := func() *policy.SigstoreKeys { return keysOf(t, s) }
	tsa := s.TimestampingAuthorities()[0].(*root.SigstoreTimestampingAuthority)
	for _, c := range []struct {
		name   string
		change func(*policy.SigstoreKeys)
		why    string
	}{
		{"nothing at all", func(k *policy.SigstoreKeys) { *k = policy.SigstoreKeys{} }, "there are no keys"},
		{"no chain", func(k *policy.SigstoreKeys) { k.CertificateAuthorities[0].CertChain = nil }, "certificateAuthorities[0]: there is no certificate"},
		{"a key for a chain", func(k *policy.SigstoreKeys) { k.CertificateAuthorities[0].CertChain = k.TLogs[0].PublicKey }, "is no certificate"},
		{"prose before the chain", func(k *policy.SigstoreKeys) {
			k.CertificateAuthorities[0].CertChain = append([]byte("root:\n"), k.CertificateAuthorities[0].CertChain...)
		}, "not part of a PEM block"},
		{"a damaged block in the chain", func(k *policy.SigstoreKeys) {
			chain := k.CertificateAuthorities[0].CertChain
			k.CertificateAuthorities[0].CertChain = bytes.Replace(chain, []byte("-----END CERTIFICATE-----"), []byte("-----END CERTIFICATES----"), 1)
		}, "damaged"},
		{"a certificate of nonsense", func(k *policy.SigstoreKeys) {
			k.CertificateAuthorities[0].CertChain = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("\x1b[31m")})
		}, "is no certificate"},
		{"somebody's certificate as an authority", func(k *policy.SigstoreKeys) { k.CertificateAuthorities[0].CertChain = pemOf(leaf) }, "not that of an authority"},
		{"a timestamp authority without authority", func(k *policy.SigstoreKeys) { k.TimestampAuthorities[0].CertChain = pemOf(tsa.Leaf) }, "timestampAuthorities[0]: there is no root certificate"},
		{"two timestamp certificates", func(k *policy.SigstoreKeys) {
			k.TimestampAuthorities[0].CertChain = append(pemOf(tsa.Leaf), k.TimestampAuthorities[0].CertChain...)
		}, "more than one timestamping certificate"},
		{"a chain without end", func(k *policy.SigstoreKeys) {
			k.CertificateAuthorities[0].CertChain = bytes.Repeat(k.CertificateAuthorities[0].CertChain, 200)
		}, "certificates of a trust root"},
		{"authorities without end", func(k *policy.SigstoreKeys) {
			k.CertificateAuthorities = slices.Repeat(k.CertificateAuthorities, 200)
		}, "certificates of a trust root"},
		{"a private key", func(k *policy.SigstoreKeys) {
			k.TLogs[0].PublicKey = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER})
		}, "tLogs[0].publicKey: not a public key"},
		{"two keys of one log", func(k *policy.SigstoreKeys) {
			k.TLogs[0].PublicKey = bytes.Repeat(k.TLogs[0].PublicKey, 2)
		}, "more than one PEM block"},
		{"no key", func(k *policy.SigstoreKeys) { k.CTLogs[0].PublicKey = nil }, "ctLogs[0].publicKey"},
		{"a weak curve", func(k *policy.SigstoreKeys) { k.TLogs[0].PublicKey = keyPEM(t, ecKey(t, elliptic.P224())) }, "P-224"},
		{"a short RSA key", func(k *policy.SigstoreKeys) { k.TLogs[0].PublicKey = keyPEM(t, shortRSA()) }, "1024 bits"},
		{"an RSA key with which everybody signs", func(k *policy.SigstoreKeys) {
			key := *rsaKey(t, 2048)
			key.E = 1
			k.TLogs[0].PublicKey = keyPEM(t, &key)
		}, "publicKey"},
		{"a log that hashes with sha512", func(k *policy.SigstoreKeys) { k.TLogs[0].HashAlgorithm = "sha512" }, "tLogs[0].hashAlgorithm"},
		{"a hash nobody knows", func(k *policy.SigstoreKeys) { k.CTLogs[0].HashAlgorithm = "\x1bmd5" }, "ctLogs[0].hashAlgorithm"},
	} {
		t.Run(c.name, func(t *testing.T) {
			keys := good()
			c.change(keys)
			r, err := FromKeys(keys)
			refused(t, r, err, c.why)
		})
	}
	r, err := FromKeys(nil)
	refused(t, r, err, "there are no keys")
}

func TestFromKeysRevisionFollowsTheContent(t *testing.T) {
	s := newSigstore(t)
	revision := func(change func(*policy.SigstoreKeys)) string {
		keys := keysOf(t, s)
		change(keys)
		r, err := FromKeys(keys)
		return accepted(t, r, err).Revision
	}
	same := revision(func(*policy.SigstoreKeys) {})
	if again := revision(func(*policy.SigstoreKeys) {}); again != same {
		t.Error("the same keys have two revisions")
	}
	if twice := revision(func(k *policy.SigstoreKeys) { k.TLogs = append(k.TLogs, k.TLogs[0]) }); twice != same {
		t.Error("a log written twice is another root")
	}
	for name, change := range map[string]func(*policy.SigstoreKeys){
		"a log less":        func(k *policy.SigstoreKeys) { k.TLogs = nil },
		"an authority less": func(k *policy.SigstoreKeys) { k.TimestampAuthorities = nil },
		"an end":            func(k *policy.SigstoreKeys) { k.CertificateAuthorities[0].ValidUntil = time.Now() },
	} {
		if revision(change) == same {
			t.Errorf("%s changes nothing", name)
		}
	}
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PublicKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &key.PublicKey
}

func rsaKey(t testing.TB, bits int) *rsa.PublicKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return &key.PublicKey
}

func shortRSA() *rsa.PublicKey {
	n, _ := new(big.Int).SetString(strings.Repeat("f", 256), 16)
	return &rsa.PublicKey{N: n, E: 65537}
}

func edKey(t testing.TB) ed25519.PublicKey {
	t.Helper()
	key, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
