package evidence_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
)

const (
	simpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	bundleType    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	ociManifest   = "application/vnd.oci.image.manifest.v1+json"
	ociIndex      = "application/vnd.oci.image.index.v1+json"
)

// subject is the image that the tests ask about. It need not be in the registry.
var subject = digest.FromString("the image")

// reg is a real registry whose traffic a test can watch, hold and change.
type reg struct {
	t     *testing.T
	srv   *httptest.Server
	store http.Handler
	host  string

	mu   sync.Mutex
	seen []string
	// meddle may answer in the registry's place, by returning true.
	meddle func(w http.ResponseWriter, r *http.Request) bool
}

func newReg(t *testing.T, opts ...registry.Option) *reg {
	t.Helper()
	r := unstarted(t, opts...)
	r.srv.Start()
	r.host = strings.TrimPrefix(r.srv.URL, "http://")
	return r
}

func unstarted(t *testing.T, opts ...registry.Option) *reg {
	t.Helper()
	r := &reg{t: t, store: registry.New(append(opts, registry.Logger(log.New(io.Discard, "", 0)))...)}
	r.srv = httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	r.srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(r.srv.Close)
	return r
}

func (r *reg) serve(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.seen = append(r.seen, req.Method+" "+req.URL.RequestURI())
	meddle := r.meddle
	r.mu.Unlock()
	if meddle != nil && meddle(w, req) {
		return
	}
	r.store.ServeHTTP(w, req)
}

// requests gives what was asked since the last call.
func (r *reg) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.seen
	r.seen = nil
	return seen
}

// on answers the requests whose path ends so.
func (r *reg) on(suffix string, answer http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.meddle
	r.meddle = func(w http.ResponseWriter, req *http.Request) bool {
		if strings.HasSuffix(req.URL.Path, suffix) {
			answer(w, req)
			return true
		}
		return before != nil && before(w, req)
	}
}

// all answers every request.
func (r *reg) all(answer http.HandlerFunc) { r.on("", answer) }

// put stores in the registry, past everything that a test does to it.
func (r *reg) put(method, path, contentType string, body []byte) {
	r.t.Helper()
	req := httptest.NewRequest(method, path, bytes.NewReader(body))
	req.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	r.store.ServeHTTP(w, req)
	if w.Code >= 300 {
		r.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
}

func (r *reg) blob(repo string, body []byte) digest.Digest {
	r.t.Helper()
	d := digest.FromBytes(body)
	r.put(http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), "application/octet-stream", body)
	return d
}

func (r *reg) manifest(repo, tag, mediaType string, m any) digest.Digest {
	r.t.Helper()
	raw := mustJSON(r.t, m)
	d := digest.FromBytes(raw)
	if tag == "" {
		tag = d.String()
	}
	r.put(http.MethodPut, "/v2/"+repo+"/manifests/"+tag, mediaType, raw)
	return d
}

type object = map[string]any

func descriptorOf(mediaType string, d digest.Digest, size int) object {
	return object{"mediaType": mediaType, "digest": d, "size": size}
}

// sign stores n signatures of the classic form.
func (r *reg) sign(repo string, n int) {
	r.t.Helper()
	var layers []object
	for i := range n {
		payload := fmt.Appendf(nil, `{"critical":{},"optional":{"n":%d}}`, i)
		layer := descriptorOf(simpleSigning, r.blob(repo, payload), len(payload))
		layer["annotations"] = object{"dev.cosignproject.cosign/signature": fmt.Sprintf("c2ln%d", i)}
		layers = append(layers, layer)
	}
	r.signatureManifest(repo, layers)
}

func (r *reg) signatureManifest(repo string, layers []object) {
	r.t.Helper()
	r.manifest(repo, tagOf(subject)+".sig", ociManifest, object{
		"schemaVersion": 2, "mediaType": ociManifest, "layers": layers,
		"config": descriptorOf("application/vnd.oci.image.config.v1+json", digest.FromString("{}"), 2),
	})
}

func tagOf(d digest.Digest) string { return strings.Replace(d.String(), ":", "-", 1) }

// bundle is what a referrer that holds a bundle looks like.
func (r *reg) bundleManifest(repo, content string, of digest.Digest) object {
	r.t.Helper()
	d := r.blob(repo, []byte(content))
	return object{
		"schemaVersion": 2, "mediaType": ociManifest, "artifactType": bundleType,
		"config":  descriptorOf("application/vnd.oci.empty.v1+json", digest.FromString("{}"), 2),
		"layers":  []object{descriptorOf(bundleType, d, len(content))},
		"subject": descriptorOf(ociManifest, of, 9),
	}
}

// attach stores a bundle, and lists it under the fallback tag.
func (r *reg) attach(repo string, contents ...string) {
	r.t.Helper()
	var entries []object
	for _, content := range contents {
		m := r.bundleManifest(repo, content, subject)
		d := r.manifest(repo, "", ociManifest, m)
		entries = append(entries, descriptorOf(ociManifest, d, len(mustJSON(r.t, m))))
	}
	r.fallback(repo, entries)
}

func (r *reg) fallback(repo string, entries []object) {
	r.t.Helper()
	r.manifest(repo, tagOf(subject), ociIndex, object{"schemaVersion": 2, "mediaType": ociIndex, "manifests": entries})
}

// refer stores a bundle for the referrers API alone.
func (r *reg) refer(repo, content string) digest.Digest {
	r.t.Helper()
	return r.manifest(repo, "", ociManifest, r.bundleManifest(repo, content, subject))
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func newFetcher(t *testing.T, o evidence.Options) *evidence.Fetcher {
	t.Helper()
	f, err := evidence.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// hostsDir writes hosts.toml files, by registry name.
func hostsDir(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for host, content := range files {
		writeHosts(t, root, host, content)
	}
	return root
}

func writeHosts(t *testing.T, root, host, content string) {
	t.Helper()
	dir := filepath.Join(root, host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func fetch(t *testing.T, f *evidence.Fetcher, repository string, c evidence.Credentials) *evidence.Evidence {
	t.Helper()
	e, err := f.Fetch(testContext(t), evidence.Question{Repository: repository, Digest: subject, Credentials: []evidence.Credentials{c}})
	if err != nil {
		t.Fatalf("fetching: %v", err)
	}
	return e
}

// want checks what was found: the payloads and the bundles by their text.
func want(t *testing.T, e *evidence.Evidence, signatures int, bundles ...string) {
	t.Helper()
	var have []string
	for _, b := range e.Bundles {
		have = append(have, string(b.Raw))
	}
	if len(e.Signatures) != signatures || !slices.Equal(have, bundles) {
		t.Fatalf("found %d signatures and bundles %q, want %d and %q (incomplete: %v)", len(e.Signatures), have, signatures, bundles, e.Incomplete)
	}
}

func complete(t *testing.T, e *evidence.Evidence) {
	t.Helper()
	if e.Incomplete != nil {
		t.Fatalf("incomplete: %v", e.Incomplete)
	}
}
