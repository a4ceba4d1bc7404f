package sigstore_test

import (
	"encoding/base64"
	"testing"

	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/sigstore-go/pkg/bundle"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/sigstore"
)

// demands are all kinds of demand on the material of one instance, from the least to the most.
func (w *workshop) demands() []sigstore.Demand {
	var all []sigstore.Demand
	for _, k := range []kind{{}, {keyless: true}} {
		d := w.demand(k)
		bare := d
		bare.Logs, bare.Timestamps, bare.IgnoreSCT = nil, nil, true
		all = append(all, bare, d)
	}
	return all
}

// nothingFor checks that evidence grants nothing to a digest that nobody signed, whatever is demanded.
func nothingFor(t *testing.T, demands []sigstore.Demand, ev *evidence.Evidence) {
	t.Helper()
	moved := *ev
	moved.Digest = otherDigest
	m := sigstore.Read(&moved)
	for _, d := range demands {
		if got, _ := m.Signatures(t.Context(), d); len(got) > 0 {
			t.Errorf("a signature of an image that nobody signed: %+v", got)
		}
		if got, _ := m.Attestations(t.Context(), d); len(got) > 0 {
			t.Errorf("an attestation of an image that nobody signed: %+v", got)
		}
	}
}

func FuzzBundle(f *testing.F) {
	w := newWorkshop(f)
	demands := w.demands()
	signed := map[string]bool{}
	for _, k := range kinds() {
		if k.bundle {
			raw := w.make(k, appDigest, w.all(k)).bundle.Raw
			signed[envelopeOf(raw)] = true
			f.Add(raw)
		}
	}
	for _, forged := range forgeries(w) {
		if forged.th.bundle != nil && len(forged.th.bundle.Raw) < 1<<16 {
			f.Add(forged.th.bundle.Raw)
			signed[envelopeOf(forged.th.bundle.Raw)] = true
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		ev := evidenceOf()
		ev.Bundles = []evidence.Bundle{{Raw: raw}}
		for _, d := range demands {
			sigs, _ := sigstore.Read(ev).Signatures(t.Context(), d)
			atts, _ := sigstore.Read(ev).Attestations(t.Context(), d)
			if len(sigs)+len(atts) > 0 && !signed[envelopeOf(raw)] {
				t.Errorf("accepted: %s", raw)
			}
		}
		if !signed[envelopeOf(raw)] {
			nothingFor(t, demands, ev)
		}
	})
}

// envelopeOf is what is signed in a bundle, and the signature.
func envelopeOf(raw []byte) string {
	var b bundle.Bundle
	if b.UnmarshalJSON(raw) != nil || b.GetDsseEnvelope() == nil || len(b.GetDsseEnvelope().GetSignatures()) != 1 {
		return ""
	}
	e := b.GetDsseEnvelope()
	return e.GetPayloadType() + "\x00" + string(e.GetPayload()) + "\x00" + string(e.GetSignatures()[0].GetSig())
}

func FuzzClassic(f *testing.F) {
	w := newWorkshop(f)
	demands := w.demands()
	type classic struct{ payload, sig string }
	signed := map[classic]bool{}
	for _, k := range kinds() {
		if k.bundle {
			continue
		}
		s := w.make(k, appDigest, w.all(k)).classic
		f.Add(s.Payload, s.Base64Signature, s.Annotations[static.CertificateAnnotationKey], s.Annotations[static.ChainAnnotationKey],
			s.Annotations[static.BundleAnnotationKey], s.Annotations[static.RFC3161TimestampAnnotationKey])
		signed[classic{string(s.Payload), decoded(s.Base64Signature)}] = true
	}
	f.Fuzz(func(t *testing.T, payload []byte, sig, cert, chain, log, stamp string) {
		s := evidence.Signature{Payload: payload, Base64Signature: sig, Annotations: map[string]string{
			static.CertificateAnnotationKey: cert, static.ChainAnnotationKey: chain, static.BundleAnnotationKey: log, static.RFC3161TimestampAnnotationKey: stamp,
		}}
		ev := evidenceOf()
		ev.Signatures, ev.Attestations = []evidence.Signature{s}, []evidence.Signature{s}
		nothingFor(t, demands, ev)
		for _, d := range demands {
			if got, _ := sigstore.Read(ev).Signatures(t.Context(), d); len(got) > 0 && !signed[classic{string(payload), decoded(sig)}] {
				t.Errorf("accepted: %q, %q", payload, sig)
			}
		}
	})
}

func decoded(b64 string) string {
	raw, err := base64.StdEncoding.DecodeString(b64)
	if err != nil {
		return b64
	}
	return string(raw)
}
