package sigstore_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/sigstore"
	"github.com/cosentry/cosentry/verify/sigstore/sigstoretest"
)

// vector is what cosign 2.6.5 wrote to a registry for one image and one key:
//
//	openssl genpkey -algorithm … -out k.pem
//	cosign import-key-pair --key k.pem
//	cosign sign --key import-cosign.key --tlog-upload=false [--new-bundle-format] REPO@DIGEST
type vector struct {
	Key, Digest, Payload, Signature string
	Bundle                          json.RawMessage
}

func vectors(t testing.TB) map[string]vector {
	t.Helper()
	files, err := filepath.Glob("testdata/cosign-2.6.5/*.json")
	if err != nil || len(files) != 7 {
		t.Fatalf("vectors: %v, %v", files, err)
	}
	all := map[string]vector{}
	for _, f := range files {
		var v vector
		if err := json.Unmarshal(must(os.ReadFile(f)), &v); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		all[strings.TrimSuffix(filepath.Base(f), ".json")] = v
	}
	return all
}

func (v vector) key() policy.PublicKey {
	block, _ := pem.Decode([]byte(v.Key))
	sum := sha256.Sum256(block.Bytes)
	return policy.PublicKey{Key: must(x509.ParsePKIXPublicKey(block.Bytes)), Hash: crypto.SHA256, Fingerprint: "SHA256:" + hex.EncodeToString(sum[:])}
}

func (v vector) evidence(bundle bool) *evidence.Evidence {
	ev := &evidence.Evidence{Digest: digest.Digest(v.Digest)}
	if bundle {
		ev.Bundles = []evidence.Bundle{{Raw: v.Bundle, Source: digest.FromBytes(v.Bundle)}}
	} else {
		ev.Signatures = []evidence.Signature{{Payload: []byte(v.Payload), Base64Signature: v.Signature}}
	}
	return ev
}

// accepts reports whether a signature by the key is found, and if not, why.
func accepts(t testing.TB, ev *evidence.Evidence, keys ...policy.PublicKey) (bool, sigstore.Reason) {
	t.Helper()
	got, tally := sigstore.Read(ev).Signatures(t.Context(), sigstore.Demand{Keys: keys})
	return len(got) > 0, tally.Reason()
}

// What the real cosign signs is accepted, for every kind of key, in both forms, under a policy that
// says nothing but the key. cosign signs with SHA-384 and SHA-512 for the larger curves and
// with Ed25519ph, none of which a plain verifier of the key takes.
func TestWhatCosignSignsIsForItsKeyAndImageOnly(t *testing.T) {
	all := vectors(t)
	for kind, vec := range all {
		for _, bundle := range []bool{false, true} {
			if ok, why := accepts(t, vec.evidence(bundle), vec.key()); !ok {
				t.Errorf("%s, bundle %v: refused, %d", kind, bundle, why)
			}
			moved := vec.evidence(bundle)
			moved.Digest = appDigest
			if ok, why := accepts(t, moved, vec.key()); ok || why != sigstore.OtherImage {
				t.Errorf("%s, bundle %v, of another image: %v, %d", kind, bundle, ok, why)
			}
			for other, o := range all {
				if ok, why := accepts(t, vec.evidence(bundle), o.key()); other != kind && (ok || why != sigstore.NotByKey) {
					t.Errorf("%s, bundle %v, for the key %s: %v, %d", kind, bundle, other, ok, why)
				}
			}
		}
	}
}

// A policy that names a hash means that one alone, also where it names the one that is the default.
func TestAHashThatThePolicyNamesIsTheOnlyOne(t *testing.T) {
	for _, c := range []struct {
		kind     string
		hash     crypto.Hash
		accepted bool
	}{
		{"ecdsa-p256", crypto.SHA256, true}, {"ecdsa-p256", crypto.SHA384, false}, {"ecdsa-p256", crypto.SHA512, false},
		{"ecdsa-p384", crypto.SHA384, true}, {"ecdsa-p384", crypto.SHA512, false}, {"ecdsa-p384", crypto.SHA256, false},
		{"ecdsa-p521", crypto.SHA512, true}, {"ecdsa-p521", crypto.SHA384, false}, {"ecdsa-p521", crypto.SHA256, false},
		{"rsa-2048", crypto.SHA256, true}, {"rsa-2048", crypto.SHA512, false},
		{"ed25519", crypto.SHA512, true}, {"ed25519", crypto.SHA256, true},
	} {
		vec := vectors(t)[c.kind]
		key := vec.key()
		key.Hash, key.HashWritten = c.hash, true
		for _, bundle := range []bool{false, true} {
			if ok, _ := accepts(t, vec.evidence(bundle), key); ok != c.accepted {
				t.Errorf("%s with %v, bundle %v: accepted is %v", c.kind, c.hash, bundle, ok)
			}
		}
	}
}

