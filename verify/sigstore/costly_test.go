package sigstore_test

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/sigstore"
	"github.com/cosentry/cosentry/verify/sigstore/sigstoretest"
)

// Each signature of an envelope costs a hash of all of its payload, for each key, and nothing ends that. So there is one,
// in either form, and a good one beside others does not count.
func TestAnEnvelopeIsSignedExactlyOnce(t *testing.T) {
	w, stranger := newWorkshop(t), newWorkshop(t)
	for _, k := range kinds() {
		if !k.bundle && !k.attests {
			continue
		}
		other := stranger.make(k, appDigest, stranger.all(k))
		var foreign any
		other.envelope(func(m map[string]any) { foreign = in(m, "signatures", 0) })
		for name, change := range map[string]func(own any) []any{
			"none":              func(any) []any { return []any{} },
			"twice":             func(own any) []any { return []any{own, own} },
			"and by a stranger": func(own any) []any { return []any{own, foreign} },
			"after a stranger":  func(own any) []any { return []any{foreign, own} },
			"and null":          func(own any) []any { return []any{own, nil} },
		} {
			th := w.make(k, appDigest, w.all(k))
			th.envelope(func(m map[string]any) { m["signatures"] = change(in(m, "signatures", 0)) })
			if got, tally := judge(t, k, w.demand(k), th); len(got) != 0 || tally.Reason() != sigstore.Unreadable {
				t.Errorf("%v, %s: %v, %s", k, name, got, tally.Why())
			}
		}
	}
}

// subjects is a statement about the image among others, within the bounds if it is only base64 that is looked at.
func subjects(predicateType string, n int) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":%q,"subject":[{"digest":{"sha256":%q}}%s]}`,
		predicateType, appDigest.Encoded(), strings.Repeat(`,{"digest":{"a":""}}`, n))
}

// Anybody can make a certificate that names the issuer and the subject. What is signed with it is not looked into.
func TestAStrangersStatementIsNotParsed(t *testing.T) {
	w, stranger := newWorkshop(t), newWorkshop(t)
	k := kind{attests: true, keyless: true}
	d := w.demand(k)
	for name, att := range map[string]evidence.Signature{
		"with proofs":    stranger.AttestationOver(subjects(slsa, 20_000), stranger.all(k)),
		"without proofs": stranger.AttestationOver(subjects(slsa, 20_000), sigstoretest.By{}),
	} {
		var tally sigstore.Tally
		made := testing.AllocsPerRun(1, func() {
			_, tally = sigstore.Read(&evidence.Evidence{Digest: appDigest, Attestations: []evidence.Signature{att}}).Attestations(t.Context(), d)
		})
		if tally.Reason() != sigstore.UntrustedCertificate || made > 10_000 {
			t.Errorf("%s: %.0f allocations, %s", name, made, tally.Why())
		}
	}
}

// Base64 hides the elements of a statement from whoever counts those of the envelope. Subjects are made values of; a
// predicate is not, and a list of packages has any number of elements.
func TestSubjectsAreBounded(t *testing.T) {
	w := newWorkshop(t)
	for _, k := range kinds() {
		if !k.bundle && !k.attests {
			continue
		}
		predicateType := slsa
		if !k.attests {
			predicateType = "https://sigstore.dev/cosign/sign/v1"
		}
		make := func(statement []byte) *thing {
			if k.bundle {
				b := w.BundleOver(statement, w.all(k))
				return &thing{tb: t, bundle: &b, attests: k.attests}
			}
			s := w.AttestationOver(statement, w.all(k))
			return &thing{tb: t, classic: &s, attests: true}
		}
		checkAccepted(t, k, w.demand(k), make(subjects(predicateType, 1000)))
		want := sigstore.Unreadable
		if !k.bundle && !k.keyless {
			want = sigstore.NotByKey // which says more, and in the same words
		}
		many := int(limits.Elements.Max())
		checkRefused(t, k, w.demand(k), make(subjects(predicateType, many/3)), want)
		twice := string(subjects(predicateType, many/3))
		checkRefused(t, k, w.demand(k), make([]byte(strings.TrimSuffix(twice, "}")+`,"subject":[]}`)), want)
		large := strings.TrimSuffix(string(subjects(predicateType, 0)), "}") + `,"predicate":{"packages":[` + strings.Repeat(`{},`, many) + `{}]}}`
		checkAccepted(t, k, w.demand(k), make([]byte(large)))
	}
}

