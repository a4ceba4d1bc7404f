package evidence_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
)

// TestABundleThatManyReferrersNameIsOne: it is read, and counted, once. Parsed for each of them it took gigabytes.
func TestABundleThatManyReferrersNameIsOne(t *testing.T) {
	for _, api := range []bool{true, false} {
		r := newReg(t, registry.WithReferrersSupport(api))
		var entries []object
		for i := range int(limits.Referrers.Max()) {
			m := r.bundleManifest("app", `{"shared":true}`, subject)
			m["annotations"] = object{"n": fmt.Sprint(i)}
			d := r.manifest("app", "", ociManifest, m)
			entries = append(entries, descriptorOf(ociManifest, d, len(mustJSON(t, m))))
		}
		r.fallback("app", entries)
		e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
		want(t, e, 0, `{"shared":true}`)
		complete(t, e)
	}
}

// TestWhatWasKeptIsNotLookedAtTwice: a registry that answers in part gives again what was kept.
func TestWhatWasKeptIsNotLookedAtTwice(t *testing.T) {
	key := newKey(t)
	e := evidenceOf(t, key)
	kept := clone(t, e)
	kept.Bundles[0].Source = digest.FromString("another referrer")
	kept.Signatures = append(kept.Signatures, e.Signatures[0])
	kept.Signatures[1].Annotations = map[string]string{"more": "proof"}
	both := e.With(kept)
	if len(both.Signatures) != 2 || len(both.Attestations) != 1 || len(both.Bundles) != 1 {
		t.Errorf("%d signatures, %d attestations, %d bundles", len(both.Signatures), len(both.Attestations), len(both.Bundles))
	}
}

// TestSavedBundlesThatAreOneBlob: files are no better than a registry.
func TestSavedBundlesThatAreOneBlob(t *testing.T) {
	e := evidenceOf(t, newKey(t))
	e.Attestations = nil
	e.Bundles = []evidence.Bundle{e.Bundles[0], e.Bundles[0], {Raw: []byte("{}")}, e.Bundles[0]}
	dir := t.TempDir()
	if err := e.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := evidence.Saved(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Bundles) != 2 {
		t.Errorf("%d bundles of two", len(got.Bundles))
	}
}

// TestALogIsAskedAboutNoMoreThanMayBeRead: many pieces may share one payload, and each is hashed and parsed anew.
func TestALogIsAskedAboutNoMoreThanMayBeRead(t *testing.T) {
	key := newKey(t)
	large := func(raw []byte) []byte { return append(raw, bytes.Repeat([]byte{' '}, 2<<20)...) }
	payload := large([]byte(`{}`))
	hash := sha256.Sum256(payload)
	sig, err := ecdsa.SignASN1(rand.Reader, key, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	one := map[string]evidence.Evidence{
		"signatures":   {Signatures: []evidence.Signature{{Payload: payload, Base64Signature: base64.StdEncoding.EncodeToString(sig)}}},
		"attestations": {Attestations: []evidence.Signature{{Payload: large(attested(t, key))}}},
		"bundles":      {Bundles: []evidence.Bundle{{Raw: large(bundled(t, attested(t, key)))}}},
	}
	for name, e := range one {
		l := newRekor(t)
		l.upload(&e, key)
		many := &evidence.Evidence{Repository: "registry.example/app", Digest: subject}
		for range 10 {
			many.Signatures = append(many.Signatures, e.Signatures...)
			many.Attestations = append(many.Attestations, e.Attestations...)
			many.Bundles = append(many.Bundles, e.Bundles...)
		}
		proved, n := prove(t, l, many, publicPEM(t, key)), 0
		for _, s := range append(proved.Signatures, proved.Attestations...) {
			if s.Annotations["dev.sigstore.cosign/bundle"] != "" {
				n++
			}
		}
		for _, b := range proved.Bundles {
			if bytes.Contains(b.Raw, []byte("tlogEntries")) {
				n++
			}
		}
		if n != 8 { // the first was counted when it was read
			t.Errorf("%s: %d of ten pieces of 2 MiB are asked about; the bound is %d MiB", name, n, limits.Material.Max()>>20)
		}
	}
}

// resigned is an envelope with its signature n times.
func resigned(t *testing.T, envelope []byte, n int) []byte {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	var all []any
	for range n {
		all = append(all, e["signatures"].([]any)[0])
	}
	e["signatures"] = all
	return mustJSON(t, e)
}

// TestALogIsNotAskedAboutWhatTakesTooLongToRead: whoever makes an entry hashes the payload for each signature of an
// envelope, and makes values of a statement's subjects and of SLSA's materials.
func TestALogIsNotAskedAboutWhatTakesTooLongToRead(t *testing.T) {
	key := newKey(t)
	many := strings.Repeat(`{},`, int(limits.Elements.Max())/2)
	for name, c := range map[string]struct {
		statement  string
		signatures int
		asked      bool
	}{
		"signed once":        {`{"subject":[]}`, 1, true},
		"signed twice":       {`{"subject":[]}`, 2, false},
		"many subjects":      {`{"subject":[` + many + `{}]}`, 1, false},
		"many, then few":     {`{"subject":[` + many + `{}],"Subject":[]}`, 1, false},
		"many materials":     {`{"predicate":{"materials":[` + many + `{}]}}`, 1, false},
		"many packages":      {`{"predicate":{"packages":[` + many + `{}]}}`, 1, true},
		"a predicate of any": {`{"predicate":[` + many + `{}]}`, 1, true},
	} {
		envelope := resigned(t, wrapped(t, key, c.statement), c.signatures)
		bundle := bundled(t, wrapped(t, key, c.statement))
		if c.signatures > 1 {
			var b map[string]any
			if err := json.Unmarshal(bundle, &b); err != nil {
				t.Fatal(err)
			}
			b["dsseEnvelope"] = json.RawMessage(resigned(t, mustJSON(t, b["dsseEnvelope"]), c.signatures))
			bundle = mustJSON(t, b)
		}
		for form, e := range map[string]*evidence.Evidence{
			"classic": {Digest: subject, AskedAttestations: true, Attestations: []evidence.Signature{{Payload: envelope}}},
			"bundle":  {Digest: subject, AskedAttestations: true, Bundles: []evidence.Bundle{{Raw: bundle}}},
		} {
			l := newRekor(t)
			prove(t, l, e, publicPEM(t, key))
			if asked := len(l.seen) > 0; asked != c.asked {
				t.Errorf("%s, %s: asked about: %v", name, form, asked)
			}
		}
	}
}
