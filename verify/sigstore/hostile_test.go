package sigstore_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/sigstore/cosign/v2/pkg/oci/static"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/sigstore"
	"github.com/cosentry/cosentry/verify/sigstore/sigstoretest"
)

// Log entries in which something is missing that their readers take for granted. Some of them make a library panic.
var hollow = []string{
	``, `null`, `{}`, `[]`, `"x"`, `{"kind":"hashedrekord"}`, `{"kind":"nothing","apiVersion":"0.0.1","spec":{}}`,
	`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{}}`,
	`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":null}`,
	`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"signature":{}}}`,
	`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{}},"signature":{"content":"AA==","publicKey":{"content":"AA=="}}}}`,
	`{"apiVersion":"0.0.1","kind":"dsse","spec":{}}`,
	`{"apiVersion":"0.0.1","kind":"dsse","spec":{"signatures":[]}}`,
	`{"apiVersion":"0.0.1","kind":"dsse","spec":{"signatures":[null]}}`,
	`{"apiVersion":"0.0.1","kind":"dsse","spec":{"signatures":[{}]}}`,
	`{"apiVersion":"0.0.1","kind":"dsse","spec":{"envelopeHash":{},"payloadHash":{},"signatures":[{"signature":"AA==","verifier":"AA=="}]}}`,
	`{"apiVersion":"0.0.1","kind":"intoto","spec":{}}`,
	`{"apiVersion":"0.0.1","kind":"intoto","spec":{"publicKey":"AA==","content":{}}}`,
	`{"apiVersion":"0.0.2","kind":"intoto","spec":{}}`,
	`{"apiVersion":"0.0.2","kind":"intoto","spec":{"content":{}}}`,
	`{"apiVersion":"0.0.2","kind":"intoto","spec":{"content":{"envelope":{"payloadType":"x","signatures":[]}}}}`,
	`{"apiVersion":"0.0.2","kind":"intoto","spec":{"content":{"envelope":{"payloadType":"x","signatures":[{}]},"hash":{"algorithm":"sha256","value":"x"}}}}`,
	`{"apiVersion":"0.0.1","kind":"rekord","spec":{}}`,
	`{"apiVersion":"0.0.1","kind":"rekord","spec":{"data":{},"signature":{"format":"x509"}}}`,
	`{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{}}}`,
	`{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{},"signature":{"verifier":{}}}}}`,
}

// A log entry without what its readers take for granted proves nothing, breaks nothing, and takes nothing from others.
func TestHollowLogEntries(t *testing.T) {
	w := newWorkshop(t)
	for _, k := range kinds() {
		d := w.demand(k)
		good := w.make(k, appDigest, w.all(k))
		for _, body := range hollow {
			th := w.make(k, appDigest, w.all(k))
			b64 := base64.StdEncoding.EncodeToString([]byte(body))
			th.logEntry(func(m map[string]any) { m["canonicalizedBody"] = b64 }, func(m map[string]any) { object(m, "Payload")["body"] = b64 })
			if got, tally := judge(t, k, d, th); len(got) != 0 || tally.Reason() != sigstore.BadLogEntry && tally.Reason() != sigstore.Unreadable {
				t.Errorf("%v, %s: %v, %s", k, body, got, tally.Why())
			}
			if got, _ := judge(t, k, d, th, good); len(got) != 1 {
				t.Errorf("%v, %s: the good one beside it is refused", k, body)
			}
		}
	}
}

func TestHollowAnnotations(t *testing.T) {
	w := newWorkshop(t)
	for _, k := range kinds() {
		if k.bundle {
			continue
		}
		for _, name := range []string{static.BundleAnnotationKey, static.RFC3161TimestampAnnotationKey, static.CertificateAnnotationKey, static.ChainAnnotationKey} {
			for _, value := range []string{"", " ", "{}", "null", "[]", `{"Payload":null}`, `{"Payload":{"body":{}}}`, `{"Payload":{"body":"%"}}`, `{"SignedRFC3161Timestamp":"AA=="}`,
				"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", strings.Repeat("x", 1<<17)} {
				th := w.make(k, appDigest, w.all(k))
				th.classic.Annotations[name] = value
				demanded := name != static.ChainAnnotationKey && (k.keyless || name != static.CertificateAnnotationKey)
				if got, tally := judge(t, k, w.demand(k), th); (len(got) == 0) != demanded {
					t.Errorf("%v: with %.30q for %s: %v, %s", k, value, name, got, tally.Why())
				}
			}
		}
	}
}

