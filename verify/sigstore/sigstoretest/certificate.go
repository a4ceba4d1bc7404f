package sigstoretest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"strings"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"
	"github.com/google/certificate-transparency-go/x509util"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// Certificate says what a signer's certificate is to be like. The zero value is a good one for Issuer and Subject.
type Certificate struct {
	// Issuer is that of both versions of the extension, IssuerV1 and IssuerV2 that of one alone; "-" leaves one out.
	Issuer, IssuerV1, IssuerV2 string
	// Subject is an address, or a URI if it has a scheme. OtherName is one of the kind that Fulcio gives to user names.
	Subject, OtherName string
	// GitHub is the trigger, SHA, name, repository and ref of a workflow.
	GitHub [5]string
	// NotBefore and NotAfter bound its validity; zero: a quarter of an hour around the time when the instance was made.
	NotBefore, NotAfter time.Time
	// NoSCT leaves the SCT out. SCTBy has it signed by another instance's log.
	NoSCT bool
	SCTBy *Sigstore
	// SCTOf takes the SCT from a certificate that differs in its subject.
	SCTOf string
	// Unlisted has it issued by an intermediate authority of the same root that CAs does not name.
	Unlisted bool
	// Usage is its extended key usage; zero: code signing.
	Usage x509.ExtKeyUsage
}

var fulcioOID = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1}

func extension(last int, value []byte) pkix.Extension {
	return pkix.Extension{Id: append(append(asn1.ObjectIdentifier{}, fulcioOID...), last), Value: value}
}

// Certify gives a certificate for a key.
func (s *Sigstore) Certify(k crypto.PublicKey, c Certificate) *x509.Certificate {
	s.tb.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	s.check(err)
	bare := s.issue(c, s.template(c, serial), k)
	if c.NoSCT {
		return bare
	}
	logged := bare
	if c.SCTOf != "" {
		other := c
		other.Subject = c.SCTOf
		logged = s.issue(c, s.template(other, serial), k)
	}
	log := s
	if c.SCTBy != nil {
		log = c.SCTBy
	}
	full := s.template(c, serial)
	full.ExtraExtensions = append(full.ExtraExtensions, s.sct(c, logged, log.ctKey))
	return s.issue(c, full, k)
}

func (s *Sigstore) template(c Certificate, serial *big.Int) *x509.Certificate {
	t := &x509.Certificate{
		SerialNumber: serial, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{c.Usage},
	}
	if c.Usage == 0 {
		t.ExtKeyUsage[0] = x509.ExtKeyUsageCodeSigning
	}
	if t.NotBefore.IsZero() {
		t.NotBefore, t.NotAfter = s.made.Add(-time.Minute), s.made.Add(14*time.Minute)
	}
	switch {
	case c.OtherName != "":
		san, err := cryptoutils.MarshalOtherNameSAN(c.OtherName, true)
		s.check(err)
		t.ExtraExtensions = append(t.ExtraExtensions, *san)
	case strings.Contains(c.Subject, "://"):
		u, err := url.Parse(c.Subject)
		s.check(err)
		t.URIs = []*url.URL{u}
	case c.Subject == "":
		t.EmailAddresses = []string{Subject}
	default:
		t.EmailAddresses = []string{c.Subject}
	}
	v1, v2 := Issuer, Issuer
	if c.Issuer != "" {
		v1, v2 = c.Issuer, c.Issuer
	}
	if c.IssuerV1 != "" {
		v1 = c.IssuerV1
	}
	if c.IssuerV2 != "" {
		v2 = c.IssuerV2
	}
	if v1 != "-" {
		t.ExtraExtensions = append(t.ExtraExtensions, extension(1, []byte(v1)))
	}
	for i, value := range c.GitHub {
		if value != "" {
			t.ExtraExtensions = append(t.ExtraExtensions, extension(2+i, []byte(value)))
		}
	}
	if v2 != "-" {
		der, err := asn1.MarshalWithParams(v2, "utf8")
		s.check(err)
		t.ExtraExtensions = append(t.ExtraExtensions, extension(8, der))
	}
	return t
}

// by is who issues a certificate.
func (s *Sigstore) by(c Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	if c.Unlisted {
		return s.unlisted, s.unlistedKey
	}
	return s.intermediate, s.caKey
}

func (s *Sigstore) issue(c Certificate, t *x509.Certificate, k crypto.PublicKey) *x509.Certificate {
	s.tb.Helper()
	parent, key := s.by(c)
	der, err := x509.CreateCertificate(rand.Reader, t, parent, k, key)
	s.check(err)
	cert, err := x509.ParseCertificate(der)
	s.check(err)
	return cert
}

// sct is the extension with a log's promise to hold a certificate that was issued without it (RFC 6962, section 3.2).
func (s *Sigstore) sct(c Certificate, bare *x509.Certificate, log *ecdsa.PrivateKey) pkix.Extension {
	s.tb.Helper()
	parent, _ := s.by(c)
	stamp := uint64(bare.NotBefore.UnixMilli())
	sct := ct.SignedCertificateTimestamp{SCTVersion: ct.V1, Timestamp: stamp}
	copy(sct.LogID.KeyID[:], logID(s.tb, log.Public()))
	entry := ct.LogEntry{Leaf: ct.MerkleTreeLeaf{Version: ct.V1, LeafType: ct.TimestampedEntryLeafType, TimestampedEntry: &ct.TimestampedEntry{
		Timestamp: stamp, EntryType: ct.PrecertLogEntryType,
		PrecertEntry: &ct.PreCert{IssuerKeyHash: sha256.Sum256(parent.RawSubjectPublicKeyInfo), TBSCertificate: bare.RawTBSCertificate},
	}}}
	input, err := ct.SerializeSCTSignatureInput(sct, entry)
	s.check(err)
	sig, err := tls.CreateSignature(*log, tls.SHA256, input)
	s.check(err)
	sct.Signature = ct.DigitallySigned(sig)
	list, err := x509util.MarshalSCTsIntoSCTList([]*ct.SignedCertificateTimestamp{&sct})
	s.check(err)
	raw, err := tls.Marshal(*list)
	s.check(err)
	value, err := asn1.Marshal(raw)
	s.check(err)
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: value}
}
