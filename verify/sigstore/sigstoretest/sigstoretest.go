// Package sigstoretest makes signed material for tests: a certificate authority, a certificate transparency log, a
// transparency log and a timestamp authority of its own, and with them signatures and attestations of every kind, as
// cosign writes them. The cryptography is real. No product code may import it.
//
// Rekor's and the timestamp authority's part is played by sigstore-go's VirtualSigstore. The certificate authority is made
// here, because the virtual one's certificates carry no SCT.
package sigstoretest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"

	"github.com/cosentry/cosentry/verify/policy"
)

// The identity of certificates where nothing else is asked for.
const (
	Issuer  = "https://issuer.example"
	Subject = "release@team.example"
)

// Sigstore is one instance of all services. It is valid from a little before to an hour after it is made.
type Sigstore struct {
	tb           testing.TB
	services     *ca.VirtualSigstore // Rekor and the timestamp authority
	root         *x509.Certificate
	intermediate *x509.Certificate
	caKey        *ecdsa.PrivateKey
	unlisted     *x509.Certificate // another intermediate of the same root
	unlistedKey  *ecdsa.PrivateKey
	ctKey        *ecdsa.PrivateKey
	made         time.Time
}

// New makes an instance that has nothing in common with any other.
func New(tb testing.TB) *Sigstore {
	tb.Helper()
	s := &Sigstore{tb: tb, made: time.Now()}
	var rootKey *ecdsa.PrivateKey
	var err error
	s.services, err = ca.NewVirtualSigstore()
	s.check(err)
	s.root, rootKey, err = ca.GenerateRootCa()
	s.check(err)
	s.intermediate, s.caKey, err = ca.GenerateFulcioIntermediate(s.root, rootKey)
	s.check(err)
	s.unlisted, s.unlistedKey, err = ca.GenerateFulcioIntermediate(s.root, rootKey)
	s.check(err)
	s.ctKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.check(err)
	return s
}

func (s *Sigstore) check(err error) {
	if err != nil {
		s.tb.Helper()
		s.tb.Fatalf("sigstoretest: %v", err)
	}
}

// Now is a time at which all is valid.
func (s *Sigstore) Now() time.Time { return s.made.Add(time.Minute) }

// material is trusted material that is given part by part.
type material struct {
	root.BaseTrustedMaterial
	cas          []root.CertificateAuthority
	ctLogs, logs map[string]*root.TransparencyLog
	tsas         []root.TimestampingAuthority
}

func (m *material) FulcioCertificateAuthorities() []root.CertificateAuthority { return m.cas }
func (m *material) CTLogs() map[string]*root.TransparencyLog                  { return m.ctLogs }
func (m *material) RekorLogs() map[string]*root.TransparencyLog               { return m.logs }
func (m *material) TimestampingAuthorities() []root.TimestampingAuthority     { return m.tsas }

func (s *Sigstore) authority(intermediates ...*x509.Certificate) root.CertificateAuthority {
	return &root.FulcioCertificateAuthority{Root: s.root, Intermediates: intermediates, URI: "https://fulcio.example"}
}

func (s *Sigstore) ctLogs() map[string]*root.TransparencyLog {
	id := logID(s.tb, s.ctKey.Public())
	return map[string]*root.TransparencyLog{hex.EncodeToString(id): {
		BaseURL: "https://ct.example", ID: id, ValidityPeriodStart: s.made.Add(-time.Hour),
		HashFunc: crypto.SHA256, PublicKey: s.ctKey.Public(), SignatureHashFunc: crypto.SHA256,
	}}
}

// logs gives the log's real ID in place of VirtualSigstore's, which is its hex.
func (s *Sigstore) logs() map[string]*root.TransparencyLog {
	all := s.services.RekorLogs()
	for id, l := range all {
		raw, err := hex.DecodeString(id)
		s.check(err)
		l.ID = raw
	}
	return all
}

