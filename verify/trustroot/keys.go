package trustroot

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
)

// FromKeys makes a trust root of a TrustRoot document's sigstoreKeys.
//
// As in policy-controller, a log's ID is the SHA-256 of its public key in DER, its tree is hashed with SHA-256,
// and keys have no times. The chain of a certificate authority may be in any order, as there: its self-signed
// certificates are roots, and if it has none the last one is. What would have no effect there, such as a certificate
// that is no authority or a hash algorithm that no log uses, is refused here.
func FromKeys(keys *policy.SigstoreKeys) (*Root, error) {
	return rescued("reading sigstoreKeys", func() (*Root, error) {
		r, err := fromKeys(keys)
		if err != nil {
			return nil, fmt.Errorf("reading sigstoreKeys: %w", err)
		}
		r.From = "sigstoreKeys of the document"
		return r, nil
	})
}

func fromKeys(keys *policy.SigstoreKeys) (*Root, error) {
	if keys == nil || len(keys.CertificateAuthorities)+len(keys.TimestampAuthorities)+len(keys.TLogs)+len(keys.CTLogs) == 0 {
		return nil, errors.New("there are no keys and no certificates")
	}
	p := &prototrustroot.TrustedRoot{MediaType: root.TrustedRootMediaType01}
	var err error
	for i, ca := range keys.CertificateAuthorities {
		if p.CertificateAuthorities, err = addAuthority(p.CertificateAuthorities, ca, false); err != nil {
			return nil, fmt.Errorf("certificateAuthorities[%d]: %w", i, err)
		}
	}
	for i, tsa := range keys.TimestampAuthorities {
		if p.TimestampAuthorities, err = addAuthority(p.TimestampAuthorities, tsa, true); err != nil {
			return nil, fmt.Errorf("timestampAuthorities[%d]: %w", i, err)
		}
	}
	if p.Tlogs, err = logs(keys.TLogs); err != nil {
		return nil, fmt.Errorf("tLogs%w", err)
	}
	if p.Ctlogs, err = logs(keys.CTLogs); err != nil {
		return nil, fmt.Errorf("ctLogs%w", err)
	}
	return fromProtobuf(p)
}

// addAuthority appends what one entry of the document says: an authority for each root in its chain.
func addAuthority(to []*prototrustroot.CertificateAuthority, a policy.CertificateAuthority, timestamps bool) ([]*prototrustroot.CertificateAuthority, error) {
	certificates, err := readCertificates(a.CertChain)
	if err != nil {
		return nil, err
	}
	chains, err := chainsOf(certificates, timestamps)
	if err != nil {
		return nil, err
	}
	for _, chain := range chains {
		to = append(to, &prototrustroot.CertificateAuthority{
			Subject:   &protocommon.DistinguishedName{Organization: a.Organization, CommonName: a.CommonName},
			Uri:       a.URI,
			CertChain: chain,
			ValidFor:  between(a.ValidFrom, a.ValidUntil),
		})
	}
	return to, nil
}

// readCertificates reads PEM certificates. Nothing else may stand among them: a damaged block would be skipped as
// prose, and its certificate be missing without a word.
func readCertificates(chain []byte) ([]*x509.Certificate, error) {
	var certificates []*x509.Certificate
	for rest := bytes.TrimSpace(chain); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		if err := limits.Certificates.Check(int64(len(certificates)) + 1); err != nil {
			return nil, err
		}
		block, err := firstBlock(&rest)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", len(certificates)+1, err)
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %d is no certificate but %.40q", len(certificates)+1, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d is no certificate: %w", len(certificates)+1, foreign(err))
		}
		certificates = append(certificates, c)
	}
	if len(certificates) == 0 {
		return nil, errors.New("there is no certificate: put a chain of PEM certificates here, the root last")
	}
	return certificates, nil
}

// firstBlock takes the PEM block that rest begins with. pem.Decode skips what it cannot read and goes on to the next
// block, so it is given one at a time.
func firstBlock(rest *[]byte) (*pem.Block, error) {
	begin := []byte("-----BEGIN ")
	if !bytes.HasPrefix(*rest, begin) {
		return nil, fmt.Errorf("%.40q is not part of a PEM block", *rest)
	}
	one := *rest
	if next := bytes.Index(one[1:], begin); next >= 0 {
		one = one[:next+1]
	}
	block, after := pem.Decode(one)
	if block == nil {
		return nil, errors.New("it is damaged: its END line or its base64 is wrong")
	}
	*rest = (*rest)[len(one)-len(after):]
	return block, nil
}

