package sigstore_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/sigstore"
	"github.com/cosentry/cosentry/verify/sigstore/sigstoretest"
)

// Each proof that is demanded is there; one that is not demanded may be there or not.
func TestAnyDemandIsMetByEveryProof(t *testing.T) {
	w := newWorkshop(t)
	for _, k := range kinds() {
		for i := range 4 {
			d := w.demand(k)
			by := w.all(k)
			if i&1 == 0 {
				d.Logs = nil
			}
			if i&2 == 0 {
				d.Timestamps = nil
			}
			for _, with := range []bool{true, false} {
				by.Log, by.Timestamp = with || d.Logs != nil, with || d.Timestamps != nil
				got := checkAccepted(t, k, d, w.make(k, appDigest, by))
				if (got.LogIndex != nil) != (d.Logs != nil) || (got.LogTime != nil) != (d.Logs != nil) || (got.Timestamp != nil) != (d.Timestamps != nil) {
					t.Errorf("%v, %d: it says %+v", k, i, got)
				}
			}
		}
	}
}

func TestSignerIsWhoSigned(t *testing.T) {
	w := newWorkshop(t)
	workflow := "https://github.com/team/app/.github/workflows/release.yaml@refs/tags/v1"
	ids := []policy.Identity{sigstoretest.Identity(sigstoretest.Issuer, sigstoretest.Subject), sigstoretest.Identity("https://token.example", workflow)}
	for _, k := range kinds() {
		by, d := w.all(k), w.demand(k)
		want := sigstore.Signer{Form: sigstore.Classic, KeyFingerprint: w.key.Fingerprint}
		if k.bundle {
			want.Form = sigstore.Bundle
		}
		if k.keyless {
			by.Certificate = sigstoretest.Certificate{Issuer: "https://token.example", Subject: workflow, GitHub: [5]string{"push", "c0ffee", "release", "team/app", "refs/tags/v1"}}
			d.Identities = ids
			want.KeyFingerprint, want.Issuer, want.Subject = "", "https://token.example", workflow
			want.GitHub = sigstore.GitHub{WorkflowTrigger: "push", WorkflowSHA: "c0ffee", WorkflowName: "release", WorkflowRepo: "team/app", WorkflowRef: "refs/tags/v1"}
		}
		by.LogTime = w.minutes(2)
		th := w.make(k, appDigest, by)
		got := checkAccepted(t, k, d, th)
		if th.bundle != nil {
			want.ID = th.bundle.Source.Encoded()
		} else {
			want.ID = th.classic.Source.Encoded()
		}
		index, at := int64(0), w.minutes(2).UTC().Truncate(time.Second)
		want.LogIndex, want.LogTime = &index, &at
		if got.Timestamp == nil || got.Timestamp.Before(at.Add(-time.Hour)) {
			t.Errorf("%v: timestamp %v", k, got.Timestamp)
		}
		want.Timestamp = got.Timestamp
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v: %s", k, diff)
		}
	}
}

// Policies that are written for policy-controller read these names.
func TestSignersJSONHasPolicyControllersNames(t *testing.T) {
	s := sigstore.Signer{ID: "ab", Form: sigstore.Bundle, Issuer: "i", Subject: "s", GitHub: sigstore.GitHub{"t", "sha", "n", "r", "ref"}}
	got := string(must(json.Marshal(sigstore.Attestation{Signer: s, PredicateType: slsa, Envelope: []byte("{}")})))
	want := `{"id":"ab","form":"bundle","issuer":"i","subject":"s","githubWorkflowTrigger":"t","githubWorkflowSha":"sha","githubWorkflowName":"n",` +
		`"githubWorkflowRepo":"r","githubWorkflowRef":"ref","predicateType":"` + slsa + `"}`
	if got != want {
		t.Errorf("got %s", got)
	}
}

