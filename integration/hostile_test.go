package integration

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cosentry/cosentry/integration/harness"
)

const (
	verifyLimit = 3 * time.Second
	// answerIn is how long after the first request that was tampered with an answer may come. By then part of verifyLimit is over, so this
	// is far above it, as it does not matter how fast this machine is; and it is below the ten seconds that one request to a registry may
	// take, or an answer could come although verifyLimit is not heeded.
	answerIn = 9 * time.Second
)

// inTime makes a call while the requests that on selects are tampered with, and fails the test if there are none, or if no answer comes
// in time after the first.
func (w *world) inTime(t *testing.T, on func(*http.Request) bool, tamper harness.Intercept, call func(ctx context.Context) error) error {
	t.Helper()
	var begun atomic.Pointer[time.Time]
	w.Registry.SetIntercept(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if !on(r) {
			next.ServeHTTP(rw, r)
			return
		}
		now := time.Now()
		begun.CompareAndSwap(nil, &now)
		tamper(rw, r, next)
	})
	defer w.Registry.SetIntercept(nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := call(ctx)
	answered := time.Now()
	switch at := begun.Load(); {
	case at == nil:
		t.Fatalf("no request was tampered with: %v", err)
	case answered.Sub(*at) > answerIn:
		t.Fatalf("an answer only %s after the first request that was tampered with: %v", answered.Sub(*at), err)
	}
	return err
}

// hostile is one way in which a registry misbehaves about a signed image.
type hostile struct {
	name string
	// on selects the requests that are tampered with, by "METHOD /path".
	on     func(request string, image name.Digest) bool
	tamper harness.Intercept
	want   func(t *testing.T, err error)
}

func onTag(request string, _ name.Digest) bool { return strings.HasSuffix(request, "/manifests/1") }

// onSignature selects where either form of signature is looked for.
func onSignature(request string, image name.Digest) bool {
	hex := strings.TrimPrefix(image.DigestStr(), "sha256:")
	return strings.Contains(request, "/manifests/sha256-"+hex) || strings.Contains(request, "/referrers/")
}

func onImageManifest(request string, image name.Digest) bool {
	return strings.Contains(request, "/manifests/"+image.DigestStr())
}

// onPayload selects all blobs: until the verdict nothing else is read than the signature's payload.
func onPayload(request string, _ name.Digest) bool { return strings.Contains(request, "/blobs/") }

func answer(code int, headers ...string) harness.Intercept {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
	}
}

func hang(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() }

func hangUp(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	panic(http.ErrAbortHandler) // net/http closes the connection
}

