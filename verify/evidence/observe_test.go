package evidence_test

import (
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cosentry/cosentry/verify/evidence"
)

// A registry, which any pod can name, must not choose how many series a metric has.
func TestObservedCodesAreFew(t *testing.T) {
	var mu sync.Mutex
	answer, seen := 0, map[int]int{}
	r := newReg(t)
	r.all(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.WriteHeader(answer)
	})
	f := newFetcher(t, evidence.Options{Observe: func(_, _ string, code int, _ time.Duration, _ error) {
		mu.Lock()
		defer mu.Unlock()
		seen[code]++
	}})
	for code := 200; code <= 999; code++ {
		mu.Lock()
		answer = code
		mu.Unlock()
		if _, err := f.Resolve(testContext(t), r.host+"/app", "1", evidence.Credentials{}); err == nil && code != http.StatusOK {
			t.Errorf("a digest from an answer of %d", code)
		}
	}
	var codes []int
	for code := range seen {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	want := []int{200, 299, 300, 400, 401, 403, 404, 405, 406, 429, 500, 501, 502, 503, 504, 999}
	if diff := cmp.Diff(want, codes); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// HEAD and, as it gives no digest, GET.
	if seen[200] != 2 {
		t.Errorf("success was counted %d times", seen[200])
	}
}

// The code of a token service is a stranger's too.
func TestObservedCodesOfTokenServicesAreFew(t *testing.T) {
	r := newReg(t)
	r.all(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/token" {
			w.WriteHeader(432)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+r.srv.URL+`/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	var tokens []int
	f := newFetcher(t, evidence.Options{Observe: func(_, operation string, code int, _ time.Duration, _ error) {
		if operation == "token" {
			tokens = append(tokens, code)
		}
	}})
	if _, err := f.Resolve(testContext(t), r.host+"/app", "1", evidence.Credentials{}); err == nil {
		t.Fatal("no error")
	}
	if len(tokens) == 0 || slices.ContainsFunc(tokens, func(code int) bool { return code != 400 }) {
		t.Errorf("codes of the token service: %v", tokens)
	}
}
