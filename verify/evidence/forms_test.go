package evidence_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
)

func TestClassicForm(t *testing.T) {
	r := newReg(t)
	r.sign("app", 3)
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	want(t, e, 3)
	complete(t, e)
	for i, s := range e.Signatures {
		if digest.FromBytes(s.Payload) != s.Source {
			t.Errorf("signature %d: the source is not the payload's digest", i)
		}
		if wanted := "c2ln" + string(rune('0'+i)); s.Base64Signature != wanted || s.Annotations["dev.cosignproject.cosign/signature"] != wanted {
			t.Errorf("signature %d: %q, want %q: order or annotation lost", i, s.Base64Signature, wanted)
		}
	}
}

func TestTwoSignaturesOverOnePayloadAskForItOnce(t *testing.T) {
	r := newReg(t)
	payload := []byte(`{"critical":{}}`)
	layer := func(sig string) object {
		l := descriptorOf(simpleSigning, r.blob("app", payload), len(payload))
		l["annotations"] = object{"dev.cosignproject.cosign/signature": sig}
		return l
	}
	r.signatureManifest("app", []object{layer("YQ=="), layer("Yg==")})
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	want(t, e, 2)
	if n := count(r.requests(), "/blobs/"); n != 1 {
		t.Errorf("the payload was asked for %d times", n)
	}
}

func TestBundleByReferrersAPI(t *testing.T) {
	r := newReg(t, registry.WithReferrersSupport(true))
	source := r.refer("app", `{"one":1}`)
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	want(t, e, 0, `{"one":1}`)
	complete(t, e)
	if e.Bundles[0].Source != source {
		t.Errorf("source %s, want the manifest's %s", e.Bundles[0].Source, source)
	}
}

func TestBundleByFallbackTag(t *testing.T) {
	r := newReg(t)
	r.attach("app", `{"one":1}`, `{"two":2}`)
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	want(t, e, 0, `{"one":1}`, `{"two":2}`)
	complete(t, e)
}

func TestBothFormsAndBothLists(t *testing.T) {
	r := newReg(t, registry.WithReferrersSupport(true))
	r.sign("app", 1)
	r.attach("app", `{"one":1}`) // listed by the API as well: one bundle, not two
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	want(t, e, 1, `{"one":1}`)
	complete(t, e)
}

func TestUnsignedIsNoError(t *testing.T) {
	for name, opts := range map[string][]registry.Option{"with the API": {registry.WithReferrersSupport(true)}, "without": nil} {
		t.Run(name, func(t *testing.T) {
			r := newReg(t, opts...)
			r.blob("app", []byte("x"))
			f := newFetcher(t, evidence.Options{})
			for range 2 {
				e := fetch(t, f, r.host+"/app", evidence.Credentials{})
				want(t, e, 0)
				complete(t, e)
			}
		})
	}
}

// rounds holds the requests of each round until all of them are there. A client that asks one after the other, or for
// more than is listed, never gets to the end.
func (r *reg) rounds(rounds [][]string) (finish func()) {
	var mu sync.Mutex
	var now int
	var arrived []string
	release := make([]chan struct{}, len(rounds))
	for i := range release {
		release[i] = make(chan struct{})
	}
	r.mu.Lock()
	r.meddle = func(w http.ResponseWriter, req *http.Request) bool {
		name := req.Method + " " + strings.TrimPrefix(req.URL.Path, "/v2/app/")
		mu.Lock()
		if now >= len(rounds) || !slices.Contains(rounds[now], name) {
			mu.Unlock()
			r.t.Errorf("%s in round %d, which is %q", name, now+1, rounds[min(now, len(rounds)-1)])
			w.WriteHeader(http.StatusTeapot)
			return true
		}
		gate := release[now]
		arrived = append(arrived, name)
		if len(arrived) == len(rounds[now]) {
			now, arrived = now+1, nil
			close(gate)
		}
		mu.Unlock()
		select {
		case <-gate:
			return false
		case <-req.Context().Done():
		case <-time.After(10 * time.Second):
			r.t.Errorf("%s waited in vain for the rest of its round", name)
		}
		w.WriteHeader(http.StatusTeapot)
		return true
	}
	r.mu.Unlock()
	return func() {
		mu.Lock()
		defer mu.Unlock()
		if now != len(rounds) {
			r.t.Errorf("%d of %d rounds were asked", now, len(rounds))
		}
		r.mu.Lock()
		r.meddle = nil
		r.mu.Unlock()
	}
}

