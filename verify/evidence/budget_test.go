package evidence_test

import (
	"fmt"
	"net/http"
	"path"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
)

// TestTooMuchMaterial: each of the payloads is within its bound, all of them together are not. None is given then:
// which of them came first is chance.
func TestTooMuchMaterial(t *testing.T) {
	for n, ok := range map[int]bool{15: true, 17: false} {
		r := newReg(t)
		var layers []object
		for i := range n {
			payload := []byte(fmt.Sprintf("%02d", i) + strings.Repeat("x", 1<<20-2))
			layers = append(layers, descriptorOf(simpleSigning, r.blob("app", payload), len(payload)))
		}
		r.signatureManifest("app", layers)
		e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
		checkBound(t, e, n, len(e.Signatures), ok, limits.Material)
	}
}

// TestBothFormsShareOneBudget: what is left for bundles is what signatures have not used.
func TestBothFormsShareOneBudget(t *testing.T) {
	r := newReg(t)
	var layers []object
	var bundles []string
	for i := range 9 {
		payload := []byte(fmt.Sprintf("%02d", i) + strings.Repeat("x", 1<<20-2))
		layers = append(layers, descriptorOf(simpleSigning, r.blob("app", payload), len(payload)))
		bundles = append(bundles, string(payload[1:]))
	}
	r.signatureManifest("app", layers)
	r.attach("app", bundles...)
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	checkBound(t, e, 18, len(e.Signatures)+len(e.Bundles), false, limits.Material)
}

// TestMemoryIsBounded: each document is within its bounds in bytes and in number. One image of them once took 15 GiB.
func TestMemoryIsBounded(t *testing.T) {
	for _, c := range []struct {
		name                   string
		before, element, after string
		referrers, size        int
		bound                  limits.Bound
	}{
		{"layers of nothing", `"layers":[`, `{},`, `{}]`, 3, 4 << 20, limits.Elements},
		{"annotations", `"layers":[{"annotations":{`, `"a":"",`, `"b":""}}]`, 3, 4 << 20, limits.Elements},
		{"members that nobody looks at", `"x":[`, `[],`, `[]]`, 3, 4 << 20, limits.Elements},
		{"long strings", `"layers":[{"mediaType":"`, `x`, `"}]`, 40, 4 << 20, limits.Material},
		{"many small ones", `"layers":[`, `{},`, `{}]`, 200, 2 << 10, limits.Elements},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReg(t)
			rest := []byte(c.before + strings.Repeat(c.element, c.size/len(c.element)-100) + c.after + "}")
			heads := map[string]string{}
			var byAPI, byTag []object
			for i := range c.referrers {
				head := fmt.Sprintf(`{"subject":{"digest":%q},"n":%d,`, subject, i)
				hash := digest.SHA256.Digester()
				_, _ = hash.Hash().Write([]byte(head))
				_, _ = hash.Hash().Write(rest)
				heads[hash.Digest().String()] = head
				entry := descriptorOf(ociManifest, hash.Digest(), len(head)+len(rest))
				if i%2 == 0 {
					byAPI = append(byAPI, entry)
				} else {
					byTag = append(byTag, entry)
				}
			}
			for suffix, entries := range map[string][]object{"/referrers/" + subject.String(): byAPI, "/manifests/" + tagOf(subject): byTag} {
				list := mustJSON(t, object{"manifests": entries})
				r.on(suffix, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(list) })
			}
			r.mu.Lock()
			others := r.meddle
			r.meddle = func(w http.ResponseWriter, req *http.Request) bool {
				head, ok := heads[path.Base(req.URL.Path)]
				if ok {
					_, _ = w.Write([]byte(head))
					_, _ = w.Write(rest)
				}
				return ok || others(w, req)
			}
			r.mu.Unlock()

			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
			runtime.ReadMemStats(&after)
			checkBound(t, e, c.referrers, len(e.Bundles), false, c.bound)
			if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; mb > 300 {
				t.Errorf("%d MiB were allocated", mb)
			}
		})
	}
}
