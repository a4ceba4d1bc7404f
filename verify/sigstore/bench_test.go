package sigstore_test

import (
	"testing"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/sigstore"
	"github.com/cosentry/cosentry/verify/sigstore/sigstoretest"
)

// One good signature, evidence parsed anew each time: what judging a digest that was never seen adds to the round trips.
func BenchmarkSignature(b *testing.B) {
	w := newWorkshop(b)
	for _, k := range kinds() {
		if k.attests {
			continue
		}
		all, bare := w.demand(k), w.demand(k)
		bare.Logs, bare.Timestamps = nil, nil
		for name, d := range map[string]sigstore.Demand{"bare": bare, "with log and timestamp": all} {
			ev := evidenceOf(w.make(k, appDigest, w.all(k)))
			b.Run(k.String()+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if got, t := sigstore.Read(ev).Signatures(b.Context(), d); len(got) != 1 {
						b.Fatal(t.Why())
					}
				}
			})
		}
	}
}

// The most that strangers can put beside an image, none of it by the key or the identity.
func BenchmarkNoneOfMany(b *testing.B) {
	w, stranger := newWorkshop(b), newWorkshop(b)
	var things []*thing
	for _, k := range kinds() {
		if !k.attests {
			for range 32 {
				things = append(things, stranger.make(k, appDigest, stranger.all(k)))
			}
		}
	}
	ev := evidenceOf(things...)
	for _, k := range []kind{{}, {keyless: true}} {
		d := w.demand(k)
		if !k.keyless {
			d.Keys = []policy.PublicKey{sigstoretest.PublicKey(sigstoretest.NewKey(b, "P-256"))}
		}
		b.Run(k.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got, _ := sigstore.Read(ev).Signatures(b.Context(), d); len(got) != 0 {
					b.Fatal("accepted")
				}
			}
		})
	}
}
