package evidence_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
)

const dsseEnvelope = "application/vnd.dsse.envelope.v1+json"

// attest stores attestations of the classic form under a tag.
func (r *reg) attest(repo, tag string, envelopes ...string) {
	r.t.Helper()
	var layers []object
	for i, envelope := range envelopes {
		layer := descriptorOf(dsseEnvelope, r.blob(repo, []byte(envelope)), len(envelope))
		layer["annotations"] = object{"predicateType": fmt.Sprint("https://example.com/", i), "dev.sigstore.cosign/bundle": "{}"}
		layers = append(layers, layer)
	}
	r.manifest(repo, tag, ociManifest, object{"schemaVersion": 2, "mediaType": ociManifest, "layers": layers})
}

func ask(t *testing.T, q evidence.Question) *evidence.Evidence {
	t.Helper()
	return askWith(t, newFetcher(t, evidence.Options{}), q)
}

func askWith(t *testing.T, f *evidence.Fetcher, q evidence.Question) *evidence.Evidence {
	t.Helper()
	q.Digest = subject
	e, err := f.Fetch(testContext(t), q)
	if err != nil {
		t.Fatal(err)
	}
	if !e.Answers(q) {
		t.Errorf("the answer does not know its question: %+v", e)
	}
	return e
}

func TestClassicAttestations(t *testing.T) {
	r := newReg(t)
	r.sign("app", 1)
	r.attest("app", tagOf(subject)+".att", `{"payload":"YQ=="}`, `{"payload":"Yg=="}`)
	e := ask(t, evidence.Question{Repository: r.host + "/app", Attestations: true})
	want(t, e, 1)
	complete(t, e)
	if len(e.Attestations) != 2 {
		t.Fatalf("%d attestations", len(e.Attestations))
	}
	for i, a := range e.Attestations {
		if digest.FromBytes(a.Payload) != a.Source || a.Base64Signature != "" || a.Annotations["predicateType"] != fmt.Sprint("https://example.com/", i) || a.Annotations["dev.sigstore.cosign/bundle"] == "" {
			t.Errorf("attestation %d: %+v", i, a)
		}
	}
	if e = ask(t, evidence.Question{Repository: r.host + "/app"}); len(e.Attestations) != 0 {
		t.Error("attestations that nobody asked for")
	}
}

// TestAttestationsCostNoRoundTrip: their tag is asked for beside the others, and only if somebody wants them.
func TestAttestationsCostNoRoundTrip(t *testing.T) {
	r := newReg(t, registry.WithReferrersSupport(true))
	r.sign("app", 1)
	envelope := `{"payload":"YQ=="}`
	r.attest("app", tagOf(subject)+".att", envelope)
	sig, att := "GET manifests/"+tagOf(subject)+".sig", "GET manifests/"+tagOf(subject)+".att"
	tag, api := "GET manifests/"+tagOf(subject), "GET referrers/"+subject.String()
	payload := "GET blobs/" + digest.FromString(`{"critical":{},"optional":{"n":0}}`).String()
	f := newFetcher(t, evidence.Options{})
	for _, c := range []struct {
		attestations bool
		rounds       [][]string
	}{
		{true, [][]string{{sig, att, tag, api}, {payload, "GET blobs/" + digest.FromString(envelope).String()}}},
		{false, [][]string{{sig, api}, {payload}}},
		// The way that was left out is asked at the end: signatures do not stand for attestations in bundles.
		{true, [][]string{{sig, att, api}, {payload, "GET blobs/" + digest.FromString(envelope).String()}, {tag}}},
	} {
		finish := r.rounds(c.rounds)
		e := askWith(t, f, evidence.Question{Repository: r.host + "/app", Attestations: c.attestations})
		finish()
		complete(t, e)
		want(t, e, 1)
	}
}