// laterCAs has authorities that were trusted only from a time on.
type laterCAs struct {
	root.TrustedMaterial
	since time.Time
}

func (l laterCAs) FulcioCertificateAuthorities() []root.CertificateAuthority {
	var all []root.CertificateAuthority
	for _, ca := range l.TrustedMaterial.FulcioCertificateAuthorities() {
		later := *ca.(*root.FulcioCertificateAuthority)
		later.ValidityPeriodStart = l.since
		all = append(all, &later)
	}
	return all
}

// A certificate counts if its authority was trusted when it signed, though it was not yet when the certificate began.
func TestAnAuthorityMayBeTrustedLaterThanItsCertificateBegan(t *testing.T) {
	w := newWorkshop(t)
	for _, k := range kinds() {
		if !k.keyless {
			continue
		}
		th := w.make(k, appDigest, w.all(k))
		for _, proofs := range []struct{ log, stamp bool }{{true, true}, {true, false}, {false, true}, {false, false}} {
			d := w.demand(k)
			if !proofs.log {
				d.Logs = nil
			}
			if !proofs.stamp {
				d.Timestamps = nil
			}
			d.CAs = laterCAs{w.CAs(), w.minutes(-0.1)}
			checkAccepted(t, k, d, th)
			d.CAs = laterCAs{w.CAs(), w.minutes(60)}
			checkRefused(t, k, d, th, sigstore.UntrustedCertificate)
		}
	}
}

// What is parsed of a certificate is kept for as long as the image is judged: 64 KiB of empty names take 5 MiB, for each of
// 128 signatures.
func TestACertificateHasFewNames(t *testing.T) {
	w := newWorkshop(t)
	key := sigstoretest.NewKey(t, "P-256")
	for _, k := range kinds() {
		if !k.keyless {
			continue
		}
		for n, want := range map[int]sigstore.Reason{200: sigstore.UntrustedCertificate, 257: sigstore.Unreadable} {
			template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: w.minutes(-5), NotAfter: w.minutes(5)}
			for range n {
				template.URIs = append(template.URIs, &url.URL{})
			}
			der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
			th := w.make(k, appDigest, w.all(k))
			if k.bundle {
				th.json(func(m map[string]any) {
					object(m, "verificationMaterial", "certificate")["rawBytes"] = base64.StdEncoding.EncodeToString(der)
				})
			} else {
				th.classic.Annotations[static.CertificateAnnotationKey] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
			}
			checkRefused(t, k, w.demand(k), th, want)
		}
	}
}

// A log entry's body is base64, which hides its elements from the bound on all of them.
func TestALogEntryHasFewElements(t *testing.T) {
	w := newWorkshop(t)
	for _, k := range kinds() {
		th := w.make(k, appDigest, w.all(k))
		body := base64.StdEncoding.EncodeToString([]byte(`{"apiVersion":"0.0.1","kind":"dsse","spec":{"signatures":[` + strings.Repeat(`{},`, 2000) + `{}]}}`))
		th.logEntry(func(m map[string]any) { m["canonicalizedBody"] = body }, func(m map[string]any) { object(m, "Payload")["body"] = body })
		d := w.demand(k)
		made := testing.AllocsPerRun(1, func() { checkRefused(t, k, d, th, sigstore.BadLogEntry) })
		if made > 2_000 {
			t.Errorf("%v: %.0f allocations", k, made)
		}
	}
}
