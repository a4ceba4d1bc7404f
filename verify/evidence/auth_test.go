package evidence_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/cosentry/cosentry/verify/evidence"
)

// basicAuth guards a registry with a password. seen is told of each one that was tried.
func basicAuth(r *reg, user, pass string, seen func(string)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		u, p, ok := req.BasicAuth()
		if ok && seen != nil {
			seen(u + ":" + p)
		}
		if u != user || p != pass {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.store.ServeHTTP(w, req)
	}
}

// tokens is a token service. It gives tokens to those who say the password, or to all.
type tokens struct {
	t       *testing.T
	srv     *httptest.Server
	mu      sync.Mutex
	n       int
	valid   string
	refused int // how many requests are to fail with 500
	answer  http.HandlerFunc
}

func newTokens(t *testing.T, secret string) *tokens {
	k := &tokens{t: t}
	k.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_ = req.ParseForm() // the server hears of a client that has gone only once its body is read
		k.mu.Lock()
		answer := k.answer
		k.mu.Unlock()
		if answer != nil {
			answer(w, req)
			return
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.refused > 0 {
			k.refused--
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		if !strings.Contains(strings.Join(req.Form["scope"], " "), "repository:app:pull") {
			t.Errorf("a token for %q was asked for", req.Form["scope"])
		}
		given := req.Form.Get("username") + ":" + req.Form.Get("password")
		if req.Form.Get("refresh_token") != "" {
			given = req.Form.Get("refresh_token")
		}
		if given == ":" {
			given = ""
		}
		if given != secret {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		k.n++
		k.valid = fmt.Sprintf("token-%d", k.n)
		_, _ = w.Write(mustJSON(t, object{"token": k.valid, "access_token": k.valid}))
	}))
	t.Cleanup(k.srv.Close)
	return k
}

