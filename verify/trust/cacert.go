package trust

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rescue"
)

// authorities are the certificate authorities of a ca-cert.
type authorities struct {
	cas []root.CertificateAuthority
	// expires is when the last of them can issue no more.
	expires time.Time
}

func resolveCerts(id certID, files fileSet) certsOrError {
	data, what := []byte(id.pem), "ca-cert"
	if id.pem == "" {
		h := held{KindSecret, id.secret}
		f := files[h]
		if f.err != nil {
			return certsOrError{err: f.err}
		}
		data, what = f.data, h.String()
	}
	var a *authorities
	err := rescue.Do(nil, "reading certificates", func() (err error) {
		a, err = parseAuthorities(data)
		return err
	})
	if err != nil {
		return certsOrError{err: fmt.Errorf("%s: %w: %w", what, ErrInvalid, err)}
	}
	return certsOrError{authorities: a}
}

// parseAuthorities reads certificates. Those that none of the others issued are trusted; the others may stand between.
func parseAuthorities(data []byte) (*authorities, error) {
	certs, err := policy.ParseCertificates(data)
	if err != nil {
		return nil, err
	}
	var roots, between []*x509.Certificate
	for i, c := range certs {
		// Anybody who has a certificate of a CA could otherwise issue more.
		if !c.BasicConstraintsValid || !c.IsCA {
			return nil, fmt.Errorf("certificate %d is not that of a certificate authority", i+1)
		}
		if issuedByAnother(c, certs) {
			between = append(between, c)
		} else {
			roots = append(roots, c)
		}
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("the certificates issue each other in a circle")
	}
	a := &authorities{}
	for _, r := range roots {
		a.cas = append(a.cas, &root.FulcioCertificateAuthority{Root: r, Intermediates: between})
		if r.NotAfter.After(a.expires) {
			a.expires = r.NotAfter
		}
	}
	return a, nil
}

func issuedByAnother(c *x509.Certificate, certs []*x509.Certificate) bool {
	for _, other := range certs {
		if !bytes.Equal(other.Raw, c.Raw) && !bytes.Equal(c.RawSubject, c.RawIssuer) && bytes.Equal(c.RawIssuer, other.RawSubject) && c.CheckSignatureFrom(other) == nil {
			return true
		}
	}
	return false
}

// certificateMaterial is what a ca-cert makes of a trust root: other certificate authorities, the same CT logs.
type certificateMaterial struct {
	root.BaseTrustedMaterial
	cas  []root.CertificateAuthority
	logs map[string]*root.TransparencyLog
}

func (m *certificateMaterial) FulcioCertificateAuthorities() []root.CertificateAuthority {
	return m.cas
}

func (m *certificateMaterial) CTLogs() map[string]*root.TransparencyLog { return m.logs }
