package evidence

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
)

// TestAKeyMadeToBeSlowIsNotUsed: whoever may write to a registry chooses the certificate beside a signature.
func TestAKeyMadeToBeSlowIsNotUsed(t *testing.T) {
	signer := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	certificate := func(public any) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: must(x509.CreateCertificate(rand.Reader, template, template, public, signer))})
	}
	key := func(public any) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(public))})
	}
	slow := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 1<<14, 1), E: 1<<31 - 1}
	odd := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	for name, bad := range map[string][]byte{
		"an RSA certificate": certificate(slow), "an RSA key": key(slow), "an odd curve": key(&odd.PublicKey),
		"two certificates": append(certificate(&signer.PublicKey), certificate(&signer.PublicKey)...),
		"no PEM":           []byte("x"), "nothing": nil,
	} {
		if got := usable([][]byte{bad}); len(got) != 0 {
			t.Errorf("%s is used", name)
		}
	}
	if got := usable([][]byte{certificate(&signer.PublicKey), key(&signer.PublicKey)}); len(got) != 2 {
		t.Errorf("%d of two that are good are used", len(got))
	}
}