func endless(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	chunk := []byte(strings.Repeat(" ", 64<<10))
	for r.Context().Err() == nil {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func otherBytes(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	fmt.Fprint(w, `{"schemaVersion":2,"other":"bytes"}`)
}

func refusal(words ...string) func(*testing.T, error) {
	return func(t *testing.T, err error) { t.Helper(); wantRefused(t, err, words...) }
}

func unavailable(words ...string) func(*testing.T, error) {
	return func(t *testing.T, err error) { t.Helper(); wantUnavailable(t, err, words...) }
}

// notThere is what a pull gets that would fail with no cosentry as well.
func notThere(t *testing.T, err error) {
	t.Helper()
	if status.Code(err) != codes.NotFound {
		t.Fatalf("got %v, want code NotFound", err)
	}
}

// byRuntime is a pull that was allowed and failed in the runtime.
func byRuntime(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("the runtime took other bytes than the digest says")
	}
}

var hostilities = []hostile{
	{"the tag hangs", onTag, hang, unavailable()},
	{"the tag's connection breaks", onTag, hangUp, unavailable()},
	{"the tag answers 500", onTag, answer(500), unavailable("500")},
	{"the tag answers 429", onTag, answer(429, "Retry-After", "3600"), unavailable("429")},
	{"the tag answers 401", onTag, answer(401, "WWW-Authenticate", `Basic realm="x"`), notThere},
	{"the tag answers 404", onTag, answer(404), notThere},
	{"the tag redirects to link-local", onTag, answer(307, "Location", "http://169.254.169.254/latest"), refusal("link-local")},
	{"the signature hangs", onSignature, hang, unavailable()},
	{"the signature's connection breaks", onSignature, hangUp, unavailable()},
	{"the signature answers 500", onSignature, answer(500), unavailable("500")},
	{"the signature answers 429", onSignature, answer(429), unavailable("429")},
	{"the signature answers 401", onSignature, answer(401, "WWW-Authenticate", `Basic realm="x"`), refusal("credentials")},
	{"the signature answers 403", onSignature, answer(403), refusal("credentials")},
	{"the signature answers 404", onSignature, answer(404), refusal("no signatures found")},
	{"the signature never ends", onSignature, endless, refusal("manifest size")},
	{"the signature is other bytes", onSignature, otherBytes, refusal()},
	{"the signature redirects to link-local", onSignature, answer(302, "Location", "http://169.254.169.254/latest"), refusal("link-local")},
	{"the payload hangs", onPayload, hang, unavailable()},
	{"the payload answers 500", onPayload, answer(500), unavailable()},
	{"the payload never ends", onPayload, endless, refusal()},
	{"the payload is other bytes", onPayload, otherBytes, refusal()},
	{"the image's manifest is other bytes", onImageManifest, otherBytes, byRuntime},
}

// TestHostileRegistry: nothing runs that was not judged, the answer comes in
// time, and once the registry behaves the same image runs: nothing transient is remembered.
func TestHostileRegistry(t *testing.T) {
	w := newWorld(t, func(_ *world, s *harness.Settings) {
		s.Edit = func(config map[string]any) {
			config["verification"] = map[string]any{"pullTimeout": verifyLimit.String(), "createTimeout": verifyLimit.String()}
			config["cache"] = map[string]any{"denyTTL": "1s"}
		}
	})
	pod := w.pod()
	for i, h := range hostilities {
		for form, sign := range map[string]func(*harness.Key, context.Context, *harness.Registry, name.Digest) error{
			"classic": (*harness.Key).SignClassic, "bundle": (*harness.Key).SignBundle,
		} {
			t.Run(form+"/"+h.name, func(t *testing.T) {
				path := fmt.Sprintf("%s-%d:1", form, i)
				digest := w.push(path, path)
				must(t, sign(w.release, t.Context(), w.Registry, digest))
				on := func(r *http.Request) bool { return h.on(r.Method+" "+r.URL.Path, digest) }
				err := w.inTime(t, on, h.tamper, func(ctx context.Context) error {
					_, err := w.kubelet.Pull(ctx, pod, w.image(path), nil)
					return err
				})
				h.want(t, err)
				w.wantAbsent(t, w.image(path))
				must(t, harness.Until(10*time.Second, "the image to be accepted again", func() bool {
					_, err = w.kubelet.Pull(t.Context(), pod, w.image(path), nil)
					return err == nil
				}))
			})
		}
	}
}

// TestTagMovesBetweenLookups moves the tag to unsigned bytes after the n-th
// request for it: whichever client asks next gets the others.
func TestTagMovesBetweenLookups(t *testing.T) {
	w := newWorld(t, nil)
	for n := 1; n <= 3; n++ {
		for _, form := range []string{"classic", "bundle"} {
			t.Run(fmt.Sprintf("%s/after request %d", form, n), func(t *testing.T) {
				path := fmt.Sprintf("%s-%d", form, n)
				evil := w.push(path+":evil", "evil "+path)
				digest := w.push(path+":1", "judged "+path)
				sign := (*harness.Key).SignClassic
				if form == "bundle" {
					sign = (*harness.Key).SignBundle
				}
				must(t, sign(w.release, t.Context(), w.Registry, digest))
				to, err := v1.NewHash(evil.DigestStr())
				must(t, err)
				w.Registry.SetIntercept(moveAfter(w.Registry, path, n, to))
				defer w.Registry.SetIntercept(nil)

				out, err := w.run(harness.Container{Image: w.image(path + ":1"), Policy: "Always"})
				must(t, err)
				if out.Output != "judged "+path {
					t.Fatalf("what ran printed %q", out.Output)
				}
				w.Registry.SetIntercept(nil)
				must(t, w.Registry.Retag(path, "1", to))
				_, err = w.run(harness.Container{Image: w.image(path + ":1"), Policy: "Always"})
				wantRefused(t, err, "no signatures found")
				// The tag on the node still means what was judged.
				w.wantRun(t, w.image(path+":1"), "judged "+path)
			})
		}
	}
}

// moveAfter moves the tag 1 of repo right after the n-th answer about it.
func moveAfter(r *harness.Registry, repo string, n int, to v1.Hash) harness.Intercept {
	var mu sync.Mutex
	return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		next.ServeHTTP(w, req)
		if req.URL.Path != "/v2/"+repo+"/manifests/1" {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if n--; n == 0 {
			if err := r.Retag(repo, "1", to); err != nil {
				panic(err)
			}
		}
	}
}

// TestHeadNamesAnotherDigest: the registry's HEAD and GET of one tag disagree.
func TestHeadNamesAnotherDigest(t *testing.T) {
	w := newWorld(t, nil)
	evil := w.push("app:1", "evil")
	signed := w.push("app:signed", "signed")
	must(t, w.release.SignClassic(t.Context(), w.Registry, signed))
	w.Registry.SetIntercept(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodHead && r.URL.Path == "/v2/app/manifests/1" {
			r.URL.Path = "/v2/app/manifests/signed"
		}
		next.ServeHTTP(rw, r)
	})
	out, err := w.run(harness.Container{Image: w.image("app:1")})
	if err == nil && out.Output != "signed" {
		t.Fatalf("%s ran and printed %q", evil, out.Output)
	}
	w.wantAbsent(t, evil.String())
}

// TestCreateWhileTheRegistryHangs: the time limit of a creation lies below kubelet's.
func TestCreateWhileTheRegistryHangs(t *testing.T) {
	w := newWorld(t, func(_ *world, s *harness.Settings) {
		s.Edit = func(config map[string]any) {
			config["verification"] = map[string]any{"createTimeout": "1s"}
		}
	})
	w.pushSigned("app:1", "signed")
	ref := w.pullAround(w.image("app:1"))
	pod := w.pod()
	all := func(*http.Request) bool { return true }
	err := w.inTime(t, all, hang, func(ctx context.Context) error {
		_, err := w.kubelet.Create(ctx, pod, harness.Container{Name: "main", Image: w.image("app:1")}, ref, nil)
		return err
	})
	wantUnavailable(t, err)
	must(t, harness.Until(20*time.Second, "the image to be accepted again", func() bool {
		_, err = w.kubelet.Create(t.Context(), pod, harness.Container{Name: "main", Image: w.image("app:1")}, ref, nil)
		return err == nil
	}))
}