// guard has the registry ask for these tokens.
func (k *tokens) guard(r *reg) {
	r.all(func(w http.ResponseWriter, req *http.Request) {
		k.mu.Lock()
		valid := k.valid
		k.mu.Unlock()
		if valid == "" || req.Header.Get("Authorization") != "Bearer "+valid {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+k.srv.URL+`/token",service="test",scope="repository:app:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.store.ServeHTTP(w, req)
	})
}

func (k *tokens) given() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.n
}

func private(t *testing.T) *reg {
	r := newReg(t, registry.WithReferrersSupport(true))
	r.sign("app", 1)
	return r
}

func TestBasicAuth(t *testing.T) {
	for name, c := range map[string]evidence.Credentials{
		"user and password": {Username: "user", Password: "pass"},
		"auth":              {Auth: base64.StdEncoding.EncodeToString([]byte("user:pass"))},
	} {
		t.Run(name, func(t *testing.T) {
			r := private(t)
			r.all(basicAuth(r, "user", "pass", nil))
			f := newFetcher(t, evidence.Options{})
			e := fetch(t, f, r.host+"/app", c)
			want(t, e, 1)
			complete(t, e)
			r.requests()
			fetch(t, f, r.host+"/app", c)
			if n := len(r.requests()); n != 3 {
				t.Errorf("%d requests the second time, want 3: the challenge is known by then", n)
			}
			e = fetch(t, f, r.host+"/app", evidence.Credentials{Username: "user", Password: "wrong"})
			want(t, e, 0)
			if !errors.Is(e.Incomplete, evidence.ErrUnauthorized) {
				t.Errorf("with a wrong password: %v", e.Incomplete)
			}
			e = fetch(t, f, r.host+"/app", evidence.Credentials{})
			want(t, e, 0)
			if !errors.Is(e.Incomplete, evidence.ErrUnauthorized) {
				t.Errorf("without a password, after it was given once: %v", e.Incomplete)
			}
		})
	}
}

func TestBearerAuth(t *testing.T) {
	for _, c := range []struct {
		name, secret string
		c            evidence.Credentials
	}{
		{"user and password", "user:pass", evidence.Credentials{Username: "user", Password: "pass"}},
		{"identity token", "refresh", evidence.Credentials{IdentityToken: "refresh"}},
		{"anonymous", "", evidence.Credentials{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, k := private(t), newTokens(t, c.secret)
			k.guard(r)
			f := newFetcher(t, evidence.Options{})
			for range 3 {
				e := fetch(t, f, r.host+"/app", c.c)
				want(t, e, 1)
				complete(t, e)
			}
			if k.given() != 1 {
				t.Errorf("%d tokens were asked for, want 1", k.given())
			}
		})
	}
}

func TestRegistryTokenIsSentAsItIs(t *testing.T) {
	r := private(t)
	r.all(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer as-it-is" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.store.ServeHTTP(w, req)
	})
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{RegistryToken: "as-it-is"})
	want(t, e, 1)
	complete(t, e)
}

// TestStaleToken: one that was good is asked for anew once the registry no longer takes it.
func TestStaleToken(t *testing.T) {
	r, k := private(t), newTokens(t, "user:pass")
	k.guard(r)
	f := newFetcher(t, evidence.Options{})
	c := evidence.Credentials{Username: "user", Password: "pass"}
	want(t, fetch(t, f, r.host+"/app", c), 1)
	k.mu.Lock()
	k.valid = "revoked"
	k.mu.Unlock()
	d := r.manifest("app", "v1", ociManifest, object{"schemaVersion": 2})
	if got, err := f.Resolve(testContext(t), r.host+"/app", "v1", c); err != nil || got != d {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestTokenServiceRecovers: a failure to get a token is not remembered.
func TestTokenServiceRecovers(t *testing.T) {
	r, k := private(t), newTokens(t, "user:pass")
	k.guard(r)
	k.refused = 100
	f := newFetcher(t, evidence.Options{})
	c := evidence.Credentials{Username: "user", Password: "pass"}
	e := fetch(t, f, r.host+"/app", c)
	want(t, e, 0)
	if !errors.Is(e.Incomplete, evidence.ErrUnavailable) || errors.Is(e.Incomplete, evidence.ErrUnauthorized) {
		t.Errorf("incomplete: %v", e.Incomplete)
	}
	k.mu.Lock()
	k.refused = 0
	k.mu.Unlock()
	e = fetch(t, f, r.host+"/app", c)
	want(t, e, 1)
	complete(t, e)
}

// TestHostileTokenService is bounded as the registry is.
func TestHostileTokenService(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		words  string
	}{
		"endless": {func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(`{"token":"`)); endless(w, r) }, "token answer size"},
		"hangs":   {hang, "in time"},
		"leads to the metadata service": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://169.254.169.254/token")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, "link-local"},
		"repeats the password": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte("user:hunter2"))
		}, "status 400"},
	} {
		t.Run(name, func(t *testing.T) {
			r, k := private(t), newTokens(t, "")
			k.guard(r)
			k.answer = c.answer
			timeout := 5 * time.Second
			if name == "hangs" {
				timeout = 200 * time.Millisecond
			}
			e := fetch(t, newFetcher(t, evidence.Options{RequestTimeout: timeout}), r.host+"/app", evidence.Credentials{Username: "user", Password: "hunter2"})
			want(t, e, 0)
			if e.Incomplete == nil || !strings.Contains(e.Incomplete.Error(), c.words) || strings.Contains(e.Incomplete.Error(), "hunter2") {
				t.Errorf("incomplete: %v; want %q in it and no password", e.Incomplete, c.words)
			}
		})
	}
}

