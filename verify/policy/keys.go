package policy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// hashes are policy-controller's hash algorithms.
var hashes = map[string]crypto.Hash{
	"":       crypto.SHA256,
	"sha224": crypto.SHA224,
	"sha256": crypto.SHA256,
	"sha384": crypto.SHA384,
	"sha512": crypto.SHA512,
}

// parseHash reads a hashAlgorithm; case and surrounding space do not count, as
// in policy-controller.
func parseHash(s string) (crypto.Hash, error) {
	h, ok := hashes[strings.ToLower(strings.TrimSpace(s))]
	if !ok {
		return 0, fmt.Errorf("unknown hash algorithm %s: use sha224, sha256, sha384 or sha512", quote(s))
	}
	return h, nil
}

// ParsePublicKeys reads one or more PEM public keys, as key.data and the secret of a key.secretRef hold them. Whether
// the policy names the hash algorithm itself is written, see PublicKey. Nothing but white space may stand outside the
// blocks: a block that is damaged would otherwise be skipped as prose, and its key be missing without a word.
func ParsePublicKeys(data []byte, hash crypto.Hash, written bool) ([]PublicKey, error) {
	if len(data) > maxKeyData {
		return nil, fmt.Errorf("is %d bytes long: at most %d are read", len(data), maxKeyData)
	}
	blocks, err := pemBlocks(data, MaxKeys, "keys")
	if err != nil {
		return nil, err
	}
	if len(blocks) == 0 {
		return nil, errors.New("holds no key: put a PEM public key here")
	}
	keys := make([]PublicKey, 0, len(blocks))
	for i, block := range blocks {
		key, err := parseKey(block, hash, written)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", i+1, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// ParseCertificates reads one or more PEM certificates, as ca-cert and the certificate chains of a TrustRoot hold
// them, in the order in which they are written and as strictly as ParsePublicKeys.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	if len(data) > maxChain {
		return nil, fmt.Errorf("is %d bytes long: at most %d are read", len(data), maxChain)
	}
	blocks, err := pemBlocks(data, MaxCertificates, "certificates")
	if err != nil {
		return nil, err
	}
	if len(blocks) == 0 {
		return nil, errors.New("holds no certificate: put PEM certificates here")
	}
	certificates := make([]*x509.Certificate, 0, len(blocks))
	for i, block := range blocks {
		switch {
		case strings.Contains(block.Type, "PRIVATE KEY"):
			return nil, fmt.Errorf("PEM block %d: this is a PRIVATE key, remove it (and replace it, if others could read it): only certificates belong here", i+1)
		case block.Type != "CERTIFICATE":
			return nil, fmt.Errorf("PEM block %d: %s is no certificate: put a block of type CERTIFICATE here", i+1, quote(block.Type))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: not a certificate: %s", i+1, quote(err.Error()))
		}
		certificates = append(certificates, c)
	}
	return certificates, nil
}

// pemBlocks splits text into its PEM blocks.
func pemBlocks(data []byte, limit int, what string) ([]*pem.Block, error) {
	var blocks []*pem.Block
	for rest := bytes.TrimSpace(data); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			return nil, fmt.Errorf("%s is not part of a PEM block: put PEM %s here and nothing else", quote(string(rest[:min(len(rest), maxQuoted+1)])), what)
		}
		// pem.Decode skips a block that it cannot read and goes on to the next,
		// so it is given one block at a time.
		one := rest
		if next := bytes.Index(rest[1:], []byte("-----BEGIN ")); next >= 0 {
			one = rest[:next+1]
		}
		block, after := pem.Decode(one)
		if block == nil {
			return nil, fmt.Errorf("PEM block %d is damaged: its END line or its base64 is wrong", len(blocks)+1)
		}
		if len(blocks) == limit {
			return nil, fmt.Errorf("holds more than %d %s", limit, what)
		}
		blocks = append(blocks, block)
		rest = rest[len(one)-len(after):]
	}
	return blocks, nil
}

// parseKey reads the public key in one PEM block and checks that signatures by
// it are worth something.
func parseKey(block *pem.Block, hash crypto.Hash, written bool) (PublicKey, error) {
	switch {
	case strings.Contains(block.Type, "PRIVATE KEY"):
		return PublicKey{}, errors.New("this is a PRIVATE key, remove it from the policy (and replace it, if others could read it): only the public key belongs here")
	case block.Type == "CERTIFICATE":
		return PublicKey{}, errors.New("this is a certificate: put its public key here (openssl x509 -pubkey -noout)")
	case block.Type != string(cryptoutils.PublicKeyPEMType) && block.Type != string(cryptoutils.PKCS1PublicKeyPEMType):
		return PublicKey{}, fmt.Errorf("%s is no kind of public key this build knows: put a block of type PUBLIC KEY here", quote(block.Type))
	}
	key, err := cryptoutils.UnmarshalPEMToPublicKey(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	if err != nil {
		return PublicKey{}, fmt.Errorf("not a public key: %s", quote(err.Error()))
	}
	return NewPublicKey(key, hash, written)
}

// NewPublicKey is a key as a policy takes it, after checking that signatures by it are worth something; for keys that
// come from a key management service.
func NewPublicKey(key crypto.PublicKey, hash crypto.Hash, written bool) (PublicKey, error) {
	if err := checkKey(key); err != nil {
		return PublicKey{}, err
	}
	// The verifier that will be asked to use the pair must take it.
	if _, err := signature.LoadVerifier(key, hash); err != nil {
		return PublicKey{}, fmt.Errorf("cannot be used with %s: %s", hash, quote(err.Error()))
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return PublicKey{}, fmt.Errorf("not a public key: %s", quote(err.Error()))
	}
	sum := sha256.Sum256(der)
	return PublicKey{Key: key, Hash: hash, HashWritten: written, Fingerprint: "SHA256:" + hex.EncodeToString(sum[:])}, nil
}

func checkKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return fmt.Errorf("the curve %s is not accepted: use P-256, P-384 or P-521", k.Curve.Params().Name)
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 4096 {
			return fmt.Errorf("an RSA key of %d bits is not accepted: use 2048 to 4096", bits)
		}
		// With exponent 1 everybody can sign.
		if k.E < 3 || k.E%2 == 0 {
			return fmt.Errorf("the RSA exponent %d is not accepted: use 65537", k.E)
		}
		return nil
	case ed25519.PublicKey:
		return nil
	}
	return fmt.Errorf("a key of type %T is not accepted: use ECDSA, RSA or Ed25519", key)
}
