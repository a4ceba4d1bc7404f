package sigstore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"fmt"
	"io"

	sigs "github.com/sigstore/sigstore/pkg/signature"

	"github.com/cosentry/cosentry/verify/policy"
)

// verifierFor returns a verifier of signatures by k in every way in which cosign makes them.
//
// Since version 2.5 cosign signs with what sigstore's algorithm registry has for the kind of key:
// SHA-384 for P-384, SHA-512 for P-521 and the prehashed Ed25519ph, each of which its own verify
// command refuses unless told. What the policy asks for always counts. Beside it, the
// registry's way counts for Ed25519, where a policy cannot ask for it, and for the two curves where the policy
// says nothing about the hash. One that it names is the only one. The other way takes nothing
// away: each needs the same private key, a longer hash is no weaker one, and Ed25519ph is
// separated from Ed25519 by its prefix (RFC 8032, section 2).
func verifierFor(k policy.PublicKey) (sigs.Verifier, error) {
	asked, err := sigs.LoadVerifier(k.Key, k.Hash)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.Fingerprint, err)
	}
	var also sigs.Verifier
	switch key := k.Key.(type) {
	case ed25519.PublicKey:
		also, err = sigs.LoadED25519phVerifier(key)
	case *ecdsa.PublicKey:
		if hash, ok := registryHash(key.Curve); ok && !k.HashWritten && hash != k.Hash {
			also, err = sigs.LoadECDSAVerifier(key, hash)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.Fingerprint, err)
	}
	if also == nil {
		return asked, nil
	}
	return eitherWay{asked, also}, nil
}

func registryHash(c elliptic.Curve) (crypto.Hash, bool) {
	switch c {
	case elliptic.P384():
		return crypto.SHA384, true
	case elliptic.P521():
		return crypto.SHA512, true
	}
	return 0, false
}

// eitherWay verifies by one key in two ways; it is that key's verifier in all else.
type eitherWay struct {
	sigs.Verifier
	also sigs.Verifier
}

func (e eitherWay) VerifySignature(sig, message io.Reader, opts ...sigs.VerifyOption) error {
	s, err := io.ReadAll(sig)
	if err != nil {
		return fmt.Errorf("reading a signature: %w", err)
	}
	m, err := io.ReadAll(message)
	if err != nil {
		return fmt.Errorf("reading a signed message: %w", err)
	}
	first := e.Verifier.VerifySignature(bytes.NewReader(s), bytes.NewReader(m), opts...)
	if first == nil {
		return nil
	}
	if e.also.VerifySignature(bytes.NewReader(s), bytes.NewReader(m), opts...) == nil {
		return nil
	}
	return first
}