// Every kind of key with every hash that a policy may name, signed with that hash, by either kind of statement.
func TestEveryKeyAndHash(t *testing.T) {
	s := sigstoretest.New(t)
	for _, kind := range []string{"P-256", "P-384", "P-521", "RSA 2048", "Ed25519"} {
		key := sigstoretest.NewKey(t, kind)
		for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			public := sigstoretest.PublicKey(key)
			public.Hash, public.HashWritten = hash, true
			by := sigstoretest.By{Key: key, Hash: hash}
			ev := evidenceOf()
			ev.Signatures = []evidence.Signature{s.Signature(appDigest, by)}
			ev.Bundles = []evidence.Bundle{s.Bundle(appDigest, by), s.AttestationBundle(appDigest, slsa, nil, by)}
			ev.Attestations = []evidence.Signature{s.Attestation(appDigest, slsa, nil, by)}
			d := sigstore.Demand{Keys: []policy.PublicKey{public}}
			signers, _ := sigstore.Read(ev).Signatures(t.Context(), d)
			atts, _ := sigstore.Read(ev).Attestations(t.Context(), d)
			if len(signers) != 2 || len(atts) != 2 {
				t.Errorf("%s with %v: %d signatures and %d attestations", kind, hash, len(signers), len(atts))
			}
		}
	}
}

func TestBothWaysOfEd25519Count(t *testing.T) {
	k, ok := sigstoretest.NewKey(t, "Ed25519").(ed25519.PrivateKey)
	if !ok {
		t.Fatal("no Ed25519 key")
	}
	for _, s := range []signature.Signer{must(signature.LoadED25519phSigner(k)), must(signature.LoadSigner(k, crypto.SHA256))} {
		raw := sigstoretest.SimplePayload(appDigest)
		sig := must(s.SignMessage(strings.NewReader(string(raw))))
		ev := evidenceOf()
		ev.Signatures = []evidence.Signature{{Payload: raw, Base64Signature: base64.StdEncoding.EncodeToString(sig)}}
		if ok, why := accepts(t, ev, sigstoretest.PublicKey(k)); !ok {
			t.Errorf("refused: %d", why)
		}
	}
}

func TestAnyOfSeveralKeysSuffices(t *testing.T) {
	w := newWorkshop(t)
	keys := []policy.PublicKey{sigstoretest.PublicKey(sigstoretest.NewKey(t, "P-256")), w.key, sigstoretest.PublicKey(sigstoretest.NewKey(t, "Ed25519"))}
	for _, k := range kinds() {
		if k.keyless {
			continue
		}
		d := w.demand(k)
		d.Keys = keys
		if got := checkAccepted(t, k, d, w.make(k, appDigest, w.all(k))); got.KeyFingerprint != w.key.Fingerprint {
			t.Errorf("%v: by %s", k, got.KeyFingerprint)
		}
		// The reason is that of the key which came furthest.
		checkRefused(t, k, d, w.make(k, otherDigest, w.all(k)), sigstore.OtherImage)
	}
	if ok, why := accepts(t, evidenceOf(w.make(kind{}, appDigest, w.all(kind{}))), policy.PublicKey{Key: "no key", Hash: crypto.SHA256}); ok || why != sigstore.NotByKey {
		t.Errorf("by a key that is none: %v, %d", ok, why)
	}
}

// A certificate beside a signature by a key is not evidence. One for the same key may stand in the log in its place.
func TestACertificateBesideASignatureByAKey(t *testing.T) {
	w := newWorkshop(t)
	by := w.by
	by.CertifiedKey, by.Log = true, true
	by.Certificate = sigstoretest.Certificate{NotBefore: w.minutes(-1.5), NotAfter: w.minutes(-1)}
	d := w.demand(kind{})
	d.Timestamps = nil
	th := w.make(kind{}, appDigest, by)
	checkAccepted(t, kind{}, d, th)
	d.Logs = nil
	th.classic.Annotations["dev.sigstore.cosign/certificate"] = "broken"
	checkAccepted(t, kind{}, d, th)
	// In a bundle the certificate stands in the key's place: it is not signed by a key.
	checkRefused(t, kind{bundle: true}, d, w.make(kind{bundle: true}, appDigest, by), sigstore.NotByKey)
}