func TestIdentitiesMatchAsSigstoreDoes(t *testing.T) {
	w := newWorkshop(t)
	re := regexp.MustCompile
	other := "alice!https://users.example"
	for name, c := range map[string]struct {
		cert sigstoretest.Certificate
		id   policy.Identity
		want sigstore.Reason
	}{
		"exactly":                               {id: sigstoretest.Identity(sigstoretest.Issuer, sigstoretest.Subject)},
		"by a regexp, anywhere in the value":    {id: policy.Identity{IssuerRegExp: re("issuer"), SubjectRegExp: re("team")}},
		"by an anchored regexp":                 {id: policy.Identity{Issuer: sigstoretest.Issuer, SubjectRegExp: re("^release@team[.]example$")}},
		"by a regexp that fits in part":         {id: policy.Identity{Issuer: sigstoretest.Issuer, SubjectRegExp: re("^team")}, want: sigstore.OtherSubject},
		"exactly, by a part":                    {id: sigstoretest.Identity(sigstoretest.Issuer, "team.example"), want: sigstore.OtherSubject},
		"in other capitals":                     {id: sigstoretest.Identity(sigstoretest.Issuer, strings.ToUpper(sigstoretest.Subject)), want: sigstore.OtherSubject},
		"by an identity that says nothing":      {id: policy.Identity{}, want: sigstore.OtherIssuer},
		"by one without a subject":              {id: policy.Identity{Issuer: sigstoretest.Issuer}, want: sigstore.OtherSubject},
		"by one without an issuer":              {id: policy.Identity{Subject: sigstoretest.Subject}, want: sigstore.OtherIssuer},
		"by one that says both":                 {id: policy.Identity{Issuer: sigstoretest.Issuer, IssuerRegExp: re("."), Subject: sigstoretest.Subject}, want: sigstore.OtherIssuer},
		"issuer of the first version":           {cert: sigstoretest.Certificate{IssuerV2: "-"}, id: sigstoretest.Identity(sigstoretest.Issuer, sigstoretest.Subject)},
		"issuer of the second version":          {cert: sigstoretest.Certificate{IssuerV1: "-"}, id: sigstoretest.Identity(sigstoretest.Issuer, sigstoretest.Subject)},
		"no issuer at all":                      {cert: sigstoretest.Certificate{IssuerV1: "-", IssuerV2: "-"}, id: sigstoretest.Identity(sigstoretest.Issuer, sigstoretest.Subject), want: sigstore.OtherIssuer},
		"a name of the kind otherName":          {cert: sigstoretest.Certificate{OtherName: other}, id: sigstoretest.Identity(sigstoretest.Issuer, other)},
		"another name of the kind otherName":    {cert: sigstoretest.Certificate{OtherName: "m" + other}, id: sigstoretest.Identity(sigstoretest.Issuer, other), want: sigstore.OtherSubject},
		"issuer of one, subject of another one": {cert: sigstoretest.Certificate{Issuer: "https://two.example"}, id: sigstoretest.Identity("https://two.example", "two@team.example"), want: sigstore.OtherSubject},
	} {
		for _, k := range kinds() {
			if !k.keyless {
				continue
			}
			t.Run(name+"/"+k.String(), func(t *testing.T) {
				by, d := w.all(k), w.demand(k)
				by.Certificate = c.cert
				// One that is certainly not the signer's stands before it.
				d.Identities = []policy.Identity{sigstoretest.Identity("https://no.example", sigstoretest.Subject), c.id}
				th := w.make(k, appDigest, by)
				if c.want != 0 {
					checkRefused(t, k, d, th, c.want)
				} else {
					checkAccepted(t, k, d, th)
				}
			})
		}
	}
}

// Without log and timestamp the certificate must be valid at the demand's time, and the machine's says nothing.
func TestWithoutProofOfTimeTheDemandsTimeCounts(t *testing.T) {
	w := newWorkshop(t)
	past := sigstoretest.Certificate{NotBefore: w.minutes(-1.5), NotAfter: w.minutes(-1)}
	for _, k := range kinds() {
		if !k.keyless {
			continue
		}
		d := w.demand(k)
		d.Logs, d.Timestamps = nil, nil
		gone := w.make(k, appDigest, sigstoretest.By{Certificate: past})
		d.Now = w.minutes(-1.2)
		checkAccepted(t, k, d, gone)
		for _, at := range []float64{-1.6, -0.9, 1} {
			d.Now = w.minutes(at)
			checkRefused(t, k, d, gone, sigstore.NotValidThen)
		}
		d.Now = time.Time{} // which to x509 is the machine's
		checkRefused(t, k, d, w.make(k, appDigest, sigstoretest.By{}), sigstore.NotJudged)
		// A proof that nobody demanded is no reason to take another time than now.
		d.Now = w.minutes(1)
		checkRefused(t, k, d, w.make(k, appDigest, sigstoretest.By{Certificate: past, Log: true, LogTime: w.minutes(-1.2), Timestamp: true}), sigstore.NotValidThen)
	}
}

