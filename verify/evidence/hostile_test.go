package evidence_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
)

// endless answers with a body that does not end.
func endless(w http.ResponseWriter, r *http.Request) {
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	for r.Context().Err() == nil {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// hang does not answer until the client has gone.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "17")
		w.WriteHeader(code)
	}
}

// TestHostileRegistry: whatever it does, there is an error that says so, and nothing that could be taken for evidence.
func TestHostileRegistry(t *testing.T) {
	payloadPath := "/blobs/" + digest.FromString(`{"critical":{},"optional":{"n":0}}`).String()
	sigPath := "/manifests/" + tagOf(subject) + ".sig"
	tagPath := "/manifests/" + tagOf(subject)
	body := func(raw string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(raw)) }
	}
	for _, c := range []struct {
		name  string
		path  string
		serve http.HandlerFunc
		want  error
		bound limits.Bound
		words string
	}{
		{name: "other bytes for a payload", path: payloadPath, serve: body(`{"critical":{},"optional":{"n":1}}`), want: evidence.ErrMismatch},
		{name: "fewer bytes for a payload", path: payloadPath, serve: body(`{}`), want: evidence.ErrMismatch},
		{name: "payload gone", path: payloadPath, serve: status(404), want: evidence.ErrNotFound},
		{name: "endless payload", path: payloadPath, serve: endless, bound: limits.Payload},
		{name: "payload that hangs", path: payloadPath, serve: hang, want: evidence.ErrUnavailable},
		{name: "payload refused", path: payloadPath, serve: status(403), want: evidence.ErrUnauthorized},
		{name: "endless signature manifest", path: sigPath, serve: endless, bound: limits.Manifest},
		{name: "large signature manifest, announced", path: sigPath, serve: body(strings.Repeat(" ", 4<<20+1)), bound: limits.Manifest},
		{name: "signature manifest that hangs", path: sigPath, serve: hang, want: evidence.ErrUnavailable},
		{name: "signature manifest that is none", path: sigPath, serve: body(`<html>`), want: evidence.ErrMismatch},
		{name: "signature manifest that is two things", path: sigPath, serve: body(`{"layers":[{}],"manifests":[{}]}`), want: evidence.ErrMismatch},
		{name: "digest that climbs out of the URL", path: sigPath, serve: body(`{"layers":[{"mediaType":"` + simpleSigning + `","digest":"sha256:../../../x","size":1}]}`), want: evidence.ErrMismatch},
		{name: "payload of negative size", path: sigPath, serve: body(`{"layers":[{"mediaType":"` + simpleSigning + `","digest":"` + subject.String() + `","size":-1}]}`), want: evidence.ErrMismatch},
		{name: "payload announced too large", path: sigPath, serve: body(`{"layers":[{"mediaType":"` + simpleSigning + `","digest":"` + subject.String() + `","size":1048577}]}`), bound: limits.Payload},
		{name: "500", path: "", serve: status(500), want: evidence.ErrUnavailable},
		{name: "429", path: "", serve: status(429), want: evidence.ErrUnavailable, words: "retry after 17"},
		{name: "401 without a challenge", path: "", serve: status(401), want: evidence.ErrUnauthorized},
		{name: "403", path: "", serve: status(403), want: evidence.ErrUnauthorized},
		{name: "418", path: "", serve: status(418), want: evidence.ErrUnavailable, words: "status 418"},
		{name: "redirect without an aim", path: sigPath, serve: status(302), want: evidence.ErrUnavailable},
		{name: "fallback tag that is none", path: tagPath, serve: body(`[]`), want: evidence.ErrMismatch},
		{name: "referrers page that is another page", path: "/referrers/" + subject.String(), serve: body(`{"welcome":true}`), want: evidence.ErrMismatch},
		{name: "referrers API that fails", path: "/referrers/" + subject.String(), serve: status(503), want: evidence.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReg(t, registry.WithReferrersSupport(true))
			r.sign("app", 1)
			r.on(c.path, c.serve)
			if c.path != "" && c.path != payloadPath && c.path != sigPath {
				r.on(sigPath, status(404)) // what is tested is the other form
			}
			timeout := limits.RequestTimeout
			if c.want == evidence.ErrUnavailable {
				timeout = 200 * time.Millisecond
			}
			e := fetch(t, newFetcher(t, evidence.Options{RequestTimeout: timeout}), r.host+"/app", evidence.Credentials{})
			want(t, e, 0)
			if e.Incomplete == nil {
				t.Fatal("complete, though not everything could be learnt")
			}
			if c.want != nil && !errors.Is(e.Incomplete, c.want) {
				t.Errorf("incomplete: %v; want %v", e.Incomplete, c.want)
			}
			var exceeded *limits.Exceeded
			if c.want == nil && (!errors.As(e.Incomplete, &exceeded) || exceeded.Bound != c.bound) {
				t.Errorf("incomplete: %v; want the bound on %s", e.Incomplete, c.bound)
			}
			if !strings.Contains(e.Incomplete.Error(), c.words) {
				t.Errorf("incomplete: %v; want %q in it", e.Incomplete, c.words)
			}
		})
	}
}

