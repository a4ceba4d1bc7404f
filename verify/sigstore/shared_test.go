package sigstore_test

import (
	"bytes"
	"testing"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/sigstore"
	"github.com/cosentry/cosentry/verify/sigstore/sigstoretest"
)

// A registry gives a blob once and may name it 128 times. What is made of it, and kept, is made for each: so each counts.
func TestOneBlobThatIsNamedOftenCountsEachTime(t *testing.T) {
	w := newWorkshop(t)
	large := func(raw []byte) []byte { return append(raw, bytes.Repeat([]byte{' '}, 720<<10)...) }
	d := w.demand(kind{})
	d.Logs, d.Timestamps = nil, nil
	sig := w.SignatureOver(large(sigstoretest.SimplePayload(appDigest)), w.by)
	att := w.AttestationOver(large(sigstoretest.Statement(appDigest, slsa, nil)), w.by)
	image := w.BundleOver(large(sigstoretest.Statement(appDigest, "https://sigstore.dev/cosign/sign/v1", nil)), w.by)
	for name, c := range map[string]struct {
		size    int
		attests bool
		add     func(ev *evidence.Evidence)
	}{
		"signatures":   {len(sig.Payload), false, func(ev *evidence.Evidence) { ev.Signatures = append(ev.Signatures, sig) }},
		"attestations": {len(att.Payload), true, func(ev *evidence.Evidence) { ev.Attestations = append(ev.Attestations, att) }},
		"bundles":      {len(image.Raw), false, func(ev *evidence.Evidence) { ev.Bundles = append(ev.Bundles, image) }},
	} {
		for _, more := range []bool{false, true} {
			ev := &evidence.Evidence{Digest: appDigest, AskedAttestations: more}
			for range 30 {
				c.add(ev)
			}
			_, tally := sigstore.Read(ev).Signatures(t.Context(), d)
			if c.attests {
				_, tally = sigstore.Read(ev).Attestations(t.Context(), d)
			}
			want := min(30, int(limits.Material.Max())/c.size+1) // the first was counted when it was read
			if more {
				want = 30
			}
			if tally.Found != 30 || tally.Accepted != want {
				t.Errorf("%s, attestations asked for: %v: %d accepted, want %d of 30: %s", name, more, tally.Accepted, want, tally.Why())
			}
		}
	}
}

// A stranger's one blob, named often, does not hide a good signature that comes after it.
func TestARepeatedBlobCrowdsNothingOut(t *testing.T) {
	w := newWorkshop(t)
	d := w.demand(kind{})
	d.Logs, d.Timestamps = nil, nil
	junk := evidence.Signature{Payload: bytes.Repeat([]byte{' '}, 1<<20), Base64Signature: "AAAA"}
	ev := &evidence.Evidence{Digest: appDigest}
	for range 127 {
		ev.Signatures = append(ev.Signatures, junk)
	}
	ev.Signatures = append(ev.Signatures, w.SignatureOver(sigstoretest.SimplePayload(appDigest), w.by))
	ev.Bundles = append(ev.Bundles, w.BundleOver(sigstoretest.Statement(appDigest, "https://sigstore.dev/cosign/sign/v1", nil), w.by))
	if signers, tally := sigstore.Read(ev).Signatures(t.Context(), d); len(signers) != 2 {
		t.Errorf("%d of the two good ones: %s", len(signers), tally.Why())
	}
}