// A chain helps to find the way to an authority that is given by its root alone, and nowhere else.
func TestTheChainBesideASignature(t *testing.T) {
	w := newWorkshop(t)
	k := kind{keyless: true}
	d := w.demand(k)
	d.CAs = w.RootOnly()
	checkAccepted(t, k, d, w.make(k, appDigest, w.all(k)))
	th := w.make(k, appDigest, w.all(k))
	delete(th.classic.Annotations, "dev.sigstore.cosign/chain")
	checkRefused(t, k, d, th, sigstore.UntrustedCertificate)
	by := w.all(k)
	by.Certificate.Unlisted = true
	checkAccepted(t, k, d, w.make(k, appDigest, by))
	checkRefused(t, k, w.demand(k), w.make(k, appDigest, by), sigstore.UntrustedCertificate)
	// A chain that ends in a stranger's root makes nobody trusted.
	stranger := newWorkshop(t)
	by = stranger.all(k)
	by.LogBy, by.TimestampBy, by.Certificate.SCTBy = w.Sigstore, w.Sigstore, w.Sigstore
	checkRefused(t, k, d, stranger.make(k, appDigest, by), sigstore.UntrustedCertificate)
}

// A bundle of version 0.1 has the log's promise, a later one its proof, and may have both.
func TestWhatABundlesVersionDemandsOfItsLogEntry(t *testing.T) {
	w := newWorkshop(t)
	const base = "application/vnd.dev.sigstore.bundle"
	for _, c := range []struct {
		mediaType, without string
		accepted           bool
	}{
		{base + "+json;version=0.1", "", true}, {base + "+json;version=0.1", "inclusionProof", true}, {base + "+json;version=0.1", "inclusionPromise", false},
		{base + "+json;version=0.2", "", true}, {base + "+json;version=0.2", "inclusionProof", false},
		{base + "+json;version=0.3", "", true}, {base + ".v0.3+json", "", true}, {base + ".v0.3+json", "inclusionProof", false},
		{base + ".v0.4+json", "", false},
	} {
		for _, k := range kinds() {
			if !k.bundle {
				continue
			}
			th := w.make(k, appDigest, w.all(k))
			th.json(func(m map[string]any) {
				m["mediaType"] = c.mediaType
				delete(object(m, "verificationMaterial", "tlogEntries", 0), c.without)
			})
			if got, tally := judge(t, k, w.demand(k), th); (len(got) == 1) != c.accepted {
				t.Errorf("%v, %s without %q: %s", k, c.mediaType, c.without, tally.Why())
			}
		}
	}
	// Without the promise there is proof that a log holds it, and none of when.
	k := kind{bundle: true, keyless: true}
	th := w.make(k, appDigest, w.all(k))
	th.json(func(m map[string]any) {
		delete(object(m, "verificationMaterial", "tlogEntries", 0), "inclusionPromise")
	})
	if got := checkAccepted(t, k, w.demand(k), th); got.LogTime != nil || got.LogIndex == nil {
		t.Errorf("it says %+v", got)
	}
	d := w.demand(k)
	d.Timestamps = nil
	checkRefused(t, k, d, th, sigstore.NoLogTime)
}

// Rekor version 2 promises nothing and signs no time: a timestamp must say when.
func TestRekorVersion2(t *testing.T) {
	virtual := must(ca.NewVirtualSigstore())
	entity := must(virtual.AttestHashedRekordV2(sigstoretest.Subject, sigstoretest.Issuer, sigstoretest.Statement(appDigest, slsa, nil)))
	content, sig := must(entity.VerificationContent()), must(entity.SignatureContent())
	env := sig.EnvelopeContent().RawEnvelope()
	b := &protobundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content:                   &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: content.Certificate().Raw}},
			TlogEntries:               []*protorekor.TransparencyLogEntry{must(entity.TlogEntries())[0].TransparencyLogEntry()},
			TimestampVerificationData: &protobundle.TimestampVerificationData{Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: must(entity.Timestamps())[0]}}},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: must(env.DecodeB64Payload()), PayloadType: env.PayloadType, Signatures: []*protodsse.Signature{{Sig: sig.Signature()}},
		}},
	}
	k := kind{bundle: true, attests: true, keyless: true}
	d := sigstore.Demand{
		Identities: []policy.Identity{sigstoretest.Identity(sigstoretest.Issuer, sigstoretest.Subject)},
		CAs:        virtual, IgnoreSCT: true, Logs: virtual, Timestamps: virtual, Now: time.Now(),
	}
	thingOf := func() *thing {
		return &thing{tb: t, bundle: &evidence.Bundle{Raw: must(protojson.Marshal(b))}, attests: true}
	}
	if got := checkAccepted(t, k, d, thingOf()); got.LogIndex == nil || got.LogTime != nil || got.Timestamp == nil {
		t.Errorf("it says %+v", got)
	}
	alone := d
	alone.Timestamps = nil
	checkRefused(t, k, alone, thingOf(), sigstore.NoLogTime)
	entry := b.VerificationMaterial.TlogEntries[0]
	proof := entry.InclusionProof.Checkpoint.Envelope
	entry.InclusionProof.Checkpoint.Envelope = strings.Replace(proof, "rekor.localhost", "rekor.localhoax", 1)
	checkRefused(t, k, d, thingOf(), sigstore.BadLogEntry)
	entry.InclusionProof.Checkpoint.Envelope = proof
	entry.CanonicalizedBody = bytes.Replace(entry.CanonicalizedBody, []byte("0.0.2"), []byte("0.0.3"), 1)
	checkRefused(t, k, d, thingOf(), sigstore.BadLogEntry)
}

