package sigstore

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	fulcio "github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
)

// maxChain is how many certificates of the chain beside a signature are looked at.
const maxChain = 8

// certificate is a signer's, with what it says about the signer.
type certificate struct {
	*x509.Certificate
	// chain came with it: nobody has vouched for these yet.
	chain    []*x509.Certificate
	issuer   string
	subjects []string // every alternative name
	subject  string   // the one to be shown
	github   GitHub
}

// readPEM reads the certificate that stands beside a signature of the classic form, and its chain. An
// unreadable chain is none: it can only ever help.
func readPEM(leaf, chain string) (*certificate, error) {
	if err := limits.Certificate.Check(int64(len(leaf))); err != nil {
		return nil, err
	}
	certs, err := cryptoutils.UnmarshalCertificatesFromPEMLimited([]byte(leaf), 1)
	if err != nil {
		return nil, fmt.Errorf("reading a signature's certificate: %w", err)
	}
	if len(certs) != 1 {
		return nil, errors.New("no certificate in PEM")
	}
	c, err := readCertificate(certs[0])
	if err != nil || limits.Certificate.Check(int64(len(chain))) != nil {
		return c, err
	}
	others, err := cryptoutils.UnmarshalCertificatesFromPEMLimited([]byte(chain), maxChain)
	if err != nil {
		return c, nil
	}
	for _, other := range others {
		// A root in the chain is left out: it is the policy that says which to trust.
		if other.IsCA && reasonable(other) && names(other) <= limits.CertificateNames.Max() && string(other.RawSubject) != string(other.RawIssuer) {
			c.chain = append(c.chain, other)
		}
	}
	return c, nil
}

// reasonable bounds the time that is needed to check a signature by a certificate's key: a key is used before it is
// trusted, and that of a crafted certificate could keep a node busy for minutes.
func reasonable(c *x509.Certificate) bool {
	k, ok := c.PublicKey.(*rsa.PublicKey)
	return !ok || limits.CertificateKey.Check(int64(k.N.BitLen())) == nil
}

// names is how many alternative names a certificate has. It is kept as parsed, and a URI of no bytes takes a hundred.
func names(c *x509.Certificate) int64 {
	return int64(len(c.DNSNames) + len(c.EmailAddresses) + len(c.URIs) + len(c.IPAddresses))
}

// readCertificate refuses what could be read in two ways.
func readCertificate(c *x509.Certificate) (*certificate, error) {
	if err := limits.Certificate.Check(int64(len(c.Raw))); err != nil {
		return nil, err
	}
	if !reasonable(c) {
		return nil, &limits.Exceeded{Bound: limits.CertificateKey}
	}
	if err := limits.CertificateNames.Check(names(c)); err != nil {
		return nil, err
	}
	// Go knows no alternative names of the kind otherName, which Fulcio gives to some, and marks the extension as not
	// understood. It is read below. Whatever else is critical and not understood makes a certificate void.
	c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, func(id asn1.ObjectIdentifier) bool {
		return id.Equal(cryptoutils.SANOID)
	})
	if len(c.UnhandledCriticalExtensions) > 0 {
		return nil, errors.New("a critical extension is not known here")
	}
	issuer, err := issuerOf(c)
	if err != nil {
		return nil, err
	}
	ext, err := fulcio.ParseExtensions(c.Extensions)
	if err != nil {
		return nil, fmt.Errorf("reading a certificate's extensions: %w", err)
	}
	read := &certificate{
		Certificate: c, issuer: issuer, subjects: cryptoutils.GetSubjectAlternateNames(c),
		github: GitHub{
			WorkflowTrigger: ext.GithubWorkflowTrigger, WorkflowSHA: ext.GithubWorkflowSHA, WorkflowName: ext.GithubWorkflowName,
			WorkflowRepo: ext.GithubWorkflowRepository, WorkflowRef: ext.GithubWorkflowRef,
		},
	}
	read.subject = subjectOf(c, read.subjects)
	return read, nil
}

// issuerOf reads the identity provider from the extension of either version. Two that differ are none: a reader of
// one would trust another issuer than a reader of the other.
func issuerOf(c *x509.Certificate) (string, error) {
	var first, second string
	var both int
	for _, e := range c.Extensions {
		switch {
		//lint:ignore SA1019 certificates carry both, and cosign reads this one first
		case e.Id.Equal(fulcio.OIDIssuer):
			first = string(e.Value)
			both++
		case e.Id.Equal(fulcio.OIDIssuerV2):
			if err := fulcio.ParseDERString(e.Value, &second); err != nil {
				return "", fmt.Errorf("reading a certificate's issuer: %w", err)
			}
			both++
		}
	}
	if both == 2 && first != second {
		return "", errors.New("a certificate names two issuers")
	}
	if first != "" {
		return first, nil
	}
	return second, nil
}