// To verify by a key takes a time that grows with the square of its length, and one is used before it is trusted.
func TestEnormousKeysAreNotUsed(t *testing.T) {
	w := newWorkshop(t)
	n := must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 8<<10)))
	n.SetBit(n, 8<<10, 1).SetBit(n, 0, 1)
	enormous := w.Certify(&rsa.PublicKey{N: n, E: 1<<31 - 1}, sigstoretest.Certificate{})
	for _, k := range kinds() {
		if !k.keyless {
			continue
		}
		th := w.make(k, appDigest, w.all(k))
		if k.bundle {
			th.json(func(m map[string]any) {
				object(m, "verificationMaterial", "certificate")["rawBytes"] = base64.StdEncoding.EncodeToString(enormous.Raw)
			})
		} else {
			th.classic.Annotations[static.CertificateAnnotationKey] = "-----BEGIN CERTIFICATE-----\n" + base64.StdEncoding.EncodeToString(enormous.Raw) + "\n-----END CERTIFICATE-----\n"
		}
		checkRefused(t, k, w.demand(k), th, sigstore.Unreadable)
	}
	for _, k := range kinds() {
		th := w.make(k, appDigest, w.all(k))
		long := base64.StdEncoding.EncodeToString([]byte(`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"x":"` + strings.Repeat("x", 16<<10) + `"}}`))
		th.logEntry(func(m map[string]any) { m["canonicalizedBody"] = long }, func(m map[string]any) { object(m, "Payload")["body"] = long })
		checkRefused(t, k, w.demand(k), th, sigstore.BadLogEntry)
	}
}

// Together pieces have no more elements than all may have; those that are beyond it are unreadable, those before it stand.
func TestElementsAreBoundedTogether(t *testing.T) {
	w := newWorkshop(t)
	good := w.make(kind{bundle: true}, appDigest, w.by)
	heavy := &thing{tb: t, bundle: &evidence.Bundle{Raw: []byte(`{"x":[` + strings.Repeat("1,", 60<<10) + `1]}`)}}
	for _, c := range []struct {
		things []*thing
		want   int
	}{{[]*thing{good, heavy, heavy}, 1}, {[]*thing{heavy, heavy, good}, 1}, {[]*thing{heavy, good, heavy}, 1}} {
		if got, tally := judge(t, kind{bundle: true}, sigstore.Demand{Keys: []policy.PublicKey{w.key}}, c.things...); len(got) != c.want {
			t.Errorf("%d accepted: %s", len(got), tally.Why())
		}
	}
}

// What a stranger wrote is quoted, in ASCII and cut, in words of at most 200 bytes.
func TestAStrangersWordsAreQuotedAndCut(t *testing.T) {
	w := newWorkshop(t)
	for _, issuer := range []string{"https://x.example/\x1b[2J\n", strings.Repeat("\x00", 300), strings.Repeat("é", 300), `"`, "https://" + strings.Repeat("a", 1000), "\xff\xfe"} {
		for _, k := range kinds() {
			if !k.keyless {
				continue
			}
			by := w.all(k)
			by.Certificate.IssuerV1, by.Certificate.IssuerV2 = issuer, "-"
			_, tally := judge(t, k, w.demand(k), w.make(k, appDigest, by))
			why := tally.Why()
			if tally.Reason() != sigstore.OtherIssuer || len(why) > 200 || strings.ContainsFunc(why, func(r rune) bool { return r < ' ' || r > '~' && r != '…' }) {
				t.Errorf("%d bytes: %s", len(why), why)
			}
		}
	}
}