// What an attestation gives to others is what was verified, whichever way they read the envelope: a stranger's payload beside
// the signed one is gone.
func TestTheEnvelopeIsWhatWasVerified(t *testing.T) {
	w := newWorkshop(t)
	k := kind{attests: true}
	th := w.make(k, appDigest, w.all(k))
	evil := base64.StdEncoding.EncodeToString(sigstoretest.Statement(appDigest, slsa, map[string]any{"ok": "evil"}))
	th.classic.Payload = append([]byte(`{"payload":"`+evil+`",`), bytes.Replace(th.classic.Payload[1:], []byte(`"payload"`), []byte(`"PAYLOAD"`), 1)...)
	d := w.demand(k)
	d.Logs, d.Timestamps = nil, nil
	atts, tally := sigstore.Read(evidenceOf(th)).Attestations(t.Context(), d)
	if len(atts) != 1 {
		t.Fatal(tally.Why())
	}
	var m map[string]any
	if err := json.Unmarshal(atts[0].Envelope, &m); err != nil {
		t.Fatal(err)
	}
	if len(m) != 3 || m["payload"] == evil || !strings.Contains(string(must(base64.StdEncoding.DecodeString(m["payload"].(string)))), `"ok":true`) {
		t.Errorf("the envelope is %s", atts[0].Envelope)
	}
	if atts[0].PredicateType != slsa {
		t.Errorf("predicate type %q", atts[0].PredicateType)
	}
}

func TestFormatRestrictsTheForm(t *testing.T) {
	w := newWorkshop(t)
	for _, k := range kinds() {
		th := w.make(k, appDigest, w.all(k))
		for f, accepts := range map[policy.Format]bool{policy.AnyFormat: true, policy.LegacyFormat: !k.bundle, policy.BundleFormat: k.bundle, "other": false} {
			d := w.demand(k)
			d.Format = f
			got, tally := judge(t, k, d, th)
			if (len(got) == 1) != accepts {
				t.Errorf("%v in format %q: %s", k, f, tally.Why())
			}
		}
	}
}

// A demand that makes no sense is met by nothing.
func TestADemandThatMakesNoSense(t *testing.T) {
	w := newWorkshop(t)
	for _, k := range kinds() {
		th := w.make(k, appDigest, w.all(k))
		for name, change := range map[string]func(d *sigstore.Demand){
			"nobody": func(d *sigstore.Demand) { d.Keys, d.Identities = nil, nil },
			"keys and certificates": func(d *sigstore.Demand) {
				d.Keys, d.CAs = []policy.PublicKey{w.key}, w.CAs()
				d.Identities = []policy.Identity{sigstoretest.Identity(sigstoretest.Issuer, sigstoretest.Subject)}
			},
			"no authorities": func(d *sigstore.Demand) {
				d.CAs = nil
				d.Keys = nil
				d.Identities = []policy.Identity{{Issuer: "a", Subject: "b"}}
			},
		} {
			d := w.demand(k)
			change(&d)
			t.Run(k.String()+"/"+name, func(t *testing.T) { checkRefused(t, k, d, th, sigstore.NotJudged) })
		}
		d := w.demand(k)
		d.CAs, d.Logs, d.Timestamps = root.TrustedMaterialCollection{}, root.TrustedMaterialCollection{}, root.TrustedMaterialCollection{}
		if got, _ := judge(t, k, d, th); len(got) != 0 {
			t.Errorf("%v: accepted with nothing trusted", k)
		}
	}
	for _, d := range []digest.Digest{"", "sha256:", "sha256:abc", digest.SHA512.FromString("x"), digest.Digest("sha256:" + strings.Repeat("G", 64))} {
		ev := evidenceOf(w.make(kind{}, appDigest, w.all(kind{})))
		ev.Digest = d
		if got, _ := sigstore.Read(ev).Signatures(t.Context(), w.demand(kind{})); len(got) != 0 {
			t.Errorf("accepted for the digest %q", d)
		}
	}
	if got, tally := sigstore.Read(nil).Signatures(t.Context(), w.demand(kind{})); len(got) != 0 || tally.Reason() != sigstore.NoneFound {
		t.Errorf("of no evidence: %v, %s", got, tally.Why())
	}
}

