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

// parseKeys reads one or more PEM public keys. Nothing but white space may
// stand outside the blocks: a block that is damaged would otherwise be
// skipped as prose, and its key be missing without a word.
func parseKeys(data string, hash crypto.Hash) ([]PublicKey, error) {
	if len(data) > maxKeyData {
		return nil, fmt.Errorf("is %d bytes long: at most %d are read", len(data), maxKeyData)
	}
	var keys []PublicKey
	for rest := bytes.TrimSpace([]byte(data)); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			return nil, fmt.Errorf("%s is not part of a PEM block: put PEM public keys here and nothing else", quote(string(rest)))
		}
		// pem.Decode skips a block that it cannot read and goes on to the next,
		// so it is given one block at a time.
		one := rest
		if next := bytes.Index(rest[1:], []byte("-----BEGIN ")); next >= 0 {
			one = rest[:next+1]
		}
		block, after := pem.Decode(one)
		if block == nil {
			return nil, fmt.Errorf("PEM block %d is damaged: its END line or its base64 is wrong", len(keys)+1)
		}
		if len(keys) == MaxKeys {
			return nil, fmt.Errorf("holds more than %d keys", MaxKeys)
		}
		key, err := parseKey(block, hash)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", len(keys)+1, err)
		}
		keys = append(keys, key)
		rest = rest[len(one)-len(after):]
	}
	if len(keys) == 0 {
		return nil, errors.New("holds no key: put a PEM public key here")
	}
	return keys, nil
}

// parseKey reads the public key in one PEM block and checks that signatures by
// it are worth something.
func parseKey(block *pem.Block, hash crypto.Hash) (PublicKey, error) {
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
	return PublicKey{Key: key, Hash: hash, Fingerprint: "SHA256:" + hex.EncodeToString(sum[:])}, nil
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