func TestWords(t *testing.T) {
	w, other := newWorkshop(t), newWorkshop(t)
	k, kk := kind{}, kind{keyless: true}
	by := func(k kind, change func(by *sigstoretest.By)) *thing {
		b := w.all(k)
		change(&b)
		return w.make(k, appDigest, b)
	}
	nothing := func(*sigstoretest.By) {}
	for _, c := range []struct {
		kind   kind
		things []*thing
		want   string
	}{
		{k, nil, "no signatures found"},
		{kind{attests: true}, nil, "no attestations found"},
		{k, []*thing{by(k, nothing)}, "1 signature found, 1 accepted"},
		{k, []*thing{other.make(k, appDigest, other.all(k)), other.make(k, appDigest, other.all(k))}, "2 signatures found, none by this key"},
		{k, []*thing{w.make(k, otherDigest, w.all(k)), other.make(k, appDigest, other.all(k))}, "2 signatures found, 1 by this key but for another image"},
		{k, []*thing{otherUse(w, k), w.make(k, otherDigest, w.all(k))}, "2 signatures found, 1 by this key but not as an image signature"},
		{kind{attests: true}, []*thing{otherUse(w, kind{attests: true})}, "1 attestation found, 1 by this key but not as an attestation"},
		{k, []*thing{by(k, func(b *sigstoretest.By) { b.Log = false })}, "1 signature found, 1 by this key but without proof of a transparency log"},
		{kk, []*thing{by(kk, func(b *sigstoretest.By) { b.LogBy = other.Sigstore })}, "1 signature found, 1 by this identity but recorded in a transparency log that is not trusted"},
		{kk, []*thing{by(kk, func(b *sigstoretest.By) { b.Certificate.Issuer = "https://evil.example" })}, `1 signature found, 1 whose certificate's issuer "https://evil.example" is not the one demanded`},
		{kk, []*thing{by(kk, func(b *sigstoretest.By) { b.Certificate.Subject = "a@b.example" })}, `1 signature found, 1 whose certificate's subject "a@b.example" is not the one demanded`},
		{kk, []*thing{by(kk, func(b *sigstoretest.By) { b.Certificate.NoSCT = true })}, "1 signature found, none whose certificate has proof of a certificate transparency log (SCT)"},
		{kk, []*thing{other.make(kk, appDigest, other.all(kk))}, `1 signature found, none with a certificate from a trusted authority`},
	} {
		if _, tally := judge(t, c.kind, w.demand(c.kind), c.things...); tally.Why() != c.want {
			t.Errorf("%v: %q, want %q", c.kind, tally.Why(), c.want)
		}
	}
}

// Every reason has words, whoever signs.
func TestEveryReasonHasWords(t *testing.T) {
	for _, line := range sigstore.AllWords() {
		if line == "" || len(line) > 200 || strings.Contains(line, "%!") || strings.HasSuffix(line, ", ") {
			t.Errorf("%q", line)
		}
	}
}

// A byte of a bundle with every proof that can be changed is one that nobody signed: who signed, and when, stays the same.
func TestEveryByteOfABundleCountsOrSaysNothing(t *testing.T) {
	w := newWorkshop(t)
	k := kind{bundle: true, keyless: true}
	th := w.make(k, appDigest, w.all(k))
	d := w.demand(k)
	want := checkAccepted(t, k, d, th)
	accepted := 0
	const step = 5 // bytes: a prime, so that every place in base64's groups of four has its turn
	for at := 0; at < len(th.bundle.Raw); at += step {
		raw := bytes.Clone(th.bundle.Raw)
		raw[at] ^= 1
		got, _ := judge(t, k, d, &thing{tb: t, bundle: &evidence.Bundle{Raw: raw}})
		if len(got) == 0 {
			continue
		}
		accepted++
		if got[0].Subject != want.Subject || got[0].Issuer != want.Issuer || *got[0].LogIndex != *want.LogIndex || !got[0].LogTime.Equal(*want.LogTime) || !got[0].Timestamp.Equal(*want.Timestamp) {
			t.Errorf("byte %d is changed, and it says %s", at, fmt.Sprint(got[0]))
		}
	}
	if n := len(th.bundle.Raw) / step; accepted > n/20 {
		t.Errorf("%d of %d bytes say nothing", accepted, n)
	}
}
