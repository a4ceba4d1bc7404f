package verify

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/cosentry/cosentry/verify/evidence"
)

// Every kind of key with every hash that a policy may name, signed with that hash.
func TestEveryKeyAndHashVerifiesInBothForms(t *testing.T) {
	hashes := map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}
	for _, kind := range []string{"P-256", "P-384", "P-521", "RSA 2048", "RSA 3072", "RSA 4096", "Ed25519"} {
		for hashName, hash := range hashes {
			t.Run(kind+" "+hashName, func(t *testing.T) {
				k := keyOfKind(kind)
				s := signer(k, hash)
				doc := policyDoc("signed", "enforce", keyAuthority("release-key", []string{kind}, "key.hashAlgorithm: "+hashName))
				for form, m := range map[string]any{
					"classic": signed(s, simplePayload(appDigest)),
					"bundle":  bundleOf(s, statement(appDigest, types.CosignSignPredicateType), publicPEM(k)),
				} {
					got := verdictOn(t, newVerifier(t, holding(found(m)), doc), appSubject())
					checkDecision(t, got, true, "")
					if a, _ := got.Policies[0].Authority(); a.Form != form {
						t.Errorf("form %q, want %q", a.Form, form)
					}
				}
			})
		}
	}
}

func TestBothWaysOfEd25519Count(t *testing.T) {
	k := keyOfKind("Ed25519").(ed25519.PrivateKey)
	prehashed := must(signature.LoadED25519phSigner(k))
	for _, s := range []signature.Signer{prehashed, signer(k, crypto.SHA256)} {
		for _, m := range []any{
			signed(s, simplePayload(appDigest)),
			bundleOf(s, statement(appDigest, types.CosignSignPredicateType), publicPEM(k)),
		} {
			checkDecision(t, verdictOn(t, newVerifier(t, holding(found(m)), byKey("Ed25519")), appSubject()), true, "")
		}
	}
}