// chainsOf orders certificates as a trusted root has them: leaf, intermediates, root; one chain for each root.
func chainsOf(certificates []*x509.Certificate, timestamps bool) ([]*protocommon.X509CertificateChain, error) {
	var leaves, intermediates, roots []*x509.Certificate
	for i, c := range certificates {
		switch {
		case !c.IsCA && timestamps:
			leaves = append(leaves, c)
		case !c.IsCA:
			return nil, fmt.Errorf("certificate %d is not that of an authority: remove it", i+1)
		case bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil:
			roots = append(roots, c)
		default:
			intermediates = append(intermediates, c)
		}
	}
	if len(leaves) > 1 {
		return nil, errors.New("there is more than one timestamping certificate: write one entry for each")
	}
	if last := len(intermediates) - 1; len(roots) == 0 && last >= 0 {
		roots, intermediates = intermediates[last:], intermediates[:last]
	}
	if len(roots) == 0 {
		return nil, errors.New("there is no root certificate: put the whole chain there, the root last")
	}
	chains := make([]*protocommon.X509CertificateChain, 0, len(roots))
	for _, r := range roots {
		chain := &protocommon.X509CertificateChain{}
		for _, c := range append(append(append([]*x509.Certificate{}, leaves...), intermediates...), r) {
			chain.Certificates = append(chain.Certificates, &protocommon.X509Certificate{RawBytes: c.Raw})
		}
		chains = append(chains, chain)
	}
	return chains, nil
}

func logs(instances []policy.LogInstance) ([]*prototrustroot.TransparencyLogInstance, error) {
	var list []*prototrustroot.TransparencyLogInstance
	seen := map[[sha256.Size]byte]bool{}
	for i, l := range instances {
		key, err := logKey(l.PublicKey)
		if err != nil {
			return nil, fmt.Errorf("[%d].publicKey: %w", i, err)
		}
		// Trees of the logs there are (RFC 6962) are hashed with SHA-256; the verifier has no other.
		switch strings.ToLower(cmp.Or(l.HashAlgorithm, "sha256")) {
		case "sha256", "sha-256":
		default:
			return nil, fmt.Errorf("[%d].hashAlgorithm: %.40q is not accepted: transparency logs hash with sha-256", i, l.HashAlgorithm)
		}
		id := sha256.Sum256(key.GetRawBytes())
		if seen[id] {
			continue // the same key twice is one log
		}
		seen[id] = true
		list = append(list, &prototrustroot.TransparencyLogInstance{
			BaseUrl:       l.BaseURL,
			HashAlgorithm: protocommon.HashAlgorithm_SHA2_256,
			PublicKey:     key,
			LogId:         &protocommon.LogId{KeyId: id[:]},
		})
	}
	return list, nil
}

// logKey reads one PEM public key.
func logKey(data []byte) (*protocommon.PublicKey, error) {
	rest := bytes.TrimSpace(data)
	block, err := firstBlock(&rest)
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("there is more than one PEM block: a log has one key")
	}
	key, err := cryptoutils.UnmarshalPEMToPublicKey(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	if err != nil {
		return nil, fmt.Errorf("not a public key: %w", foreign(err))
	}
	details, err := keyDetails(key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("not a public key: %w", foreign(err))
	}
	return &protocommon.PublicKey{RawBytes: der, KeyDetails: details, ValidFor: between(time.Time{}, time.Time{})}, nil
}

func keyDetails(key crypto.PublicKey) (protocommon.PublicKeyDetails, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, nil
		case elliptic.P384():
			return protocommon.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384, nil
		case elliptic.P521():
			return protocommon.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512, nil
		}
		return 0, fmt.Errorf("the curve %s is not accepted: use P-256, P-384 or P-521", k.Curve.Params().Name)
	case *rsa.PublicKey:
		// With exponent 1 everybody can sign.
		if k.E < 3 || k.E%2 == 0 {
			return 0, fmt.Errorf("the RSA exponent %d is not accepted: use 65537", k.E)
		}
		switch bits := k.N.BitLen(); bits {
		case 2048:
			return protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256, nil
		case 3072:
			return protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256, nil
		case 4096:
			return protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256, nil
		default:
			return 0, fmt.Errorf("an RSA key of %d bits is not accepted: use 2048, 3072 or 4096", bits)
		}
	case ed25519.PublicKey:
		return protocommon.PublicKeyDetails_PKIX_ED25519, nil
	}
	return 0, fmt.Errorf("a key of type %T is not accepted: use ECDSA, RSA or Ed25519", key)
}

// between is a range of time. Without a beginning it begins in 1970, as policy-controller writes it: the format wants one.
func between(from, until time.Time) *protocommon.TimeRange {
	r := &protocommon.TimeRange{Start: &timestamppb.Timestamp{}}
	if !from.IsZero() {
		r.Start = timestamppb.New(from)
	}
	if !until.IsZero() {
		r.End = timestamppb.New(until)
	}
	return r
}
