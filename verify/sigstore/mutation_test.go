package sigstore_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"

	"github.com/cosentry/cosentry/verify/sigstore"
	"github.com/cosentry/cosentry/verify/sigstore/sigstoretest"
)

// mutation is one way in which something that is accepted is broken.
type mutation struct {
	name string
	// only says of which kinds there is such a thing; nil: of all.
	only func(k kind) bool
	// by changes how it is made, with another instance at hand.
	by func(w, other *workshop, by *sigstoretest.By)
	// edit changes what was made; twin is a second one, made in the same way.
	edit func(th, twin *thing)
	// remake makes something else in its place.
	remake func(w *workshop, k kind) *thing
	// want is the reason; wantKey is another one for signatures by a key.
	want, wantKey sigstore.Reason
}

func keyless(k kind) bool { return k.keyless }
func bundles(k kind) bool { return k.bundle }

func mutations() []mutation {
	const never = sigstore.NoneFound
	entryOf := func(edit func(m map[string]any)) func(th, _ *thing) {
		return func(th, _ *thing) { th.logEntry(edit, func(map[string]any) {}) }
	}
	certificate := func(edit func(c *sigstoretest.Certificate)) func(w, other *workshop, by *sigstoretest.By) {
		return func(_, _ *workshop, by *sigstoretest.By) { edit(&by.Certificate) }
	}
	return []mutation{
		{name: "a bit of the signature", edit: func(th, _ *thing) { th.flipSignature() }, want: sigstore.BadSignature, wantKey: sigstore.NotByKey},
		{name: "a word of the payload", edit: changePayload, want: sigstore.BadSignature, wantKey: sigstore.NotByKey},
		{name: "another image's", remake: func(w *workshop, k kind) *thing { return w.make(k, otherDigest, w.all(k)) }, want: sigstore.OtherImage},
		{name: "by another key", by: func(w, _ *workshop, by *sigstoretest.By) { by.Key = sigstoretest.NewKey(w.tb, "P-256") },
			only: func(k kind) bool { return !k.keyless }, want: never, wantKey: sigstore.NotByKey},
		{name: "another use", remake: otherUse, want: sigstore.OtherUse},
		{name: "a payload of another type", remake: otherType, only: func(k kind) bool { return !k.attests && !k.bundle }, want: sigstore.OtherUse},

		{name: "another issuer", only: keyless, by: certificate(func(c *sigstoretest.Certificate) { c.Issuer = "https://issuer.example.evil" }), want: sigstore.OtherIssuer},
		{name: "another subject", only: keyless, by: certificate(func(c *sigstoretest.Certificate) { c.Subject = "x" + sigstoretest.Subject }), want: sigstore.OtherSubject},
		{name: "two issuers", only: keyless, by: certificate(func(c *sigstoretest.Certificate) { c.IssuerV1 = "https://other.example" }), want: sigstore.Unreadable},
		{name: "another certificate authority", only: keyless, remake: func(w *workshop, k kind) *thing {
			by := w.all(k)
			by.LogBy, by.TimestampBy, by.Certificate.SCTBy = w.Sigstore, w.Sigstore, w.Sigstore
			return newWorkshop(w.tb).make(k, appDigest, by)
		}, want: sigstore.UntrustedCertificate},
		{name: "a certificate for servers", only: keyless, by: certificate(func(c *sigstoretest.Certificate) { c.Usage = x509.ExtKeyUsageServerAuth }), want: sigstore.UntrustedCertificate},
		{name: "another's certificate", only: keyless, edit: func(th, twin *thing) { th.takeCertificate(twin) }, want: sigstore.BadSignature},
		{name: "no certificate", only: keyless, remake: func(w *workshop, k kind) *thing {
			return w.make(k, appDigest, w.all(kind{k.bundle, k.attests, false}))
		}, want: sigstore.NoCertificate},

		{name: "no SCT", only: keyless, by: certificate(func(c *sigstoretest.Certificate) { c.NoSCT = true }), want: sigstore.NoSCT},
		{name: "an SCT of another log", only: keyless, by: func(_, other *workshop, by *sigstoretest.By) { by.Certificate.SCTBy = other.Sigstore }, want: sigstore.BadSCT},
		{name: "an SCT of another certificate", only: keyless, by: certificate(func(c *sigstoretest.Certificate) { c.SCTOf = "other@team.example" }), want: sigstore.BadSCT},

		{name: "no log entry", by: func(_, _ *workshop, by *sigstoretest.By) { by.Log = false }, want: sigstore.NoLogEntry},
		{name: "another log", by: func(_, other *workshop, by *sigstoretest.By) { by.LogBy = other.Sigstore }, want: sigstore.OtherLog},
		{name: "another log that claims to be this one", by: func(_, other *workshop, by *sigstoretest.By) { by.LogBy = other.Sigstore },
			edit: claimLog, want: sigstore.BadLogEntry},
		{name: "a bit of the log's promise", want: sigstore.BadLogEntry, edit: func(th, _ *thing) {
			th.logEntry(func(m map[string]any) {
				p := object(m, "inclusionPromise")
				p["signedEntryTimestamp"] = flipped(p["signedEntryTimestamp"])
			}, func(m map[string]any) { m["SignedEntryTimestamp"] = flipped(m["SignedEntryTimestamp"]) })
		}},
		{name: "the time of the log entry", want: sigstore.BadLogEntry, edit: func(th, _ *thing) {
			th.logEntry(func(m map[string]any) { m["integratedTime"] = later(m["integratedTime"]) },
				func(m map[string]any) { p := object(m, "Payload"); p["integratedTime"] = later(p["integratedTime"]) })
		}},
		{name: "the place of the log entry", want: sigstore.BadLogEntry, edit: func(th, _ *thing) {
			th.logEntry(func(m map[string]any) { m["logIndex"] = "7" }, func(m map[string]any) { object(m, "Payload")["logIndex"] = 7 })
		}},
		{name: "the root of the inclusion proof", only: bundles, want: sigstore.BadLogEntry, edit: entryOf(func(m map[string]any) {
			p := object(m, "inclusionProof")
			p["rootHash"] = flipped(p["rootHash"])
		})},
		{name: "a hash in the inclusion proof", only: bundles, want: sigstore.BadLogEntry, edit: entryOf(func(m map[string]any) {
			object(m, "inclusionProof")["hashes"] = []any{object(m, "inclusionProof")["rootHash"]}
		})},
		{name: "the checkpoint of another log", only: bundles, want: sigstore.BadLogEntry, edit: entryOf(func(m map[string]any) {
			c := object(m, "inclusionProof", "checkpoint")
			text := c["envelope"].(string)
			at := strings.LastIndex(strings.TrimSpace(text), " ") + 1
			c["envelope"] = text[:at] + flipped(strings.TrimSpace(text[at:])) + "\n"
		})},
		{name: "the checkpoint left out", only: bundles, want: sigstore.BadLogEntry, edit: entryOf(func(m map[string]any) {
			delete(object(m, "inclusionProof"), "checkpoint")
		})},
		{name: "the log entry of another signature", edit: func(th, twin *thing) { th.takeLogEntry(twin) }, want: sigstore.BadLogEntry},
		{name: "the same log entry twice", only: bundles, want: sigstore.BadLogEntry, edit: func(th, _ *thing) {
			th.json(func(m map[string]any) {
				all := in(m, "verificationMaterial", "tlogEntries").([]any)
				object(m, "verificationMaterial")["tlogEntries"] = append(all, all...)
			})
		}},
		{name: "too many log entries", only: bundles, want: sigstore.BadLogEntry, edit: func(th, _ *thing) {
			th.json(func(m map[string]any) {
				one := in(m, "verificationMaterial", "tlogEntries", 0)
				object(m, "verificationMaterial")["tlogEntries"] = []any{one, one, one, one, one}
			})
		}},

		{name: "no timestamp", by: func(_, _ *workshop, by *sigstoretest.By) { by.Timestamp = false }, want: sigstore.NoTimestamp},
		{name: "another authority's timestamp", by: func(_, other *workshop, by *sigstoretest.By) { by.TimestampBy = other.Sigstore }, want: sigstore.BadTimestamp},
		{name: "a bit of the timestamp", edit: func(th, _ *thing) { th.flipTimestamp() }, want: sigstore.BadTimestamp},
		{name: "the timestamp of another signature", edit: func(th, twin *thing) { th.takeTimestamp(twin) }, want: sigstore.BadTimestamp},

		{name: "a certificate that had expired", only: keyless, want: sigstore.NotValidThen, by: func(w, _ *workshop, by *sigstoretest.By) {
			by.Certificate.NotBefore, by.Certificate.NotAfter = w.minutes(-1.5), w.minutes(-1)
		}},
		{name: "a certificate that was not valid yet", only: keyless, want: sigstore.NotValidThen, by: func(w, _ *workshop, by *sigstoretest.By) {
			by.Certificate.NotBefore, by.Certificate.NotAfter = w.minutes(20), w.minutes(30)
		}},
		{name: "a log entry made after the certificate had expired", only: keyless, want: sigstore.NotValidThen,
			by: func(w, _ *workshop, by *sigstoretest.By) { by.LogTime = w.minutes(40) }},

		{name: "the annotations of another signature", only: func(k kind) bool { return !k.bundle }, want: sigstore.BadSignature, wantKey: sigstore.BadLogEntry,
			edit: func(th, twin *thing) { th.classic.Annotations = twin.classic.Annotations }},
		{name: "a log entry that is no JSON", want: sigstore.BadLogEntry, edit: func(th, _ *thing) {
			th.logEntry(func(m map[string]any) { m["canonicalizedBody"] = "e30=" }, func(m map[string]any) { object(m, "Payload")["body"] = 5 })
		}},
		{name: "a certificate that is none", only: func(k kind) bool { return k.keyless && !k.bundle }, want: sigstore.Unreadable,
			edit: func(th, _ *thing) { th.classic.Annotations[static.CertificateAnnotationKey] = "certificate" }},
	}
}