func TestNothingIsJudgedWhenTheTimeIsUp(t *testing.T) {
	w := newWorkshop(t)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	k := kind{}
	if got, tally := sigstore.Read(evidenceOf(w.make(k, appDigest, w.all(k)))).Signatures(stopped, w.demand(k)); len(got) != 0 || tally.Reason() != sigstore.NotJudged {
		t.Errorf("when the time is up: %v, %s", got, tally.Why())
	}
}

// To ask a log is worth while for what the demanded signer signed, and for nothing that strangers put beside an image.
func TestUnprovedIsWhatTheDemandedSignerSigned(t *testing.T) {
	w, stranger := newWorkshop(t), newWorkshop(t)
	for _, k := range kinds() {
		bare := w.all(k)
		bare.Log = false
		for name, c := range map[string]struct {
			th   *thing
			want bool
		}{
			"without a log entry": {w.make(k, appDigest, bare), true},
			"with one":            {w.make(k, appDigest, w.all(k)), false},
			"another image's":     {w.make(k, otherDigest, bare), false},
			"a stranger's":        {stranger.make(k, appDigest, stranger.withoutLog(k)), false},
			"in want of a timestamp, which comes after": {w.make(k, appDigest, sigstoretest.By{Key: bare.Key}), true},
		} {
			d := w.demand(k)
			if _, tally := judge(t, k, d, c.th); tally.Unproved > 0 != c.want {
				t.Errorf("%v %s: %d, %s", k, name, tally.Unproved, tally.Why())
			}
			d.Logs = nil
			if _, tally := judge(t, k, d, c.th); tally.Unproved > 0 {
				t.Errorf("%v %s: asks a log that is not demanded", k, name)
			}
		}
	}
}

func (w *workshop) withoutLog(k kind) sigstoretest.By {
	by := w.all(k)
	by.Log = false
	return by
}

// Everything that cosign would read if it were let to its own defaults is set to something that is not there.
func TestNothingIsReadFromTheEnvironment(t *testing.T) {
	for _, name := range []string{"SIGSTORE_CT_LOG_PUBLIC_KEY_FILE", "SIGSTORE_REKOR_PUBLIC_KEY", "SIGSTORE_ROOT_FILE", "SIGSTORE_TSA_CERTIFICATE_FILE", "TUF_ROOT", "TUF_MIRROR", "SIGSTORE_NO_CACHE", "HOME"} {
		t.Setenv(name, "/nonexistent")
	}
	w := newWorkshop(t)
	for _, k := range kinds() {
		checkAccepted(t, k, w.demand(k), w.make(k, appDigest, w.all(k)))
		d := w.demand(k)
		d.Logs = newWorkshop(t).Logs()
		checkRefused(t, k, d, w.make(k, appDigest, w.all(k)), sigstore.OtherLog)
	}
}

// One Material serves any number of demands at once.
func TestMaterialIsForManyAtOnce(t *testing.T) {
	w := newWorkshop(t)
	var things []*thing
	for _, k := range kinds() {
		things = append(things, w.make(k, appDigest, w.all(k)))
	}
	m := sigstore.Read(evidenceOf(things...))
	var wait sync.WaitGroup
	for range 4 {
		for _, k := range kinds() {
			wait.Go(func() {
				sigs, _ := m.Signatures(t.Context(), w.demand(k))
				atts, _ := m.Attestations(t.Context(), w.demand(k))
				if len(sigs) != 2 || len(atts) != 2 {
					t.Errorf("%v: %d signatures and %d attestations", k, len(sigs), len(atts))
				}
			})
		}
	}
	wait.Wait()
}
