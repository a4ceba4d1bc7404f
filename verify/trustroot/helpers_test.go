package trustroot

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trustroot/tuftest"
)

func newSigstore(t testing.TB) *ca.VirtualSigstore {
	t.Helper()
	s, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// trustedRoot is a trusted_root.json of authorities of its own.
func trustedRoot(t testing.TB) []byte {
	t.Helper()
	return tuftest.TrustedRootJSON(t, newSigstore(t))
}

func pemOf(certificates ...*x509.Certificate) []byte {
	var all []byte
	for _, c := range certificates {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return all
}

func keyPEM(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// keysOf writes a sigstore's authorities as a document's sigstoreKeys.
func keysOf(t testing.TB, s *ca.VirtualSigstore) *policy.SigstoreKeys {
	t.Helper()
	fulcio := s.FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority)
	tsa := s.TimestampingAuthorities()[0].(*root.SigstoreTimestampingAuthority)
	keys := &policy.SigstoreKeys{
		CertificateAuthorities: []policy.CertificateAuthority{{URI: "https://fulcio.test", CertChain: pemOf(append(fulcio.Intermediates, fulcio.Root)...)}},
		TimestampAuthorities:   []policy.CertificateAuthority{{URI: "https://tsa.test", CertChain: pemOf(append(append([]*x509.Certificate{tsa.Leaf}, tsa.Intermediates...), tsa.Root)...)}},
	}
	for _, l := range s.RekorLogs() {
		keys.TLogs = append(keys.TLogs, policy.LogInstance{BaseURL: "https://rekor.test", HashAlgorithm: "sha256", PublicKey: keyPEM(t, l.PublicKey)})
	}
	for _, l := range s.CTLogs() {
		keys.CTLogs = append(keys.CTLogs, policy.LogInstance{BaseURL: "https://ctfe.test", HashAlgorithm: "sha256", PublicKey: keyPEM(t, l.PublicKey)})
	}
	return keys
}

// refused checks that there is no root and that the error says why.
func refused(t testing.TB, r *Root, err error, why string) {
	t.Helper()
	if r != nil || err == nil {
		t.Fatalf("accepted: %+v, %v", r, err)
	}
	if !strings.Contains(err.Error(), why) {
		t.Errorf("refused with %q, want %q in it", err, why)
	}
	if strings.ContainsAny(err.Error(), "\n\x00\x1b") {
		t.Errorf("the refusal carries foreign text unescaped: %q", err)
	}
}

// expiredAt checks for an ExpiredError with that date.
func expiredAt(t testing.TB, r *Root, err error, when time.Time) {
	t.Helper()
	var expired *ExpiredError
	if r != nil || !errors.As(err, &expired) || !expired.When.Equal(when) {
		t.Fatalf("got %v, %v; want an error that says it expired at %v", r, err, when)
	}
	if !strings.Contains(err.Error(), when.Format(time.RFC3339)) {
		t.Errorf("the refusal %q does not say when", err)
	}
}

func accepted(t testing.TB, r *Root, err error) *Root {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if r == nil || r.TrustedMaterial == nil || r.Revision == "" || r.From == "" {
		t.Fatalf("an incomplete root: %+v", r)
	}
	return r
}