// subjectOf is the name that policy-controller shows to policies: the first address, else the first URI, else the
// other name; of a certificate that has none of these, whatever it has.
func subjectOf(c *x509.Certificate, all []string) string {
	switch {
	case len(c.EmailAddresses) > 0:
		return c.EmailAddresses[0]
	case len(c.URIs) > 0:
		return c.URIs[0].String()
	}
	if other, err := cryptoutils.UnmarshalOtherNameSAN(c.Extensions); err == nil && other != "" {
		return other
	}
	if len(all) > 0 {
		return all[0]
	}
	return ""
}

// is returns nil if the certificate is for one of the identities. Every alternative name counts, as in cosign; names that
// the certificate's authority did not mean to vouch for it must not put in.
func (c *certificate) is(ids []policy.Identity) *refusal {
	byIssuer := false
	for _, id := range ids {
		if !says(id.Issuer, id.IssuerRegExp, c.issuer) {
			continue
		}
		byIssuer = true
		if slices.ContainsFunc(c.subjects, func(s string) bool { return says(id.Subject, id.SubjectRegExp, s) }) {
			return nil
		}
	}
	if byIssuer {
		return &refusal{OtherSubject, c.subject}
	}
	return &refusal{OtherIssuer, c.issuer}
}

// says compares with the one of the two that is set. An identity that sets none of them, or both, is nobody's.
func says(exact string, re *regexp.Regexp, value string) bool {
	switch {
	case exact != "" && re == nil:
		return value == exact
	case exact == "" && re != nil:
		return re.MatchString(value)
	}
	return false
}

// validAt reports whether the time is within the certificate's validity, ends included as everywhere in sigstore.
func (c *certificate) validAt(t time.Time) bool {
	return !t.Before(c.NotBefore) && !t.After(c.NotAfter)
}

// trustedAt returns the chains from the certificate to the trusted authorities at a time.
func (j *judgement) trustedAt(c *certificate, t time.Time) ([][]*x509.Certificate, bool) {
	chains, err := sgverify.VerifyLeafCertificate(t, c.Certificate, j.trusted.withIntermediates(c.chain))
	return chains, err == nil && len(chains) > 0
}

// validThen reports whether the certificate and its authorities were valid at a time.
func (j *judgement) validThen(c *certificate, t time.Time) bool {
	_, ok := j.trustedAt(c, t)
	return ok && c.validAt(t)
}

// vouched asks, before anything else, whether a trusted authority has issued the certificate: when it begins, or at one
// of the times at which it will have to be valid. What another one says is a stranger's, and what is signed with it is not
// looked into, not even for the words: anybody can make one that names the issuer and the subject that are demanded.
func (j *judgement) vouched(c *certificate, times func(*judgement) []time.Time) bool {
	if _, ok := j.trustedAt(c, c.NotBefore); ok {
		return true
	}
	all := times(j)
	if j.byNow() {
		all = append(all, j.Now)
	}
	return slices.ContainsFunc(all, func(at time.Time) bool {
		_, ok := j.trustedAt(c, at)
		return ok
	})
}

// sct returns nil if a trusted certificate transparency log promises to hold the certificate, or if that is not
// asked for. chains are those to its authorities.
func (j *judgement) sct(c *certificate, chains [][]*x509.Certificate) *refusal {
	if j.IgnoreSCT {
		return nil
	}
	if sgverify.VerifySignedCertificateTimestamp(chains, 1, &j.trusted) == nil {
		return nil
	}
	if !hasSCT(c) {
		return refused(NoSCT)
	}
	return refused(BadSCT)
}

// sctList is the extension that holds SCTs (RFC 6962, section 3.3).
var sctList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}

func hasSCT(c *certificate) bool {
	for _, e := range c.Extensions {
		if e.Id.Equal(sctList) {
			return true
		}
	}
	return false
}

// signedBy is the signer as the certificate has it.
func (c *certificate) signedBy() Signer {
	return Signer{Issuer: c.issuer, Subject: c.subject, GitHub: c.github}
}
