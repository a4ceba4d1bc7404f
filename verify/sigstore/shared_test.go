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
			want := min(30, int(limits.Material.Max())/c.size)
			if more {
				want = 30
			}
			if tally.Found != 30 || tally.Accepted != want {
				t.Errorf("%s, attestations asked for: %v: %d accepted, want %d of 30: %s", name, more, tally.Accepted, want, tally.Why())
			}
		}
	}
}