func later(t any) any {
	switch t := t.(type) {
	case json.Number:
		return json.Number(t.String()[:len(t)-1] + string('0'+('9'-t[len(t)-1])))
	case string:
		return t[:len(t)-1] + string('0'+('9'-t[len(t)-1]))
	}
	panic("no time")
}

func changePayload(th, _ *thing) {
	if th.bundle == nil && !th.attests {
		th.classic.Payload = []byte(strings.Replace(string(th.classic.Payload), "team/app", "team/axp", 1))
		return
	}
	th.envelope(func(m map[string]any) {
		raw := must(base64.StdEncoding.DecodeString(m["payload"].(string)))
		m["payload"] = base64.StdEncoding.EncodeToString([]byte(strings.Replace(string(raw), "team/app", "team/axp", 1)))
	})
}

// otherUse is an attestation where a signature is asked for, and the other way round.
func otherUse(w *workshop, k kind) *thing {
	switch {
	case k.bundle:
		return w.make(kind{true, !k.attests, k.keyless}, appDigest, w.all(k))
	case k.attests:
		s := w.Attestation(appDigest, types.CosignSignPredicateType, nil, w.all(k))
		return &thing{tb: w.tb, classic: &s, attests: true}
	}
	s := w.SignatureOver([]byte(strings.Replace(string(sigstoretest.SimplePayload(appDigest)), "cosign container image signature", "scan report", 1)), w.all(k))
	return &thing{tb: w.tb, classic: &s}
}