// TestRealmAtLinkLocalAddress: the challenge names the token service, so a registry could name the metadata service.
func TestRealmAtLinkLocalAddress(t *testing.T) {
	r := private(t)
	r.all(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://169.254.169.254/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{Username: "u", Password: "p"})
	if e.Incomplete == nil || !strings.Contains(e.Incomplete.Error(), "link-local") {
		t.Errorf("incomplete: %v", e.Incomplete)
	}
}

func dockerConfig(t *testing.T, auths map[string]string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	writeDockerConfig(t, file, auths)
	return file
}

func writeDockerConfig(t *testing.T, file string, auths map[string]string) {
	t.Helper()
	entries := object{}
	for server, auth := range auths {
		entries[server] = object{"auth": base64.StdEncoding.EncodeToString([]byte(auth))}
	}
	if err := os.WriteFile(file, mustJSON(t, object{"auths": entries}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNodeCredentialsAfterTheRequestsOwn(t *testing.T) {
	r := private(t)
	var mu sync.Mutex
	tried := map[string]int{}
	r.all(basicAuth(r, "node", "right", func(s string) { mu.Lock(); tried[s]++; mu.Unlock() }))
	file := dockerConfig(t, map[string]string{r.host: "node:wrong", r.host + "/app": "node:right"})
	f := newFetcher(t, evidence.Options{DockerConfig: file})
	for name, c := range map[string]evidence.Credentials{"refused": {Username: "pod", Password: "wrong"}, "absent": {}} {
		e := fetch(t, f, r.host+"/app", c)
		if len(e.Signatures) != 1 || e.Incomplete != nil {
			t.Errorf("%s: %d signatures, %v", name, len(e.Signatures), e.Incomplete)
		}
	}
	if tried["pod:wrong"] == 0 || tried["node:wrong"] != 0 {
		t.Errorf("tried %v; want the request's own first, then the most specific", tried)
	}
	// What was refused once is not tried first again.
	before := tried["pod:wrong"]
	fetch(t, f, r.host+"/app", evidence.Credentials{Username: "pod", Password: "wrong"})
	if tried["pod:wrong"] != before {
		t.Errorf("the refused credentials were tried again")
	}
}

func TestNodeCredentialsAreReadAnewWhenTheyChange(t *testing.T) {
	r := private(t)
	r.all(basicAuth(r, "node", "right", nil))
	file := filepath.Join(t.TempDir(), "config.json")
	var out bytes.Buffer
	f := newFetcher(t, evidence.Options{DockerConfig: file, Log: slog.New(slog.NewTextHandler(&out, nil))})
	want(t, fetch(t, f, r.host+"/app", evidence.Credentials{}), 0)
	writeDockerConfig(t, file, map[string]string{r.host: "node:right"})
	want(t, fetch(t, f, r.host+"/app", evidence.Credentials{}), 1)
	if err := os.WriteFile(file, []byte(`{"auths":{"x":{"auth":"bm9kZTpyaWdodA=="`), 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, fetch(t, f, r.host+"/app", evidence.Credentials{}), 1)
	if !strings.Contains(out.String(), "docker config cannot be read") || strings.Contains(out.String(), "bm9k") {
		t.Errorf("log: %s", out.String())
	}
	writeDockerConfig(t, file, nil)
	want(t, fetch(t, f, r.host+"/app", evidence.Credentials{}), 0)
}

// TestCredentialsNeverShow, however they are printed, nor in an error about them.
func TestCredentialsNeverShow(t *testing.T) {
	c := evidence.Credentials{Username: "hunter1", Password: "hunter2", Auth: "hunter3", ServerAddress: "hunter4", IdentityToken: "hunter5", RegistryToken: "hunter6"}
	wrapped := struct {
		C evidence.Credentials
		P *evidence.Credentials
	}{c, &c}
	raw, err := json.Marshal(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	var text, jsonOut bytes.Buffer
	slog.New(slog.NewTextHandler(&text, nil)).Info("x", "c", c, "p", &c, "w", wrapped)
	slog.New(slog.NewJSONHandler(&jsonOut, nil)).Info("x", "c", c, "p", &c, "w", wrapped)
	r := private(t)
	r.all(func(w http.ResponseWriter, req *http.Request) {
		// The registry says what it was told, wherever it can.
		w.Header().Set("Retry-After", "soon")
		w.Header().Set("WWW-Authenticate", `Bearer realm="x",error="hunter2"`)
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = w.Write([]byte("hunter2"))
	})
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", c)
	for _, shown := range []string{
		fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %s %q %x %d", c, c, c, c, c, c, c), fmt.Sprintf("%v %+v %#v", &c, wrapped, wrapped),
		string(raw), text.String(), jsonOut.String(), c.Fingerprint(), fmt.Sprint(e.Incomplete),
	} {
		if strings.Contains(shown, "hunter") || strings.Contains(shown, "68756e746572") {
			t.Errorf("shown: %s", shown)
		}
	}
}

func TestFingerprint(t *testing.T) {
	a := evidence.Credentials{Username: "ab", Password: "c"}
	b := evidence.Credentials{Username: "a", Password: "bc"}
	same := evidence.Credentials{Username: "ab", Password: "c"}
	if a.Fingerprint() != same.Fingerprint() || a.Fingerprint() == b.Fingerprint() || a.Fingerprint() == (evidence.Credentials{}).Fingerprint() {
		t.Error("fingerprints do not tell credentials apart")
	}
}