// TestWhatIsFoundBesideAFailureCounts: a broken referrers API does not take the classic signatures away.
func TestWhatIsFoundBesideAFailureCounts(t *testing.T) {
	r := newReg(t)
	r.sign("app", 1)
	r.on("referrers/"+subject.String(), status(500))
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	want(t, e, 1)
	if !errors.Is(e.Incomplete, evidence.ErrUnavailable) {
		t.Errorf("incomplete: %v", e.Incomplete)
	}
}

func TestNoRegistry(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	_ = l.Close()
	f := newFetcher(t, evidence.Options{})
	e := fetch(t, f, host+"/app", evidence.Credentials{})
	want(t, e, 0)
	if !errors.Is(e.Incomplete, evidence.ErrUnavailable) {
		t.Errorf("incomplete: %v", e.Incomplete)
	}
	if _, err := f.Resolve(testContext(t), host+"/app", "v1", evidence.Credentials{}); !errors.Is(err, evidence.ErrUnavailable) {
		t.Errorf("resolving: %v", err)
	}
}

func TestContextEnds(t *testing.T) {
	r := newReg(t)
	ctx, cancel := context.WithCancel(context.Background())
	r.all(func(w http.ResponseWriter, req *http.Request) { cancel(); hang(w, req) })
	e, err := newFetcher(t, evidence.Options{}).Fetch(ctx, evidence.Question{Repository: r.host + "/app", Digest: subject})
	if err != nil || !errors.Is(e.Incomplete, evidence.ErrUnavailable) || !errors.Is(e.Incomplete, context.Canceled) {
		t.Fatalf("got %+v, %v", e, err)
	}
}

func TestTooManySignatures(t *testing.T) {
	for n, ok := range map[int]bool{128: true, 129: false} {
		r := newReg(t)
		r.sign("app", n)
		e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
		checkBound(t, e, n, len(e.Signatures), ok, limits.Signatures)
	}
}

func TestTooManyReferrers(t *testing.T) {
	for _, api := range []bool{true, false} {
		for n, ok := range map[int]bool{128: true, 129: false} {
			r := newReg(t, registry.WithReferrersSupport(api))
			var contents []string
			for i := range n {
				contents = append(contents, fmt.Sprintf(`{"n":%d}`, i))
			}
			r.attach("app", contents...)
			e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
			checkBound(t, e, n, len(e.Bundles), ok, limits.Referrers)
		}
	}
}

// TestTooManyBundlesInOneReferrer: the bound on signatures holds however they are packed.
func TestTooManyBundlesInOneReferrer(t *testing.T) {
	for n, ok := range map[int]bool{128: true, 129: false} {
		r := newReg(t)
		m := r.bundleManifest("app", "{}", subject)
		var layers []object
		for i := range n {
			content := fmt.Appendf(nil, `{"n":%d}`, i)
			layers = append(layers, descriptorOf(bundleType, r.blob("app", content), len(content)))
		}
		m["layers"] = layers
		r.fallback("app", []object{descriptorOf(ociManifest, r.manifest("app", "", ociManifest, m), 1)})
		e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
		checkBound(t, e, n, len(e.Bundles), ok, limits.Signatures)
	}
}