func TestRoundTrips(t *testing.T) {
	sig, tag, api := "GET manifests/"+tagOf(subject)+".sig", "GET manifests/"+tagOf(subject), "GET referrers/"+subject.String()
	payload := func(content string) string { return "GET blobs/" + digest.FromString(content).String() }
	classic := payload(`{"critical":{},"optional":{"n":0}}`)
	bundle := payload(`{"one":1}`)
	for _, c := range []struct {
		name        string
		api         bool
		store       func(*reg) string // gives the referrer's digest
		first, warm func(referrer string) [][]string
	}{
		{
			"classic, with the API", true,
			func(r *reg) string { r.sign("app", 1); return "" },
			func(string) [][]string { return [][]string{{sig, tag, api}, {classic}} },
			func(string) [][]string { return [][]string{{sig, api}, {classic}} },
		},
		{
			"classic, without the API", false,
			func(r *reg) string { r.sign("app", 1); return "" },
			func(string) [][]string { return [][]string{{sig, tag, api}, {classic}} },
			func(string) [][]string { return [][]string{{sig, tag}, {classic}} },
		},
		{
			"bundle, with the API", true,
			func(r *reg) string { return r.refer("app", `{"one":1}`).String() },
			func(d string) [][]string { return [][]string{{sig, tag, api}, {"GET manifests/" + d}, {bundle}} },
			func(d string) [][]string { return [][]string{{sig, api}, {"GET manifests/" + d}, {bundle}} },
		},
		{
			"bundle, without the API", false,
			func(r *reg) string { r.attach("app", `{"one":1}`); return r.refer("app", `{"one":1}`).String() },
			func(d string) [][]string { return [][]string{{sig, tag, api}, {"GET manifests/" + d}, {bundle}} },
			func(d string) [][]string { return [][]string{{sig, tag}, {"GET manifests/" + d}, {bundle}} },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReg(t, registry.WithReferrersSupport(c.api))
			referrer := c.store(r)
			f := newFetcher(t, evidence.Options{})
			for _, rounds := range [][][]string{c.first(referrer), c.warm(referrer), c.warm(referrer)} {
				finish := r.rounds(rounds)
				e := fetch(t, f, r.host+"/app", evidence.Credentials{})
				finish()
				complete(t, e)
				if len(e.Signatures)+len(e.Bundles) != 1 {
					t.Fatal("nothing was found")
				}
			}
			finish := r.rounds([][]string{{"HEAD manifests/v1"}})
			r.manifest("app", "v1", ociManifest, object{"schemaVersion": 2, "layers": []object{}})
			if _, err := f.Resolve(testContext(t), r.host+"/app", "v1", evidence.Credentials{}); err != nil {
				t.Fatal(err)
			}
			finish()
		})
	}
}

// TestUpgradedRegistry: what is remembered of a registry must not make signatures vanish.
func TestUpgradedRegistry(t *testing.T) {
	r := newReg(t, registry.WithReferrersSupport(true))
	absent := true
	r.on("referrers/"+subject.String(), func(w http.ResponseWriter, req *http.Request) {
		if absent {
			http.Error(w, "404 page not found", http.StatusNotFound)
			return
		}
		r.store.ServeHTTP(w, req)
	})
	f := newFetcher(t, evidence.Options{})
	r.refer("app", `{"one":1}`)
	want(t, fetch(t, f, r.host+"/app", evidence.Credentials{}), 0)
	absent = false
	want(t, fetch(t, f, r.host+"/app", evidence.Credentials{}), 0, `{"one":1}`)
	absent = true
	r.attach("app", `{"one":1}`)
	want(t, fetch(t, f, r.host+"/app", evidence.Credentials{}), 0, `{"one":1}`)
}