// CAs is what Demand.CAs wants: the certificate authority and the certificate transparency log.
func (s *Sigstore) CAs() root.TrustedMaterial {
	return &material{cas: []root.CertificateAuthority{s.authority(s.intermediate)}, ctLogs: s.ctLogs()}
}

// RootOnly is CAs with nothing but the authority's root, as a policy's ca-cert may have it.
func (s *Sigstore) RootOnly() root.TrustedMaterial {
	return &material{cas: []root.CertificateAuthority{s.authority()}, ctLogs: s.ctLogs()}
}

// Logs is what Demand.Logs wants.
func (s *Sigstore) Logs() root.TrustedMaterial { return &material{logs: s.logs()} }

// Timestamps is what Demand.Timestamps wants.
func (s *Sigstore) Timestamps() root.TrustedMaterial {
	return &material{tsas: s.services.TimestampingAuthorities()}
}

// TrustedRoot is all of them as a trusted_root.json.
func (s *Sigstore) TrustedRoot() []byte {
	s.tb.Helper()
	tr, err := root.NewTrustedRoot(root.TrustedRootMediaType01, []root.CertificateAuthority{s.authority(s.intermediate)}, s.ctLogs(),
		s.services.TimestampingAuthorities(), s.logs())
	s.check(err)
	raw, err := tr.MarshalJSON()
	s.check(err)
	return raw
}

// PEM is the certificates of the authority, its root last; the public key of the certificate transparency log; that of the
// transparency log; and the certificates of the timestamp authority, its root last. A policy's sigstoreKeys have them.
func (s *Sigstore) PEM() (authority, ctLog, log, timestamps string) {
	s.tb.Helper()
	tsa, ok := s.services.TimestampingAuthorities()[0].(*root.SigstoreTimestampingAuthority)
	if !ok {
		s.tb.Fatal("sigstoretest: a timestamp authority of an unknown kind")
	}
	chain := append(append([]*x509.Certificate{tsa.Leaf}, tsa.Intermediates...), tsa.Root)
	for _, l := range s.logs() {
		log = PublicPEM(l.PublicKey)
	}
	return certificatesPEM(s.intermediate, s.root), PublicPEM(s.ctKey.Public()), log, certificatesPEM(chain...)
}

// Identity is an identity given exactly.
func Identity(issuer, subject string) policy.Identity {
	return policy.Identity{Issuer: issuer, Subject: subject}
}

// NewKey makes a key: "P-256", "P-384", "P-521", "RSA 2048" or "Ed25519".
func NewKey(tb testing.TB, kind string) crypto.Signer {
	tb.Helper()
	var k crypto.Signer
	var err error
	switch kind {
	case "P-256":
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "P-384":
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "P-521":
		k, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "RSA 2048":
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	case "Ed25519":
		_, k, err = ed25519.GenerateKey(rand.Reader)
	default:
		tb.Fatalf("sigstoretest: no kind of key: %s", kind)
	}
	if err != nil {
		tb.Fatalf("sigstoretest: making a key: %v", err)
	}
	return k
}

// PublicKey is the public half as a policy holds it that says nothing about the hash.
func PublicKey(k crypto.Signer) policy.PublicKey {
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		panic(err) // no key of a kind that NewKey makes
	}
	sum := sha256.Sum256(der)
	return policy.PublicKey{Key: k.Public(), Hash: crypto.SHA256, Fingerprint: "SHA256:" + hex.EncodeToString(sum[:])}
}

// PublicPEM is a public key in PEM.
func PublicPEM(k crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		panic(err) // no key of a kind that NewKey makes
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func certificatesPEM(certs ...*x509.Certificate) string {
	var all []byte
	for _, c := range certs {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return string(all)
}

func logID(tb testing.TB, k crypto.PublicKey) []byte {
	tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		tb.Fatalf("sigstoretest: a log's key: %v", err)
	}
	sum := sha256.Sum256(der)
	return sum[:]
}