// TestTooManyBundlesInTwoReferrers: nor are those given that happened to be read before there were too many.
func TestTooManyBundlesInTwoReferrers(t *testing.T) {
	r := newReg(t)
	var entries []object
	for i := range 2 {
		m := r.bundleManifest("app", "{}", subject)
		var layers []object
		for j := range 65 {
			content := fmt.Appendf(nil, `{"n":%d}`, 100*i+j)
			layers = append(layers, descriptorOf(bundleType, r.blob("app", content), len(content)))
		}
		m["layers"] = layers
		entries = append(entries, descriptorOf(ociManifest, r.manifest("app", "", ociManifest, m), 1))
	}
	r.fallback("app", entries)
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	checkBound(t, e, 130, len(e.Bundles), false, limits.Signatures)
}

// TestSizeMustMatch: a descriptor is the digest and the size.
func TestSizeMustMatch(t *testing.T) {
	r := newReg(t)
	payload := []byte(`{"critical":{}}`)
	r.signatureManifest("app", []object{descriptorOf(simpleSigning, r.blob("app", payload), len(payload)-1)})
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	want(t, e, 0)
	if !errors.Is(e.Incomplete, evidence.ErrMismatch) {
		t.Errorf("incomplete: %v", e.Incomplete)
	}
}

func checkBound(t *testing.T, e *evidence.Evidence, n, found int, ok bool, bound limits.Bound) {
	t.Helper()
	if ok {
		if found != n || e.Incomplete != nil {
			t.Errorf("%d: %d found, incomplete: %v", n, found, e.Incomplete)
		}
		return
	}
	var exceeded *limits.Exceeded
	if found != 0 || !errors.As(e.Incomplete, &exceeded) || exceeded.Bound != bound {
		t.Errorf("%d: %d found, incomplete: %v; want none and the bound on %s", n, found, e.Incomplete, bound)
	}
}

// TestContentTypeIsNotBelieved: what is parsed is what was hashed, under whatever name it comes.
func TestContentTypeIsNotBelieved(t *testing.T) {
	r := newReg(t)
	r.sign("app", 1)
	r.attach("app", `{"one":1}`)
	r.mu.Lock()
	r.meddle = func(w http.ResponseWriter, req *http.Request) bool {
		r.store.ServeHTTP(lies{w}, req)
		return true
	}
	r.mu.Unlock()
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	want(t, e, 1, `{"one":1}`)
	complete(t, e)
}

// lies about the type of whatever it answers.
type lies struct{ http.ResponseWriter }

func (l lies) WriteHeader(code int) {
	l.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.list.v2+json")
	l.ResponseWriter.WriteHeader(code)
}

// TestReferrerOfAnotherImage: that a manifest is listed does not make it one about this image.
func TestReferrerOfAnotherImage(t *testing.T) {
	r := newReg(t)
	other := r.manifest("app", "", ociManifest, r.bundleManifest("app", `{"other":1}`, digest.FromString("another image")))
	none := r.bundleManifest("app", `{"none":1}`, subject)
	delete(none, "subject")
	ours := r.manifest("app", "", ociManifest, r.bundleManifest("app", `{"ours":1}`, subject))
	r.fallback("app", []object{
		descriptorOf(ociManifest, other, 1),
		descriptorOf(ociManifest, r.manifest("app", "", ociManifest, none), 1),
		descriptorOf(ociManifest, ours, 1),
	})
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	want(t, e, 0, `{"ours":1}`)
	if !errors.Is(e.Incomplete, evidence.ErrMismatch) {
		t.Errorf("incomplete: %v", e.Incomplete)
	}
}

// TestIndexEntryIsNotBelieved: registries have been seen to list a wrong artifactType for a bundle.
func TestIndexEntryIsNotBelieved(t *testing.T) {
	r := newReg(t)
	d := r.refer("app", `{"one":1}`)
	entry := descriptorOf("application/octet-stream", d, 1)
	entry["artifactType"] = "application/vnd.oci.empty.v1+json"
	r.fallback("app", []object{entry})
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	want(t, e, 0, `{"one":1}`)
	complete(t, e)
}

