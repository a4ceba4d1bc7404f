package verify

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/bundle"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
)

// fuzzKeys are the vectors' keys: fixed, so that a failure can be repeated.
func fuzzKeys(t testing.TB, kinds ...string) (keys []policy.PublicKey, vecs []vector) {
	t.Helper()
	all := vectors(t)
	for _, kind := range kinds {
		set := setOf(t, policyDoc("p", "enforce", keyPEMAuthority("k", all[kind].Key)))
		keys = append(keys, set.Policies()[0].Authorities[0].Key.PublicKeys[0])
		vecs = append(vecs, all[kind])
	}
	return keys, vecs
}

// sound checks what verify may return: nil, or one of the three errors.
func sound(t testing.TB, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, errNotByKey) && !errors.Is(err, errOtherDigest) && !errors.Is(err, errNotASignature) {
		t.Errorf("error %v is none of the three", err)
	}
}

// Nobody without the private key makes a payload and signature that count, except the ones that are there.
func FuzzClassic(f *testing.F) {
	keys, vecs := fuzzKeys(f, "ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048")
	for _, v := range vecs {
		f.Add([]byte(v.Payload), v.Signature, v.Digest)
		f.Add([]byte("{}"), v.Signature, v.Digest)
		f.Add([]byte(v.Payload), v.Signature+"\n", v.Digest)
		f.Add([]byte(v.Payload), "", appDigest.String())
	}
	f.Fuzz(func(t *testing.T, payload []byte, sig, dgst string) {
		d := digest.Digest(dgst)
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			d = appDigest
		}
		for i, k := range keys {
			err := classic{&evidence.Signature{Payload: payload, Base64Signature: sig}}.verify(t.Context(), k, d)
			sound(t, err)
			decoded, _ := base64.StdEncoding.DecodeString(sig)
			original, _ := base64.StdEncoding.DecodeString(vecs[i].Signature)
			if err == nil && (string(payload) != vecs[i].Payload || !bytes.Equal(decoded, original) || d.String() != vecs[i].Digest) {
				t.Errorf("accepted for key %d: payload %q, signature %q, digest %s", i, payload, sig, d)
			}
		}
	})
}

func FuzzBundle(f *testing.F) {
	keys, vecs := fuzzKeys(f, "ecdsa-p256", "ecdsa-p521", "ed25519", "rsa-2048")
	for _, v := range vecs {
		f.Add([]byte(v.Bundle), v.Digest)
		f.Add([]byte(v.Bundle), appDigest.String())
	}
	for _, forged := range forgeries() {
		if b, ok := forged.material.(evidence.Bundle); ok && len(b.Raw) < 1<<16 {
			f.Add(b.Raw, vecs[0].Digest)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, dgst string) {
		d := digest.Digest(dgst)
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			d = appDigest
		}
		one := &bundled{Bundle: &evidence.Bundle{Raw: raw}} // parsed once for all keys, as in a judgement
		for i, k := range keys {
			err := one.verify(t.Context(), k, d)
			sound(t, err)
			if err == nil && (!saysTheSame(t, raw, vecs[i].Bundle) || d.String() != vecs[i].Digest) {
				t.Errorf("accepted for key %d, digest %s: %s", i, d, raw)
			}
		}
	})
}

// saysTheSame reports whether two bundles hold the same signed bytes and the same signature. All
// else in a bundle is unsigned: names of keys, the version, white space.
func saysTheSame(t testing.TB, a, b []byte) bool {
	t.Helper()
	var x, y bundle.Bundle
	if x.UnmarshalJSON(a) != nil || y.UnmarshalJSON(b) != nil {
		return false
	}
	e, o := x.GetDsseEnvelope(), y.GetDsseEnvelope()
	return e.GetPayloadType() == o.GetPayloadType() && bytes.Equal(e.GetPayload(), o.GetPayload()) &&
		len(e.GetSignatures()) == 1 && len(o.GetSignatures()) == 1 &&
		bytes.Equal(e.GetSignatures()[0].GetSig(), o.GetSignatures()[0].GetSig())
}

// mutations are raw with one byte changed, at every place: each bit that keeps text text, and a few
// values that parsers treat alike.
func mutations(raw []byte, each func(at int, mutated []byte)) {
	for at := range raw {
		for _, b := range []byte{raw[at] ^ 1, raw[at] ^ 0x20, raw[at] ^ 0x80, ' ', 0} {
			if b == raw[at] {
				continue
			}
			m := bytes.Clone(raw)
			m[at] = b
			each(at, m)
		}
	}
}

// No byte of a payload or of a signature can be changed.
func TestEveryByteOfAClassicSignatureCounts(t *testing.T) {
	keys, vecs := fuzzKeys(t, "ecdsa-p256", "ed25519", "rsa-2048")
	for i, vec := range vecs {
		d := digest.Digest(vec.Digest)
		check := func(what string, at int, s evidence.Signature) {
			if err := (classic{&s}).verify(t.Context(), keys[i], d); !errors.Is(err, errNotByKey) {
				t.Errorf("key %d: byte %d of the %s is changed, and the answer is %v", i, at, what, err)
			}
		}
		mutations([]byte(vec.Payload), func(at int, m []byte) {
			check("payload", at, evidence.Signature{Payload: m, Base64Signature: vec.Signature})
		})
		sig := must(base64.StdEncoding.DecodeString(vec.Signature))
		mutations(sig, func(at int, m []byte) {
			check("signature", at, evidence.Signature{Payload: []byte(vec.Payload), Base64Signature: base64.StdEncoding.EncodeToString(m)})
		})
		for n := range sig {
			check("signature, cut there,", n, evidence.Signature{Payload: []byte(vec.Payload), Base64Signature: base64.StdEncoding.EncodeToString(sig[:n])})
		}
	}
}

// A byte of a bundle that can be changed is one that nobody signed.
func TestEveryByteOfABundleCountsOrSaysNothing(t *testing.T) {
	keys, vecs := fuzzKeys(t, "ecdsa-p256", "ed25519")
	for i, vec := range vecs {
		var compact bytes.Buffer
		if err := json.Compact(&compact, vec.Bundle); err != nil {
			t.Fatal(err)
		}
		accepted := 0
		mutations(compact.Bytes(), func(at int, m []byte) {
			err := (&bundled{Bundle: &evidence.Bundle{Raw: m}}).verify(t.Context(), keys[i], digest.Digest(vec.Digest))
			sound(t, err)
			if err != nil {
				return
			}
			accepted++
			if !saysTheSame(t, m, vec.Bundle) {
				t.Errorf("key %d: byte %d is changed and the bundle accepted: %s", i, at, m)
			}
		})
		if accepted == 0 {
			t.Errorf("key %d: not even the hint could be changed: is anything accepted at all?", i)
		}

		var b bundle.Bundle
		if err := b.UnmarshalJSON(vec.Bundle); err != nil {
			t.Fatal(err)
		}
		refused := func(what string, at int) {
			raw := must(b.MarshalJSON())
			err := (&bundled{Bundle: &evidence.Bundle{Raw: raw}}).verify(t.Context(), keys[i], digest.Digest(vec.Digest))
			if !errors.Is(err, errNotByKey) {
				t.Errorf("key %d: byte %d of the %s is changed, and the answer is %v", i, at, what, err)
			}
		}
		e := b.GetDsseEnvelope()
		payload, sig := e.Payload, e.Signatures[0].Sig
		mutations(payload, func(at int, m []byte) { e.Payload = m; refused("payload", at) })
		e.Payload = payload
		mutations(sig, func(at int, m []byte) { e.Signatures[0].Sig = m; refused("signature", at) })
	}
}