// TestBundlesWithAttestationsBesideClassicSignatures are found although the registry is known to have the API.
func TestBundlesWithAttestationsBesideClassicSignatures(t *testing.T) {
	r := newReg(t, registry.WithReferrersSupport(true))
	f := newFetcher(t, evidence.Options{})
	r.refer("other", "{}")
	askWith(t, f, evidence.Question{Repository: r.host + "/other"})
	r.sign("app", 1)
	r.attach("app", `{"one":1}`)
	r.on("app/referrers/"+subject.String(), func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"manifests":[]}`))
	})
	want(t, askWith(t, f, evidence.Question{Repository: r.host + "/app", Attestations: true}), 1, `{"one":1}`)
}

func TestTagPrefix(t *testing.T) {
	r := newReg(t)
	r.sign("app", 2)
	r.attest("app", "team-"+tagOf(subject)+".att", `{"payload":"YQ=="}`)
	r.attest("app", tagOf(subject)+".att")
	payload := []byte(`{"critical":{}}`)
	r.manifest("app", "team-"+tagOf(subject)+".sig", ociManifest, object{
		"schemaVersion": 2, "layers": []object{descriptorOf(simpleSigning, r.blob("app", payload), len(payload))},
	})
	r.attach("app", `{"one":1}`) // lists of referrers have no prefix
	e := ask(t, evidence.Question{Repository: r.host + "/app", TagPrefix: "team-", Attestations: true})
	want(t, e, 1, `{"one":1}`)
	if len(e.Attestations) != 1 {
		t.Errorf("%d attestations", len(e.Attestations))
	}
	want(t, ask(t, evidence.Question{Repository: r.host + "/app", TagPrefix: "other-"}), 0, `{"one":1}`)

	r.requests()
	for _, prefix := range []string{"a/", "../", "a:", "-", ".", "a b", "a\n", "ä", strings.Repeat("a", 54), "?x="} {
		_, err := newFetcher(t, evidence.Options{}).Fetch(testContext(t), evidence.Question{Repository: r.host + "/app", Digest: subject, TagPrefix: prefix})
		if err == nil || !strings.Contains(err.Error(), "tag prefix") {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
	if seen := r.requests(); len(seen) != 0 {
		t.Errorf("asked: %q", seen)
	}
}

// TestAnotherRepository: the digest is the image's, the place is where the policy says.
func TestAnotherRepository(t *testing.T) {
	r := newReg(t)
	r.sign("signatures", 1)
	r.attach("signatures", `{"one":1}`)
	want(t, ask(t, evidence.Question{Repository: r.host + "/signatures"}), 1, `{"one":1}`)
	want(t, ask(t, evidence.Question{Repository: r.host + "/app"}), 0)
}

func TestHostileAttestations(t *testing.T) {
	small := `{"payload":"YQ=="}`
	for _, c := range []struct {
		name  string
		store func(r *reg)
		found int
		cause func(error) bool // nil: complete
	}{
		{"other layers beside it", func(r *reg) {
			d := r.blob("app", []byte(small))
			r.manifest("app", tagOf(subject)+".att", ociManifest, object{"layers": []object{
				descriptorOf(simpleSigning, d, len(small)), descriptorOf("application/vnd.in-toto+json", d, len(small)), descriptorOf(dsseEnvelope, d, len(small)),
			}})
		}, 1, nil},
		{"a signature's layer under the tag of attestations", func(r *reg) {
			r.manifest("app", tagOf(subject)+".att", ociManifest, object{"layers": []object{descriptorOf(simpleSigning, r.blob("app", []byte(small)), len(small))}})
		}, 0, nil},
		{"other bytes", func(r *reg) {
			r.attest("app", tagOf(subject)+".att", small)
			r.on(digest.FromString(small).String(), func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"payload":"Yg=="}`)) })
		}, 0, mismatch},
		{"another size", func(r *reg) {
			r.manifest("app", tagOf(subject)+".att", ociManifest, object{"layers": []object{descriptorOf(dsseEnvelope, r.blob("app", []byte(small)), 3)}})
		}, 0, mismatch},
		{"announced too large", func(r *reg) {
			r.manifest("app", tagOf(subject)+".att", ociManifest, object{"layers": []object{descriptorOf(dsseEnvelope, digest.FromString("x"), int(limits.Attestation.Max())+1)}})
		}, 0, over(limits.Attestation)},
		{"endless", func(r *reg) {
			r.attest("app", tagOf(subject)+".att", small)
			r.on(digest.FromString(small).String(), func(w http.ResponseWriter, req *http.Request) {
				for req.Context().Err() == nil {
					if _, err := w.Write(make([]byte, 1<<20)); err != nil {
						return
					}
				}
			})
		}, 0, over(limits.Attestation)},
		{"too many", func(r *reg) {
			var layers []object
			for range limits.Signatures.Max() + 1 {
				layers = append(layers, descriptorOf(dsseEnvelope, digest.FromString(small), len(small)))
			}
			r.manifest("app", tagOf(subject)+".att", ociManifest, object{"layers": layers})
		}, 0, over(limits.Signatures)},
		{"too much in all", func(r *reg) {
			var layers []object
			size := int(limits.Attestation.Max())
			for i := range 5 {
				large := bytes.Repeat([]byte{byte('0' + i)}, size)
				layers = append(layers, descriptorOf(dsseEnvelope, r.blob("app", large), size))
			}
			r.manifest("app", tagOf(subject)+".att", ociManifest, object{"layers": layers})
		}, 0, over(limits.AttestedMaterial)},
		{"not a manifest", func(r *reg) {
			r.on(".att", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) })
		}, 0, mismatch},
		{"the registry is away", func(r *reg) {
			r.on(".att", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		}, 0, func(err error) bool { return errors.Is(err, evidence.ErrUnavailable) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReg(t)
			r.sign("app", 1)
			c.store(r)
			e := ask(t, evidence.Question{Repository: r.host + "/app", Attestations: true})
			if len(e.Attestations) != c.found {
				t.Errorf("%d attestations, want %d", len(e.Attestations), c.found)
			}
			if (c.cause == nil) != (e.Incomplete == nil) || c.cause != nil && !c.cause(e.Incomplete) {
				t.Errorf("incomplete: %v", e.Incomplete)
			}
		})
	}
}

