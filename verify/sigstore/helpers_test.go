package sigstore_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/cosign/v2/pkg/oci/static"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/sigstore"
	"github.com/cosentry/cosentry/verify/sigstore/sigstoretest"
)

const slsa = "https://slsa.dev/provenance/v1"

var (
	appDigest   = digest.FromString("the image in question")
	otherDigest = digest.FromString("another image")
)

// kind is one of the eight ways in which something can be signed.
type kind struct{ bundle, attests, keyless bool }

func kinds() []kind {
	var all []kind
	for i := range 8 {
		all = append(all, kind{i&1 != 0, i&2 != 0, i&4 != 0})
	}
	return all
}

func (k kind) String() string {
	pick := func(b bool, yes, no string) string {
		if b {
			return yes
		}
		return no
	}
	return pick(k.keyless, "keyless", "key") + " " + pick(k.bundle, "bundle", "classic") + " " + pick(k.attests, "attestation", "signature")
}

// thing is one signed thing that can be changed afterwards.
type thing struct {
	tb      testing.TB
	classic *evidence.Signature
	bundle  *evidence.Bundle
	attests bool
}

// workshop makes things of one instance, by one key where a key signs.
type workshop struct {
	*sigstoretest.Sigstore
	tb  testing.TB
	key policy.PublicKey
	by  sigstoretest.By // the key's
}

func newWorkshop(tb testing.TB) *workshop {
	key := sigstoretest.NewKey(tb, "P-256")
	return &workshop{sigstoretest.New(tb), tb, sigstoretest.PublicKey(key), sigstoretest.By{Key: key}}
}

// all is a good signer of the kind, with every proof.
func (w *workshop) all(k kind) sigstoretest.By {
	by := sigstoretest.By{}
	if !k.keyless {
		by = w.by
	}
	by.Log, by.Timestamp = true, true
	return by
}

func (w *workshop) make(k kind, d digest.Digest, by sigstoretest.By) *thing {
	w.tb.Helper()
	th := &thing{tb: w.tb, attests: k.attests}
	switch {
	case k.bundle && k.attests:
		b := w.AttestationBundle(d, slsa, map[string]any{"ok": true}, by)
		th.bundle = &b
	case k.bundle:
		b := w.Bundle(d, by)
		th.bundle = &b
	case k.attests:
		s := w.Attestation(d, slsa, map[string]any{"ok": true}, by)
		th.classic = &s
	default:
		s := w.Signature(d, by)
		th.classic = &s
	}
	return th
}

// demand is for everything.
func (w *workshop) demand(k kind) sigstore.Demand {
	d := sigstore.Demand{Logs: w.Logs(), Timestamps: w.Timestamps(), Now: w.Now()}
	if k.keyless {
		d.CAs, d.Identities = w.CAs(), []policy.Identity{sigstoretest.Identity(sigstoretest.Issuer, sigstoretest.Subject)}
	} else {
		d.Keys = []policy.PublicKey{w.key}
	}
	return d
}

func evidenceOf(things ...*thing) *evidence.Evidence {
	ev := &evidence.Evidence{Repository: sigstoretest.Repository, Digest: appDigest}
	for _, th := range things {
		switch {
		case th.bundle != nil:
			ev.Bundles = append(ev.Bundles, *th.bundle)
		case th.attests:
			ev.Attestations = append(ev.Attestations, *th.classic)
		default:
			ev.Signatures = append(ev.Signatures, *th.classic)
		}
	}
	return ev
}

// judge asks for what the kind is, and gives what was accepted.
func judge(tb testing.TB, k kind, d sigstore.Demand, things ...*thing) ([]sigstore.Signer, sigstore.Tally) {
	tb.Helper()
	m := sigstore.Read(evidenceOf(things...))
	if !k.attests {
		return m.Signatures(tb.Context(), d)
	}
	atts, t := m.Attestations(tb.Context(), d)
	var signers []sigstore.Signer
	for _, a := range atts {
		signers = append(signers, a.Signer)
	}
	return signers, t
}

func checkAccepted(tb testing.TB, k kind, d sigstore.Demand, th *thing) sigstore.Signer {
	tb.Helper()
	got, t := judge(tb, k, d, th)
	if len(got) != 1 || t.Accepted != 1 || t.Found != 1 {
		tb.Fatalf("not accepted: %s", t.Why())
	}
	return got[0]
}