// TestOtherArtifactsAreNoEvidence, and one of them does not keep the rest from being read.
func TestOtherArtifactsAreNoEvidence(t *testing.T) {
	r := newReg(t)
	sbom := r.bundleManifest("app", `{"sbom":1}`, subject)
	sbom["layers"] = []object{descriptorOf("text/spdx+json", digest.SHA512.FromString("x"), 1)}
	future := r.bundleManifest("app", `{"future":1}`, subject)
	future["layers"] = []object{descriptorOf("application/vnd.dev.sigstore.bundle.v9.9+json", digest.FromString("x"), 1)}
	r.fallback("app", []object{
		descriptorOf(ociManifest, r.manifest("app", "", ociManifest, sbom), 1),
		descriptorOf(ociManifest, r.refer("app", `{"one":1}`), 1),
	})
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	want(t, e, 0, `{"one":1}`)
	complete(t, e)
	r.fallback("app", []object{descriptorOf(ociManifest, r.manifest("app", "", ociManifest, future), 1)})
	e = fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	want(t, e, 0)
	if e.Incomplete == nil || !strings.Contains(e.Incomplete.Error(), "v9.9") {
		t.Errorf("a bundle of an unknown version was passed over: %v", e.Incomplete)
	}
}

// TestReferrersInPages follows the pages, and not anywhere else, and not forever.
func TestReferrersInPages(t *testing.T) {
	page := func(link string, entries ...object) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if link != "" {
				w.Header().Set("Link", "<"+link+`>; rel="next"`)
			}
			if entries == nil {
				entries = []object{}
			}
			_, _ = w.Write(mustJSON(t, object{"schemaVersion": 2, "manifests": entries}))
		}
	}
	elsewhere := newReg(t)
	for _, c := range []struct {
		name  string
		pages func(r *reg) (first, second http.HandlerFunc)
		check func(*testing.T, *evidence.Evidence)
	}{
		{"two pages", func(r *reg) (http.HandlerFunc, http.HandlerFunc) {
			return page("?n=1&last=a", descriptorOf(ociManifest, r.refer("app", `{"one":1}`), 1)),
				page("", descriptorOf(ociManifest, r.refer("app", `{"two":2}`), 1))
		}, func(t *testing.T, e *evidence.Evidence) {
			want(t, e, 0, `{"one":1}`, `{"two":2}`)
			complete(t, e)
		}},
		{"empty pages without end", func(*reg) (http.HandlerFunc, http.HandlerFunc) {
			return page("?last=a"), page("?last=a")
		}, func(t *testing.T, e *evidence.Evidence) {
			checkBound(t, e, 0, len(e.Bundles), false, limits.ReferrerPages)
		}},
		{"the next page is on another host", func(*reg) (http.HandlerFunc, http.HandlerFunc) {
			return page("http://" + elsewhere.host + "/v2/app/referrers/x"), page("")
		}, func(t *testing.T, e *evidence.Evidence) {
			want(t, e, 0)
			if !errors.Is(e.Incomplete, evidence.ErrMismatch) || len(elsewhere.requests()) != 0 {
				t.Errorf("followed, or not said: %v", e.Incomplete)
			}
		}},
		{"too many on all pages", func(*reg) (http.HandlerFunc, http.HandlerFunc) {
			var entries []object
			for i := range 65 {
				entries = append(entries, descriptorOf(ociManifest, digest.FromString(fmt.Sprint(i)), 1))
			}
			return page("?last=a", entries...), page("", entries...)
		}, func(t *testing.T, e *evidence.Evidence) {
			checkBound(t, e, 130, len(e.Bundles), false, limits.Referrers)
		}},
		{"the second page fails", func(r *reg) (http.HandlerFunc, http.HandlerFunc) {
			return page("?last=a", descriptorOf(ociManifest, r.refer("app", `{"one":1}`), 1)), status(404)
		}, func(t *testing.T, e *evidence.Evidence) {
			if e.Incomplete == nil {
				t.Error("half a list passed for all of it")
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReg(t)
			first, second := c.pages(r)
			r.on("referrers/"+subject.String(), func(w http.ResponseWriter, req *http.Request) {
				if req.URL.Query().Has("last") {
					second(w, req)
				} else {
					first(w, req)
				}
			})
			c.check(t, fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{}))
		})
	}
}