// TestLyingReferrersAPI: an API that is there and lists nothing does not hide what the fallback tag lists.
func TestLyingReferrersAPI(t *testing.T) {
	r := newReg(t)
	r.on("referrers/"+subject.String(), func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"schemaVersion":2,"manifests":[]}`))
	})
	r.attach("app", `{"one":1}`)
	f := newFetcher(t, evidence.Options{})
	for range 3 {
		e := fetch(t, f, r.host+"/app", evidence.Credentials{})
		want(t, e, 0, `{"one":1}`)
		complete(t, e)
	}
}

// TestUnknownRepositoryTeachesNothing: a pod that names a repository which does not exist gets a 404 from the
// referrers API; the bundles of another image beside classic signatures must stay visible.
func TestUnknownRepositoryTeachesNothing(t *testing.T) {
	r := newReg(t, registry.WithReferrersSupport(true))
	r.sign("app", 1)
	r.refer("app", `{"one":1}`)
	r.on("none/referrers/"+subject.String(), func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"errors":[{"code":"NAME_UNKNOWN"}]}`))
	})
	f := newFetcher(t, evidence.Options{})
	want(t, fetch(t, f, r.host+"/none", evidence.Credentials{}), 0)
	want(t, fetch(t, f, r.host+"/app", evidence.Credentials{}), 1, `{"one":1}`)
}

func TestResolve(t *testing.T) {
	r := newReg(t)
	d := r.manifest("app", "v1", ociManifest, object{"schemaVersion": 2, "layers": []object{}})
	head := func(answer func(http.ResponseWriter)) {
		r.on("manifests/v1", func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodHead && answer != nil {
				answer(w)
				return
			}
			r.store.ServeHTTP(w, req)
		})
	}
	for name, answer := range map[string]func(http.ResponseWriter){
		"by HEAD":             nil,
		"HEAD without digest": func(http.ResponseWriter) {},
		"HEAD with no digest": func(w http.ResponseWriter) { w.Header().Set("Docker-Content-Digest", "sha256:short") },
		"HEAD with sha512": func(w http.ResponseWriter) {
			w.Header().Set("Docker-Content-Digest", digest.SHA512.FromString("x").String())
		},
		"HEAD is not answered": func(w http.ResponseWriter) { w.WriteHeader(http.StatusMethodNotAllowed) },
	} {
		t.Run(name, func(t *testing.T) {
			head(answer)
			got, err := newFetcher(t, evidence.Options{}).Resolve(testContext(t), r.host+"/app", "v1", evidence.Credentials{})
			if err != nil || got != d {
				t.Errorf("got %s, %v; want %s", got, err, d)
			}
		})
	}
	f := newFetcher(t, evidence.Options{})
	if _, err := f.Resolve(testContext(t), r.host+"/app", "v2", evidence.Credentials{}); !errors.Is(err, evidence.ErrNotFound) {
		t.Errorf("a tag that is not there: %v", err)
	}
	for _, tag := range []string{"", "../../../v1", "a/b", "v1?x", "v1\n", strings.Repeat("v", 129)} {
		if _, err := f.Resolve(testContext(t), r.host+"/app", tag, evidence.Credentials{}); err == nil || errors.Is(err, evidence.ErrNotFound) {
			t.Errorf("tag %q: %v, want it refused before anybody is asked", tag, err)
		}
	}
}

func TestWhatCannotBeAskedIsAnError(t *testing.T) {
	f := newFetcher(t, evidence.Options{})
	for _, c := range []struct {
		name, repository string
		d                digest.Digest
		words            string
	}{
		{"a short name", "busybox", subject, "canonical"},
		{"a tag in the name", "docker.io/library/busybox:v1", subject, "canonical"},
		{"a path that climbs", "registry.example/a/../b", subject, "repository"},
		{"sha512", "registry.example/app", digest.SHA512.FromString("x"), "only sha256"},
		{"no digest", "registry.example/app", "sha256:../../x", "digest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := f.Fetch(context.Background(), evidence.Question{Repository: c.repository, Digest: c.d})
			if err == nil || e != nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v, %v; want an error about %q", e, err, c.words)
			}
		})
	}
}

func count(requests []string, part string) int {
	n := 0
	for _, r := range requests {
		if strings.Contains(r, part) {
			n++
		}
	}
	return n
}