func mismatch(err error) bool { return errors.Is(err, evidence.ErrMismatch) }

func over(bound limits.Bound) func(error) bool {
	return func(err error) bool {
		var exceeded *limits.Exceeded
		return errors.As(err, &exceeded) && exceeded.Bound == bound
	}
}

// TestALargeBundleIsReadWhereAttestationsAreAskedFor, and not where a signature is looked for, which is never so large.
func TestALargeBundleIsReadWhereAttestationsAreAskedFor(t *testing.T) {
	r := newReg(t)
	large := `{"x":"` + strings.Repeat("a", int(limits.Payload.Max())) + `"}`
	r.attach("app", large, `{"one":1}`)
	want(t, ask(t, evidence.Question{Repository: r.host + "/app", Attestations: true}), 0, large, `{"one":1}`)
	e := ask(t, evidence.Question{Repository: r.host + "/app"})
	want(t, e, 0, `{"one":1}`)
	if !over(limits.Payload)(e.Incomplete) {
		t.Errorf("incomplete: %v", e.Incomplete)
	}
}

// TestSeveralCredentials are tried in their order, after which the node's and none come.
func TestSeveralCredentials(t *testing.T) {
	r := newReg(t)
	r.sign("app", 1)
	var tried []string
	r.mu.Lock()
	r.meddle = func(w http.ResponseWriter, req *http.Request) bool {
		user, _, ok := req.BasicAuth()
		r.mu.Lock()
		if ok && !slices.Contains(tried, user) {
			tried = append(tried, user)
		}
		r.mu.Unlock()
		if user == "third" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	r.mu.Unlock()
	var all []evidence.Credentials
	for _, user := range []string{"first", "second", "third", "fourth"} {
		all = append(all, evidence.Credentials{Username: user, Password: "p"})
	}
	e := ask(t, evidence.Question{Repository: r.host + "/app", Credentials: all})
	want(t, e, 1)
	complete(t, e)
	if !slices.Equal(tried, []string{"first", "second", "third"}) {
		t.Errorf("tried %q", tried)
	}
}
