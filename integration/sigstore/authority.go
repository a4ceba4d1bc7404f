package sigstore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"
)

// authority is a certificate authority: a root and an intermediate that issues.
type authority struct {
	root, intermediate *x509.Certificate
	key                *ecdsa.PrivateKey // the intermediate's
}

// leaf is a certificate with its key.
type leaf struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

type usage = x509.ExtKeyUsage

const (
	codeSigning  = x509.ExtKeyUsageCodeSigning
	timeStamping = x509.ExtKeyUsageTimeStamping
)

// lifetime is how long authorities are valid, before and after now: longer
// than any test, and wide enough for signatures that are made to look old.
const lifetime = 24 * time.Hour

func newAuthority(name string, use usage) (*authority, error) {
	now := time.Now()
	rootKey, err := newKey()
	if err != nil {
		return nil, err
	}
	template := x509.Certificate{
		Subject:   pkix.Name{CommonName: name + " root", Organization: []string{"sigstore.test"}},
		NotBefore: now.Add(-lifetime), NotAfter: now.Add(lifetime),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	a := &authority{}
	if a.root, err = issue(template, nil, public(rootKey), rootKey); err != nil {
		return nil, err
	}
	if a.key, err = newKey(); err != nil {
		return nil, err
	}
	template.Subject.CommonName = name + " intermediate"
	template.ExtKeyUsage = []usage{use}
	a.intermediate, err = issue(template, a.root, public(a.key), rootKey)
	return a, err
}

// issue makes a certificate; without a parent it signs itself.
func issue(template x509.Certificate, parent *x509.Certificate, subject crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	if template.SerialNumber == nil {
		var err error
		if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
			return nil, err
		}
	}
	if parent == nil {
		parent = &template
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, subject, key)
	if err != nil {
		return nil, fmt.Errorf("issuing a certificate for %s: %w", template.Subject, err)
	}
	return x509.ParseCertificate(der)
}

// chain is the authority's certificates, the root last.
func (a *authority) chain() []*x509.Certificate { return []*x509.Certificate{a.intermediate, a.root} }

func pemOf(certificates ...*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, c := range certificates {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a buffer takes everything
	}
	return text.Bytes()
}

// stamper issues the certificate that timestamps are signed with.
func (a *authority) stamper() (*leaf, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	// RFC 3161 wants this extension critical, which the template's field cannot say.
	purpose, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		return nil, err
	}
	certificate, err := issue(x509.Certificate{
		Subject:   pkix.Name{CommonName: "timestamps", Organization: []string{"sigstore.test"}},
		NotBefore: time.Now().Add(-lifetime), NotAfter: time.Now().Add(lifetime),
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: purpose}},
	}, a.intermediate, public(key), a.key)
	return &leaf{certificate, key}, err
}

// signer issues a short-lived certificate for who, with a signed
// certificate timestamp by ctLog inside if there is one.
func (a *authority) signer(who Identity, key crypto.PublicKey, ctLog *ecdsa.PrivateKey) (*x509.Certificate, error) {
	extensions, err := who.extensions()
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	// Some room on both sides, for clocks that count whole seconds.
	template := x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []usage{codeSigning},
		ExtraExtensions: extensions,
	}
	if err := who.name(&template); err != nil {
		return nil, err
	}
	plain, err := issue(template, a.intermediate, key, a.key)
	if err != nil || ctLog == nil {
		return plain, err
	}
	list, err := promise(plain, a.intermediate, ctLog)
	if err != nil {
		return nil, fmt.Errorf("logging a certificate: %w", err)
	}
	template.ExtraExtensions = append(extensions, list)
	return issue(template, a.intermediate, key, a.key)
}

// promise is the extension that holds a log's timestamp for a certificate
// which is otherwise equal to plain (RFC 6962, section 3.3).
func promise(plain, issuer *x509.Certificate, ctLog *ecdsa.PrivateKey) (pkix.Extension, error) {
	id, err := x509.MarshalPKIXPublicKey(public(ctLog))
	if err != nil {
		return pkix.Extension{}, err
	}
	sct := ct.SignedCertificateTimestamp{
		SCTVersion: ct.V1, LogID: ct.LogID{KeyID: sha256.Sum256(id)}, Timestamp: uint64(time.Now().UnixMilli()),
	}
	input, err := ct.SerializeSCTSignatureInput(sct, ct.LogEntry{Leaf: ct.MerkleTreeLeaf{
		Version: ct.V1, LeafType: ct.TimestampedEntryLeafType,
		TimestampedEntry: &ct.TimestampedEntry{
			Timestamp: sct.Timestamp, EntryType: ct.PrecertLogEntryType,
			PrecertEntry: &ct.PreCert{
				IssuerKeyHash: sha256.Sum256(issuer.RawSubjectPublicKeyInfo), TBSCertificate: plain.RawTBSCertificate,
			},
		},
	}})
	if err != nil {
		return pkix.Extension{}, err
	}
	signature, err := cttls.CreateSignature(*ctLog, cttls.SHA256, input)
	if err != nil {
		return pkix.Extension{}, err
	}
	sct.Signature = ct.DigitallySigned(signature)
	list, err := x509util.MarshalSCTsIntoSCTList([]*ct.SignedCertificateTimestamp{&sct})
	if err != nil {
		return pkix.Extension{}, err
	}
	data, err := cttls.Marshal(*list)
	if err != nil {
		return pkix.Extension{}, err
	}
	value, err := asn1.Marshal(data)
	return pkix.Extension{Id: asn1.ObjectIdentifier(ctx509.OIDExtensionCTSCT), Value: value}, err
}