// forgeries are what somebody who can write to the registry, and does not hold the key "P-256",
// can put there; or what its holder signed to say something else.
func forgeries() map[string]struct {
	material any
	words    string
} {
	const notByKey, otherImage, otherUse = "none by this key", "1 by this key but for another image", "1 by this key but not as an image signature"
	type forgery = struct {
		material any
		words    string
	}
	good, goodBundle := classicFor("P-256", appDigest), bundleFor("P-256", appDigest)
	s := sha256Signer("P-256")
	raw := func(payload string) evidence.Signature { return signed(s, []byte(payload)) }
	with := func(payload []byte, sig string) evidence.Signature {
		return evidence.Signature{Payload: payload, Base64Signature: sig}
	}
	sig := must(base64.StdEncoding.DecodeString(good.Base64Signature))
	flipped := bytes.Clone(sig)
	flipped[len(flipped)-1] ^= 1
	return map[string]forgery{
		"by another key":                        {classicFor("other P-256", appDigest), notByKey},
		"copied from another image":             {classicFor("P-256", otherDigest), otherImage},
		"payload for this image over its copy":  {with(good.Payload, classicFor("P-256", otherDigest).Base64Signature), notByKey},
		"payload that is not JSON":              {raw("run it"), otherImage},
		"payload that is empty":                 {raw(""), otherImage},
		"payload that is null":                  {raw("null"), otherImage},
		"payload without a digest":              {raw(`{"critical":{"type":"cosign container image signature"}}`), otherImage},
		"digest in upper case":                  {raw(strings.Replace(string(good.Payload), appDigest.Encoded(), strings.ToUpper(appDigest.Encoded()), 1)), otherImage},
		"digest with a tail":                    {raw(strings.Replace(string(good.Payload), appDigest.Encoded(), appDigest.Encoded()+" ", 1)), otherImage},
		"digest in optional":                    {raw(`{"critical":{"type":"cosign container image signature","image":{}},"optional":{"docker-manifest-digest":"` + appDigest.String() + `"}}`), otherImage},
		"payload of another type":               {raw(strings.Replace(string(good.Payload), "cosign container image signature", "scan report", 1)), otherUse},
		"payload of no type":                    {raw(`{"critical":{"image":{"docker-manifest-digest":"` + appDigest.String() + `"}}}`), otherUse},
		"payload with a tail":                   {with(append(bytes.Clone(good.Payload), '\n'), good.Base64Signature), notByKey},
		"signature with a bit flipped":          {with(good.Payload, base64.StdEncoding.EncodeToString(flipped)), notByKey},
		"signature with a tail":                 {with(good.Payload, base64.StdEncoding.EncodeToString(append(bytes.Clone(sig), 0))), notByKey},
		"signature that is empty":               {with(good.Payload, ""), notByKey},
		"signature that is not base64":          {with(good.Payload, "%%% not base64 %%%"), notByKey},
		"signature of zeros":                    {with(good.Payload, base64.StdEncoding.EncodeToString([]byte{0x30, 6, 2, 1, 0, 2, 1, 0})), notByKey},
		"bundle's signature in the other form":  {with(envelopeBytes(goodBundle), envelopeSignature(goodBundle)), otherImage},
		"bundle by another key":                 {bundleFor("other P-256", appDigest), notByKey},
		"bundle copied from another image":      {bundleFor("P-256", otherDigest), otherImage},
		"bundle that attests":                   {bundleOf(s, statement(appDigest, "https://slsa.dev/provenance/v1"), publicPEM(keyOfKind("P-256"))), otherUse},
		"bundle of no predicate type":           {bundleOf(s, statement(appDigest, ""), publicPEM(keyOfKind("P-256"))), otherUse},
		"bundle about nothing":                  {bundleOf(s, []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"https://sigstore.dev/cosign/sign/v1"}`), publicPEM(keyOfKind("P-256"))), otherImage},
		"bundle about an empty digest":          {bundleOf(s, []byte(`{"subject":[{"digest":{"sha256":""}}],"predicateType":"https://sigstore.dev/cosign/sign/v1"}`), publicPEM(keyOfKind("P-256"))), otherImage},
		"bundle whose subject is of sha512":     {bundleOf(s, []byte(`{"subject":[{"digest":{"sha512":"`+appDigest.Encoded()+`"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1"}`), publicPEM(keyOfKind("P-256"))), otherImage},
		"bundle whose hint claims the key":      {claiming(bundleFor("other P-256", appDigest), goodBundle), notByKey},
		"bundle with a certificate for the key": {bundleOf(s, statement(appDigest, types.CosignSignPredicateType), selfSigned(keyOfKind("P-256"))), notByKey},
		"bundle with a certificate for another": {bundleOf(sha256Signer("other P-256"), statement(appDigest, types.CosignSignPredicateType), selfSigned(keyOfKind("other P-256"))), notByKey},
		"bundle that is no JSON":                {evidence.Bundle{Raw: []byte("{")}, notByKey},
		"bundle that is empty":                  {evidence.Bundle{}, notByKey},
		"bundle that is null":                   {evidence.Bundle{Raw: []byte("null")}, notByKey},
		"bundle that is huge":                   {evidence.Bundle{Raw: bytes.Repeat([]byte("["), 1<<20)}, notByKey},
		"bundle of an unknown media type":       {edited(goodBundle, func(m map[string]any) { m["mediaType"] = "application/vnd.dev.sigstore.bundle.v9.9+json" }), notByKey},
		"bundle with an unknown field":          {edited(goodBundle, func(m map[string]any) { m["verified"] = true }), notByKey},
		"bundle without an envelope":            {edited(goodBundle, func(m map[string]any) { delete(m, "dsseEnvelope") }), notByKey},
		"bundle without a signature":            {edited(goodBundle, func(m map[string]any) { m["dsseEnvelope"].(map[string]any)["signatures"] = []any{} }), notByKey},
		"bundle with two signatures":            {edited(goodBundle, twoSignatures), notByKey},
		"bundle of another payload type":        {edited(goodBundle, func(m map[string]any) { m["dsseEnvelope"].(map[string]any)["payloadType"] = "text/plain" }), notByKey},
		"bundle without verification material":  {edited(goodBundle, func(m map[string]any) { delete(m, "verificationMaterial") }), notByKey},
		"bundle of a bare message signature":    {messageSignature(s), notByKey},
	}
}

func TestForgeriesAreRefused(t *testing.T) {
	for name, f := range forgeries() {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, holding(found(f.material)), byKey("P-256"))
			got := verdictOn(t, v, appSubject())
			checkDecision(t, got, false, `no signature by authority "release-key" (1 signature found, `+f.words+")")
			if a := got.Policies[0].Authorities[0]; a.KeyFingerprint != "" || a.Form != "" || a.Found != 1 {
				t.Errorf("a refusal names a key: %+v", a)
			}
		})
	}
}

// A good signature is found among forgeries, in whatever order: a stranger who adds some
// cannot take an image away.
func TestAGoodSignatureAmongForgeriesSuffices(t *testing.T) {
	var all []any
	for _, f := range forgeries() {
		all = append(all, f.material)
	}
	for _, good := range []any{classicFor("P-256", appDigest), bundleFor("P-256", appDigest)} {
		for _, material := range [][]any{append([]any{good}, all...), append(append([]any{}, all...), good)} {
			checkDecision(t, verdictOn(t, newVerifier(t, holding(found(material...)), byKey("P-256")), appSubject()), true, "")
		}
	}
}

func TestNoForgeryIsNoReasonToPass(t *testing.T) {
	checkDecision(t, verdictOn(t, newVerifier(t, holding(found()), byKey("P-256")), appSubject()), false, "no signatures found")
}

// Statements and payloads may say more than cosign's own; what counts stands.
func TestMoreThanIsNeededDoesNoHarm(t *testing.T) {
	s := sha256Signer("P-256")
	both := `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://sigstore.dev/cosign/sign/v1","subject":[` +
		`{"name":"other","digest":{"sha256":"` + otherDigest.Encoded() + `"}},{"digest":{"sha256":"` + appDigest.Encoded() + `"}}],"predicate":{"a":1}}`
	annotated := strings.Replace(string(simplePayload(appDigest)), `"optional":null`, `"optional":{"team":"app"}`, 1)
	for name, m := range map[string]any{
		"two subjects":    bundleOf(s, []byte(both), publicPEM(keyOfKind("P-256"))),
		"a hint left out": edited(bundleFor("P-256", appDigest), func(m map[string]any) { m["verificationMaterial"] = map[string]any{"publicKey": map[string]any{}} }),
		"a hint of no key": edited(bundleFor("P-256", appDigest), func(m map[string]any) {
			m["verificationMaterial"] = map[string]any{"publicKey": map[string]any{"hint": "x"}}
		}),
		"annotations":        signed(s, []byte(annotated)),
		"of another address": signed(s, []byte(strings.Replace(string(simplePayload(appDigest)), testRepository, "mirror.example/app", 1))),
	} {
		t.Run(name, func(t *testing.T) {
			checkDecision(t, verdictOn(t, newVerifier(t, holding(found(m)), byKey("P-256")), appSubject()), true, "")
		})
	}
}

func TestSignatureFormatRestrictsTheForm(t *testing.T) {
	for _, c := range []struct {
		format  string
		there   any
		allowed bool
	}{
		{"legacy", classicFor("P-256", appDigest), true}, {"legacy", bundleFor("P-256", appDigest), false},
		{"bundle", classicFor("P-256", appDigest), false}, {"bundle", bundleFor("P-256", appDigest), true},
	} {
		doc := policyDoc("signed", "enforce", keyAuthority("k", []string{"P-256"}, "signatureFormat: "+c.format))
		if got := verdictOn(t, newVerifier(t, holding(found(c.there)), doc), appSubject()); got.Allowed != c.allowed {
			t.Errorf("%s, %T: allowed is %v", c.format, c.there, got.Allowed)
		}
	}
}

func TestAnyOfAnAuthoritysKeysSuffices(t *testing.T) {
	doc := policyDoc("signed", "enforce", keyAuthority("rotating", []string{"P-256", "Ed25519", "RSA 2048"}))
	for _, kind := range []string{"P-256", "Ed25519", "RSA 2048"} {
		got := verdictOn(t, newVerifier(t, holding(found(classicFor(kind, appDigest))), doc), appSubject())
		checkDecision(t, got, true, "")
		want := setOf(t, byKey(kind)).Policies()[0].Authorities[0].Key.PublicKeys[0].Fingerprint
		if a, _ := got.Policies[0].Authority(); a.KeyFingerprint != want {
			t.Errorf("%s: fingerprint %s, want %s", kind, a.KeyFingerprint, want)
		}
	}
	checkDecision(t, verdictOn(t, newVerifier(t, holding(found(classicFor("other P-256", appDigest))), doc), appSubject()), false, "none by this key")
}

// claiming is b with the hint of another bundle.
func claiming(b, other evidence.Bundle) evidence.Bundle {
	var from map[string]any
	if err := json.Unmarshal(other.Raw, &from); err != nil {
		panic(err)
	}
	return edited(b, func(m map[string]any) { m["verificationMaterial"] = from["verificationMaterial"] })
}

func twoSignatures(m map[string]any) {
	e := m["dsseEnvelope"].(map[string]any)
	one := e["signatures"].([]any)[0]
	e["signatures"] = []any{one, one}
}

// envelopeBytes is what the key really signed in a bundle: DSSE's pre-authentication encoding.
func envelopeBytes(b evidence.Bundle) []byte {
	payload := must(base64.StdEncoding.DecodeString(envelopeField(b, "payload").(string)))
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(types.IntotoPayloadType), types.IntotoPayloadType, len(payload), payload)
}

func envelopeSignature(b evidence.Bundle) string {
	return envelopeField(b, "signatures").([]any)[0].(map[string]any)["sig"].(string)
}

func envelopeField(b evidence.Bundle, field string) any {
	var m struct{ DSSEEnvelope map[string]any }
	if err := json.Unmarshal(b.Raw, &m); err != nil {
		panic(err)
	}
	return m.DSSEEnvelope[field]
}

// messageSignature is what cosign sign-blob makes of the image's own manifest: the key, over this
// digest, saying nothing about what it is for.
func messageSignature(s signature.Signer) evidence.Bundle {
	sig := must(s.SignMessage(strings.NewReader("the image in question")))
	return edited(bundleFor("P-256", appDigest), func(m map[string]any) {
		delete(m, "dsseEnvelope")
		m["messageSignature"] = map[string]any{
			"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": must(hex.DecodeString(appDigest.Encoded()))},
			"signature":     sig,
		}
	})
}

// selfSigned is a certificate for a key, in PEM.
func selfSigned(k crypto.Signer) string {
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "release"}, NotAfter: time.Now().Add(time.Hour)}
	der := must(x509.CreateCertificate(rand.Reader, c, c, k.Public(), k))
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