func checkRefused(tb testing.TB, k kind, d sigstore.Demand, th *thing, want sigstore.Reason) {
	tb.Helper()
	got, t := judge(tb, k, d, th)
	if len(got) != 0 || t.Accepted != 0 {
		tb.Fatalf("accepted: %+v", got)
	}
	if t.Reason() != want {
		tb.Errorf("reason %d (%s), want %d", t.Reason(), t.Why(), want)
	}
	if why := t.Why(); why == "" || len(why) > 200 {
		tb.Errorf("%d bytes of words: %s", len(why), why)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// json changes the JSON of a bundle; annotation that of one of a classic signature's annotations.
func (th *thing) json(edit func(m map[string]any)) {
	raw := editJSON(th.tb, th.bundle.Raw, edit)
	th.bundle = &evidence.Bundle{Raw: raw, Source: digest.FromBytes(raw)}
}

func (th *thing) annotation(name string, edit func(m map[string]any)) {
	th.classic.Annotations[name] = string(editJSON(th.tb, []byte(th.classic.Annotations[name]), edit))
}

func editJSON(tb testing.TB, raw []byte, edit func(m map[string]any)) []byte {
	tb.Helper()
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		tb.Fatal(err)
	}
	edit(m)
	return must(json.Marshal(m))
}

// flipped is base64 with a bit of its last byte but one changed.
func flipped(b64 any) string {
	raw := must(base64.StdEncoding.DecodeString(b64.(string)))
	raw[len(raw)-2] ^= 4
	return base64.StdEncoding.EncodeToString(raw)
}

func in(m map[string]any, path ...any) any {
	var v any = m
	for _, p := range path {
		switch p := p.(type) {
		case string:
			v = v.(map[string]any)[p]
		case int:
			v = v.([]any)[p]
		}
	}
	return v
}

func object(m map[string]any, path ...any) map[string]any { return in(m, path...).(map[string]any) }

func (th *thing) envelope(edit func(m map[string]any)) {
	switch {
	case th.bundle != nil:
		th.json(func(m map[string]any) { edit(object(m, "dsseEnvelope")) })
	case th.attests:
		th.classic.Payload = editJSON(th.tb, th.classic.Payload, edit)
	default:
		th.tb.Fatal("no envelope")
	}
}

// flipSignature changes a bit of the signature.
func (th *thing) flipSignature() {
	if th.bundle == nil && !th.attests {
		th.classic.Base64Signature = flipped(th.classic.Base64Signature)
		return
	}
	th.envelope(func(m map[string]any) { s := object(m, "signatures", 0); s["sig"] = flipped(s["sig"]) })
}

// logEntry changes the log entry, bundle's or classic.
func (th *thing) logEntry(bundled, classic func(m map[string]any)) {
	if th.bundle != nil {
		th.json(func(m map[string]any) { bundled(object(m, "verificationMaterial", "tlogEntries", 0)) })
		return
	}
	th.annotation(static.BundleAnnotationKey, classic)
}

func (th *thing) takeLogEntry(from *thing) {
	if th.bundle == nil {
		th.classic.Annotations[static.BundleAnnotationKey] = from.classic.Annotations[static.BundleAnnotationKey]
		return
	}
	var other map[string]any
	if err := json.Unmarshal(from.bundle.Raw, &other); err != nil {
		th.tb.Fatal(err)
	}
	th.json(func(m map[string]any) {
		object(m, "verificationMaterial")["tlogEntries"] = in(other, "verificationMaterial", "tlogEntries")
	})
}

func (th *thing) takeTimestamp(from *thing) {
	if th.bundle == nil {
		th.classic.Annotations[static.RFC3161TimestampAnnotationKey] = from.classic.Annotations[static.RFC3161TimestampAnnotationKey]
		return
	}
	var other map[string]any
	if err := json.Unmarshal(from.bundle.Raw, &other); err != nil {
		th.tb.Fatal(err)
	}
	th.json(func(m map[string]any) {
		object(m, "verificationMaterial")["timestampVerificationData"] = in(other, "verificationMaterial", "timestampVerificationData")
	})
}

func (th *thing) flipTimestamp() {
	if th.bundle == nil {
		th.annotation(static.RFC3161TimestampAnnotationKey, func(m map[string]any) {
			m["SignedRFC3161Timestamp"] = flipped(m["SignedRFC3161Timestamp"])
		})
		return
	}
	th.json(func(m map[string]any) {
		ts := object(m, "verificationMaterial", "timestampVerificationData", "rfc3161Timestamps", 0)
		ts["signedTimestamp"] = flipped(ts["signedTimestamp"])
	})
}

// takeCertificate puts another's certificate in place of the own.
func (th *thing) takeCertificate(from *thing) {
	if th.bundle == nil {
		th.classic.Annotations[static.CertificateAnnotationKey] = from.classic.Annotations[static.CertificateAnnotationKey]
		return
	}
	var other map[string]any
	if err := json.Unmarshal(from.bundle.Raw, &other); err != nil {
		th.tb.Fatal(err)
	}
	th.json(func(m map[string]any) {
		object(m, "verificationMaterial")["certificate"] = in(other, "verificationMaterial", "certificate")
	})
}

// minutes is a time relative to when the instance was made.
func (w *workshop) minutes(n float64) time.Time {
	return w.Now().Add(-time.Minute).Add(time.Duration(n * float64(time.Minute)))
}

func ExampleTally_Why() {
	fmt.Println(sigstore.Tally{}.Why())
	// Output: no signatures found
}
