package policy

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"
)

// chain is a certificate authority with one certificate issued by it, as YAML strings in quotes and as PEM.
type chain struct {
	ca, leaf, both, private string
	caPEM, leafPEM          string
}

// testChain makes a chain that is valid now, or expired since 2021.
func testChain(t testing.TB, expired bool) chain {
	t.Helper()
	from, until := time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	if expired {
		from, until = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2021, 2, 3, 0, 0, 0, 0, time.UTC)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, NotBefore: from, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test leaf"}, NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping},
	}
	caKey, leafKey := testKeys()["P-384"].(*ecdsa.PrivateKey), testKeys()["P-256"].(*ecdsa.PrivateKey)
	issue := func(c *x509.Certificate, public *ecdsa.PublicKey) string {
		der, err := x509.CreateCertificate(rand.Reader, c, ca, public, caKey)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	c := chain{caPEM: issue(ca, &caKey.PublicKey), leafPEM: issue(leaf, &leafKey.PublicKey)}
	private, err := x509.MarshalPKCS8PrivateKey(caKey)
	if err != nil {
		t.Fatal(err)
	}
	c.ca, c.leaf, c.both = fmt.Sprintf("%q", c.caPEM), fmt.Sprintf("%q", c.leafPEM), fmt.Sprintf("%q", c.caPEM+c.leafPEM)
	c.private = fmt.Sprintf("%q", c.caPEM+string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return c
}
