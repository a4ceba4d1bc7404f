package evidence

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/limits"
)

// tokenRegistry asks for a token of so many bytes for each repository, and has nothing.
func tokenRegistry(t *testing.T, size int, challenges *atomic.Int64) (host string) {
	t.Helper()
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			_, _ = fmt.Fprintf(w, `{"expires_in":1000000,"token":%q}`, strings.Repeat("x", size))
		case r.Header.Get("Authorization") == "":
			challenges.Add(1)
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="s"`, srv.URL))
			w.WriteHeader(http.StatusUnauthorized)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// TestTokensDoNotPileUp: pods name repositories that are not there, and the registry gives a token for each.
func TestTokensDoNotPileUp(t *testing.T) {
	var challenges atomic.Int64
	host := tokenRegistry(t, 64<<10-100, &challenges)
	f := must(New(Options{}))
	const repositories = 320
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range repositories {
		if _, err := f.Resolve(context.Background(), fmt.Sprintf("%s/r%d", host, i), "1", Credentials{}); !errors.Is(err, ErrNotFound) {
			t.Fatalf("repository %d: %v", i, err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) >> 20; grown > 8 {
		t.Errorf("%d MiB are kept after %d repositories", grown, repositories)
	}
	if n := challenges.Load(); n > repositories/maxScopes {
		t.Errorf("%d challenges: what was learnt of the host is forgotten too often", n)
	}
	runtime.KeepAlive(f)
}

func TestTokenAndChallengeAreBounded(t *testing.T) {
	var challenges atomic.Int64
	host := tokenRegistry(t, 64<<10, &challenges)
	_, err := must(New(Options{})).Resolve(context.Background(), host+"/app", "1", Credentials{})
	var exceeded *limits.Exceeded
	if !errors.As(err, &exceeded) || exceeded.Bound != limits.Token {
		t.Errorf("a token that is too long: %v", err)
	}

	var asked atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			asked.Store(true)
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="%s"`, r.Host, strings.Repeat("x", maxChallenge)))
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer srv.Close()
	_, err = must(New(Options{})).Resolve(context.Background(), strings.TrimPrefix(srv.URL, "http://")+"/app", "1", Credentials{})
	if !errors.Is(err, ErrUnauthorized) || asked.Load() {
		t.Errorf("a challenge that is too long: %v, answered: %v", err, asked.Load())
	}
}

// TestOldHostSetsAreDropped, and their tokens, though nobody asks for them again.
func TestOldHostSetsAreDropped(t *testing.T) {
	f := must(New(Options{}))
	now := time.Now()
	f.hosts.now = func() time.Time { return now }
	old := must(f.hosts.get("old.example"))
	old.endpoints[0].authorizer(Credentials{}, "repository:app:pull")
	now = now.Add(hostSetAge / 2)
	must(f.hosts.get("young.example")).endpoints[0].authorizer(Credentials{}, "repository:app:pull")
	now = now.Add(hostSetAge / 2)
	must(f.hosts.get("other.example"))
	if f.hosts.sets.Contains("old.example") || !f.hosts.sets.Contains("young.example") {
		t.Errorf("kept: %v", f.hosts.sets.Keys())
	}
	for _, key := range f.hosts.authorizers.Keys() {
		if key.host == old.endpoints[0] {
			t.Error("the tokens of a set that is gone are kept")
		}
	}
	if f.hosts.authorizers.Len() != 1 {
		t.Errorf("%d authorizers, want that of the young set", f.hosts.authorizers.Len())
	}
}

// TestLinkLocalOnlyByTheOwnersWord: an image may be named after the metadata service.
func TestLinkLocalOnlyByTheOwnersWord(t *testing.T) {
	const named, mirror = "169.254.77.77", "169.254.77.78"
	for _, c := range []struct {
		name, dir, toml string
		ask             string
		allowed         bool
	}{
		{"no configuration", "", "", named, false},
		{"a folder of its own", named, `server = "http://` + named + `"`, named, true},
		{"a default that names no server", "_default", `[host."http://registry.example"]`, named, false},
		{"a mirror in the default", "_default", `server = "http://` + mirror + `"`, "registry.example", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			if c.dir != "" {
				if err := os.Mkdir(filepath.Join(root, c.dir), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(root, c.dir, "hosts.toml"), []byte(c.toml), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			set := must(must(New(Options{HostsDir: root})).hosts.get(c.ask))
			ep := set.endpoints[len(set.endpoints)-1]
			// Its time is over, so nobody is spoken to; the guard comes first.
			ctx, cancel := context.WithCancel(context.WithValue(context.Background(), chainKey{}, &chain{}))
			cancel()
			_, err := ep.Client.Do(must(ep.request(ctx, http.MethodGet, ep.url("app", "manifests", "1"), "")))
			if errors.Is(err, errLinkLocal) == c.allowed || err == nil {
				t.Errorf("asking %s: %v", ep.Host, err)
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