// forgeries are what somebody who can write to the registry, and does not hold the key, can put there; or what its
// holder signed to say something else.
func forgeries(w *workshop) map[string]struct {
	th   *thing
	want sigstore.Reason
} {
	type forgery = struct {
		th   *thing
		want sigstore.Reason
	}
	const notByKey, otherImage, otherUse = sigstore.NotByKey, sigstore.OtherImage, sigstore.OtherUse
	good, goodBundle := w.Signature(appDigest, w.by), w.Bundle(appDigest, w.by)
	stranger := sigstoretest.By{Key: sigstoretest.NewKey(w.tb, "P-256")}
	classic := func(s evidence.Signature) *thing { return &thing{tb: w.tb, classic: &s} }
	raw := func(payload string) *thing { return classic(w.SignatureOver([]byte(payload), w.by)) }
	with := func(payload []byte, sig string) *thing {
		return classic(evidence.Signature{Payload: payload, Base64Signature: sig})
	}
	bundle := func(b evidence.Bundle) *thing { return &thing{tb: w.tb, bundle: &b} }
	statement := func(s string) *thing { return bundle(w.BundleOver([]byte(s), w.by)) }
	edited := func(edit func(m map[string]any)) *thing {
		th := bundle(goodBundle)
		th.json(edit)
		return th
	}
	payload := func(old, to string) *thing { return raw(strings.Replace(string(good.Payload), old, to, 1)) }
	hexDigest := appDigest.Encoded()
	sig := must(base64.StdEncoding.DecodeString(good.Base64Signature))
	return map[string]forgery{
		"by another key":                       {classic(w.Signature(appDigest, stranger)), notByKey},
		"copied from another image":            {classic(w.Signature(otherDigest, w.by)), otherImage},
		"payload for this image over its copy": {with(good.Payload, w.Signature(otherDigest, w.by).Base64Signature), notByKey},
		"payload that is not JSON":             {raw("run it"), otherImage},
		"payload that is empty":                {raw(""), otherImage},
		"payload that is null":                 {raw("null"), otherImage},
		"payload without a digest":             {raw(`{"critical":{"type":"cosign container image signature"}}`), otherImage},
		"digest in upper case":                 {payload(hexDigest, strings.ToUpper(hexDigest)), otherImage},
		"digest with a tail":                   {payload(hexDigest, hexDigest+" "), otherImage},
		"payload of another type":              {payload("cosign container image signature", "scan report"), otherUse},
		"payload of no type":                   {raw(`{"critical":{"image":{"docker-manifest-digest":"` + appDigest.String() + `"}}}`), otherUse},
		"payload with a tail":                  {with(append(append([]byte{}, good.Payload...), '\n'), good.Base64Signature), notByKey},
		"signature with a tail":                {with(good.Payload, base64.StdEncoding.EncodeToString(append(sig, 0))), notByKey},
		"signature that is empty":              {with(good.Payload, ""), notByKey},
		"signature that is not base64":         {with(good.Payload, "%%% not base64 %%%"), notByKey},
		"signature of zeros":                   {with(good.Payload, base64.StdEncoding.EncodeToString([]byte{0x30, 6, 2, 1, 0, 2, 1, 0})), notByKey},
		"bundle by another key":                {bundle(w.Bundle(appDigest, stranger)), notByKey},
		"bundle copied from another image":     {bundle(w.Bundle(otherDigest, w.by)), otherImage},
		"bundle that attests":                  {bundle(w.AttestationBundle(appDigest, slsa, nil, w.by)), otherUse},
		"bundle of no predicate type":          {bundle(w.AttestationBundle(appDigest, "", nil, w.by)), otherUse},
		"bundle about nothing":                 {statement(`{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"https://sigstore.dev/cosign/sign/v1"}`), otherImage},
		"bundle about an empty digest":         {statement(`{"subject":[{"digest":{"sha256":""}}],"predicateType":"https://sigstore.dev/cosign/sign/v1"}`), otherImage},
		"bundle whose subject is of sha512":    {statement(`{"subject":[{"digest":{"sha512":"` + hexDigest + `"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1"}`), otherImage},
		"bundle whose statement is no JSON":    {statement("run it"), otherImage},
		"bundle that is no JSON":               {bundle(evidence.Bundle{Raw: []byte("{")}), sigstore.Unreadable},
		"bundle that is empty":                 {bundle(evidence.Bundle{}), sigstore.Unreadable},
		"bundle that is null":                  {bundle(evidence.Bundle{Raw: []byte("null")}), sigstore.Unreadable},
		"bundle of too many elements":          {bundle(evidence.Bundle{Raw: []byte(strings.Repeat("[", 1<<17))}), sigstore.Unreadable},
		"bundle of an unknown media type":      {edited(func(m map[string]any) { m["mediaType"] = "application/vnd.dev.sigstore.bundle.v9.9+json" }), sigstore.Unreadable},
		"bundle with an unknown field":         {edited(func(m map[string]any) { m["verified"] = true }), sigstore.Unreadable},
		"bundle without an envelope":           {edited(func(m map[string]any) { delete(m, "dsseEnvelope") }), sigstore.Unreadable},
		"bundle without a signature":           {edited(func(m map[string]any) { object(m, "dsseEnvelope")["signatures"] = []any{} }), sigstore.Unreadable},
		"bundle with two signatures": {edited(func(m map[string]any) {
			one := in(m, "dsseEnvelope", "signatures", 0)
			object(m, "dsseEnvelope")["signatures"] = []any{one, one}
		}), sigstore.Unreadable},
		"bundle of another payload type":       {edited(func(m map[string]any) { object(m, "dsseEnvelope")["payloadType"] = "text/plain" }), notByKey},
		"bundle without verification material": {edited(func(m map[string]any) { delete(m, "verificationMaterial") }), sigstore.Unreadable},
		"bundle of a bare message signature": {edited(func(m map[string]any) {
			delete(m, "dsseEnvelope")
			m["messageSignature"] = map[string]any{
				"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": base64.StdEncoding.EncodeToString(must(hex.DecodeString(hexDigest)))},
				"signature":     good.Base64Signature,
			}
		}), sigstore.Unreadable},
	}
}