func otherType(w *workshop, k kind) *thing {
	s := w.SignatureOver([]byte(`{"critical":{"image":{"docker-manifest-digest":"`+appDigest.String()+`"}}}`), w.all(k))
	return &thing{tb: w.tb, classic: &s}
}

// claimLog replaces the name of the log by that of the twin's.
func claimLog(th, twin *thing) {
	if th.bundle == nil {
		var from map[string]any
		if err := json.Unmarshal([]byte(twin.classic.Annotations[static.BundleAnnotationKey]), &from); err != nil {
			th.tb.Fatal(err)
		}
		th.annotation(static.BundleAnnotationKey, func(m map[string]any) { object(m, "Payload")["logID"] = object(from, "Payload")["logID"] })
		return
	}
	var from map[string]any
	if err := json.Unmarshal(twin.bundle.Raw, &from); err != nil {
		th.tb.Fatal(err)
	}
	th.json(func(m map[string]any) {
		object(m, "verificationMaterial", "tlogEntries", 0)["logId"] = in(from, "verificationMaterial", "tlogEntries", 0, "logId")
	})
}

// Everything that is accepted, broken in one way, is refused for that very reason; in both forms, by key and keyless,
// as a signature and as an attestation.
func TestBrokenInOneWayIsRefusedForThatReason(t *testing.T) {
	w, other := newWorkshop(t), newWorkshop(t)
	for _, k := range kinds() {
		t.Run(k.String()+"/unbroken", func(t *testing.T) { checkAccepted(t, k, w.demand(k), w.make(k, appDigest, w.all(k))) })
		for _, m := range mutations() {
			if m.only != nil && !m.only(k) {
				continue
			}
			t.Run(k.String()+"/"+m.name, func(t *testing.T) {
				by := w.all(k)
				if m.by != nil {
					m.by(w, other, &by)
				}
				var th *thing
				if m.remake != nil {
					th = m.remake(w, k)
				} else {
					th = w.make(k, appDigest, by)
				}
				if m.edit != nil {
					m.edit(th, w.make(k, appDigest, w.all(k)))
				}
				want := m.want
				if !k.keyless && m.wantKey != 0 {
					want = m.wantKey
				}
				checkRefused(t, k, w.demand(k), th, want)
			})
		}
	}
}

// What is broken among what nobody demanded neither helps nor harms.
func TestWhatIsNotDemandedIsNotLookedAt(t *testing.T) {
	w := newWorkshop(t)
	for _, k := range kinds() {
		for _, m := range mutations() {
			if m.only != nil && !m.only(k) || m.remake != nil || k.keyless && strings.Contains(m.name, "certificate") {
				continue
			}
			d := w.demand(k)
			switch m.want {
			case sigstore.NoLogEntry, sigstore.OtherLog, sigstore.BadLogEntry:
				d.Logs = nil
			case sigstore.NoTimestamp, sigstore.BadTimestamp:
				d.Timestamps = nil
			case sigstore.NoSCT, sigstore.BadSCT:
				d.IgnoreSCT = true
			default:
				continue
			}
			t.Run(k.String()+"/"+m.name, func(t *testing.T) {
				by := w.all(k)
				if m.by != nil {
					m.by(w, newWorkshop(t), &by)
				}
				th := w.make(k, appDigest, by)
				if m.edit != nil {
					m.edit(th, w.make(k, appDigest, w.all(k)))
				}
				checkAccepted(t, k, d, th)
			})
		}
	}
}
