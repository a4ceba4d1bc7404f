package verify

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
)

// A verdict that is in the cache: what every restart of a pod costs.
func BenchmarkVerifyWarm(b *testing.B) {
	v := newVerifier(b, holding(found(classicFor("P-256", appDigest))), byKey("P-256"))
	s := appSubject()
	s.Credentials = evidence.Credentials{Username: "kubelet", Password: "secret"}
	verdictOn(b, v, s)
	b.ReportAllocs()
	for b.Loop() {
		got, err := v.Verify(context.Background(), s)
		if err != nil || !got.Allowed || !got.Cached {
			b.Fatalf("%+v, %v", got, err)
		}
	}
}

// A verdict on a digest that was never seen, with the evidence at hand: what is added to the round trips.
func BenchmarkVerifyColdClassic(b *testing.B) {
	benchmarkCold(b, func(kind string, d digest.Digest) *evidence.Evidence {
		return &evidence.Evidence{Repository: testRepository, Digest: d, Signatures: []evidence.Signature{classicFor(kind, d)}}
	})
}

func BenchmarkVerifyColdBundle(b *testing.B) {
	benchmarkCold(b, func(kind string, d digest.Digest) *evidence.Evidence {
		return &evidence.Evidence{Repository: testRepository, Digest: d, Bundles: []evidence.Bundle{bundleFor(kind, d)}}
	})
}

func benchmarkCold(b *testing.B, of func(string, digest.Digest) *evidence.Evidence) {
	for _, kind := range []string{"P-256", "P-384", "RSA 2048", "Ed25519"} {
		b.Run(kind, func(b *testing.B) {
			const images = 16
			all := map[digest.Digest]*evidence.Evidence{}
			var subjects []Subject
			for i := range images {
				s := appSubject()
				s.Digest = digest.FromString(fmt.Sprint(i))
				all[s.Digest] = of(kind, s.Digest)
				subjects = append(subjects, s)
			}
			src := &source{fetch: func(_ context.Context, _ string, d digest.Digest, _ evidence.Credentials) (*evidence.Evidence, error) {
				return all[d], nil
			}}
			v := newVerifier(b, src, byKey(kind))
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				v.cache.purge()
				got, err := v.Verify(context.Background(), subjects[i%images])
				if err != nil || !got.Allowed || got.Cached {
					b.Fatalf("%+v, %v", got, err)
				}
				i++
			}
		})
	}
}

// The most that strangers can put beside an image, none of it by the key: bounded, as judging is.
func BenchmarkVerifyNoneOfMany(b *testing.B) {
	var material []any
	for range 128 {
		material = append(material, classicFor("other P-256", appDigest), bundleFor("other P-256", appDigest))
	}
	v := newVerifier(b, holding(found(material...)), byKey("P-256"))
	b.ReportAllocs()
	for b.Loop() {
		v.cache.purge()
		if got, err := v.Verify(context.Background(), appSubject()); err != nil || got.Allowed {
			b.Fatalf("%+v, %v", got, err)
		}
	}
}

// thousand is what a large owner has: a policy for each team's repository, by key, identity, attestation and rule.
func thousand(w *world) []byte {
	var all strings.Builder
	for i := range 1000 {
		glob := fmt.Sprintf("registry.example/team-%d/**", i)
		if i == 500 {
			glob = "registry.example/team/**"
		}
		authorities := []string{
			keyAuthority("release-key", []string{"P-256"}),
			keyless("people", testLog, asks("scan", predicate, `predicate: high: 0`)),
		}
		fmt.Fprintf(&all, "---\n%s", policyFor(glob, fmt.Sprintf("team-%d", i), "enforce", authorities...)+demanding("release-key"))
	}
	return []byte(all.String())
}

// A decision that was made before, among a thousand policies; aim: under 100 µs.
func BenchmarkWarmAmongAThousandPolicies(b *testing.B) {
	w := newWorld(b)
	v := w.verifier(testOptions(holding(found(classicFor("P-256", appDigest)))), string(thousand(w)))
	s := appSubject()
	s.Pod = &policy.Pod{Namespace: "shop", Labels: map[string]string{"app": "web"}}
	checkDecision(b, verdictOn(b, v, s), true, "")
	b.ReportAllocs()
	for b.Loop() {
		got, err := v.Verify(context.Background(), s)
		if err != nil || !got.Allowed || !got.Cached {
			b.Fatalf("%+v, %v", got, err)
		}
	}
}

// A thousand policies read, checked, put together, what they refer to looked up, and put in force; aim: under 2 s.
func BenchmarkLoadAThousandPolicies(b *testing.B) {
	w := newWorld(b)
	data := thousand(w)
	v := w.verifier(testOptions(failing(errUnavailable)))
	b.ReportAllocs()
	for b.Loop() {
		docs, err := policy.Parse("policies.yaml", data)
		if err != nil {
			b.Fatal(err)
		}
		set, err := policy.NewSet(docs)
		if err != nil {
			b.Fatal(err)
		}
		v.SetPolicies(set, w.keeper.Resolve(set))
	}
}

// The same with policies of the cluster beside the node's own.
func BenchmarkWarmInBothLayers(b *testing.B) {
	v := layered(b, testOptions(signedByRelease()), docs(byKey("P-256")), docs(byKey("P-256")))
	s := appSubject()
	verdictOn(b, v, s)
	b.ReportAllocs()
	for b.Loop() {
		got, err := v.Verify(context.Background(), s)
		if err != nil || !got.Allowed || !got.Cached {
			b.Fatalf("%+v, %v", got, err)
		}
	}
}