func TestForgeriesAreRefused(t *testing.T) {
	w := newWorkshop(t)
	for name, f := range forgeries(w) {
		t.Run(name, func(t *testing.T) {
			checkRefused(t, kind{bundle: f.th.bundle != nil}, sigstore.Demand{Keys: []policy.PublicKey{w.key}}, f.th, f.want)
		})
	}
}

// A good signature is found among forgeries, in whatever order: a stranger who adds some
// cannot take an image away.
func TestAGoodSignatureAmongForgeriesSuffices(t *testing.T) {
	w := newWorkshop(t)
	var all []*thing
	for _, f := range forgeries(w) {
		all = append(all, f.th)
	}
	for _, k := range []kind{{}, {bundle: true}} {
		good := w.make(k, appDigest, w.by)
		for _, things := range [][]*thing{append([]*thing{good}, all...), append(append([]*thing{}, all...), good)} {
			got, tally := judge(t, k, sigstore.Demand{Keys: []policy.PublicKey{w.key}}, things...)
			if len(got) != 1 || tally.Found != len(things) {
				t.Errorf("%v: %d accepted of %d: %s", k, len(got), len(things), tally.Why())
			}
		}
	}
}

// Statements and payloads may say more than cosign's own; what counts stands.
func TestMoreThanIsNeededDoesNoHarm(t *testing.T) {
	w := newWorkshop(t)
	both := `{"_type":"https://in-toto.io/Statement/v1","predicateType":"` + types.CosignSignPredicateType + `","subject":[` +
		`{"name":"other","digest":{"sha256":"` + otherDigest.Encoded() + `"}},{"digest":{"sha256":"` + appDigest.Encoded() + `"}}],"predicate":{"a":1}}`
	simple := string(sigstoretest.SimplePayload(appDigest))
	hint := func(to map[string]any) evidence.Bundle {
		th := w.make(kind{bundle: true}, appDigest, w.by)
		th.json(func(m map[string]any) { m["verificationMaterial"] = map[string]any{"publicKey": to} })
		return *th.bundle
	}
	ev := evidenceOf()
	ev.Bundles = []evidence.Bundle{w.BundleOver([]byte(both), w.by), hint(map[string]any{}), hint(map[string]any{"hint": "x"})}
	ev.Signatures = []evidence.Signature{
		w.SignatureOver([]byte(strings.Replace(simple, `"optional":null`, `"optional":{"team":"app"}`, 1)), w.by),
		w.SignatureOver([]byte(strings.Replace(simple, sigstoretest.Repository, "mirror.example/app", 1)), w.by),
	}
	got, tally := sigstore.Read(ev).Signatures(t.Context(), sigstore.Demand{Keys: []policy.PublicKey{w.key}})
	if len(got) != 5 {
		t.Errorf("%d accepted: %s", len(got), tally.Why())
	}
}
