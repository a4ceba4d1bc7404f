package evidence_test

import (
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
)

// plain makes a registry one with which nothing but http is spoken.
func plain(t *testing.T, r *reg, more string) string {
	return hostsDir(t, map[string]string{r.host: "server = \"http://" + r.host + "\"\n" + more})
}

func TestRedirectsThatAreNotFollowed(t *testing.T) {
	for _, c := range []struct {
		name, to, words string
	}{
		{"to another scheme", "https://registry.example/x", "from http to https"},
		{"to no scheme of the web", "file:///etc/shadow", "from http to file"},
		{"to the metadata service", "http://169.254.169.254/latest/meta-data", "link-local"},
		{"to the metadata service, in IPv6's spelling", "http://[::ffff:169.254.169.254]/x", "link-local"},
		{"to the metadata service, through a translator", "http://[64:ff9b::a9fe:a9fe]/x", "link-local"},
		{"to the metadata service of AWS by IPv6", "http://[fd00:ec2::254]/x", "link-local"},
		{"to a neighbour by IPv6", "http://[fe80::1]/x", "link-local"},
		{"in circles", "?", "redirects"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReg(t)
			r.sign("app", 1)
			r.on(".sig", func(w http.ResponseWriter, req *http.Request) {
				w.Header().Set("Location", c.to)
				w.WriteHeader(http.StatusTemporaryRedirect)
			})
			f := newFetcher(t, evidence.Options{HostsDir: plain(t, r, "")})
			e := fetch(t, f, r.host+"/app", evidence.Credentials{})
			want(t, e, 0)
			if e.Incomplete == nil || !strings.Contains(e.Incomplete.Error(), c.words) {
				t.Errorf("incomplete: %v; want %q in it", e.Incomplete, c.words)
			}
			if errors.Is(e.Incomplete, evidence.ErrUnavailable) {
				t.Errorf("incomplete: %v: that the registry leads astray is an answer, and not the lack of one", e.Incomplete)
			}
		})
	}
}

func TestRedirectBound(t *testing.T) {
	for n, ok := range map[int32]bool{5: true, 6: false} {
		r := newReg(t)
		r.sign("app", 1)
		var left atomic.Int32
		left.Store(n)
		r.on(".sig", func(w http.ResponseWriter, req *http.Request) {
			if left.Add(-1) >= 0 {
				w.Header().Set("Location", req.URL.Path)
				w.WriteHeader(http.StatusFound)
				return
			}
			r.store.ServeHTTP(w, req)
		})
		e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
		checkBound(t, e, 1, len(e.Signatures), ok, limits.Redirects)
	}
}

// TestRedirectToAnotherHostTakesNoSecrets: payloads often lie in a store elsewhere. The store is another server at the
// same address, which net/http alone would take for the same host, and send the password to.
func TestRedirectToAnotherHostTakesNoSecrets(t *testing.T) {
	store := newReg(t)
	store.sign("app", 1)
	var leaked atomic.Value
	store.mu.Lock()
	store.meddle = func(_ http.ResponseWriter, req *http.Request) bool {
		for name, values := range req.Header {
			if name != "Accept" && name != "User-Agent" {
				leaked.Store(name + ": " + strings.Join(values, ","))
			}
		}
		return false
	}
	store.mu.Unlock()
	r := newReg(t)
	r.sign("app", 1)
	r.on("", basicAuth(r, "user", "pass", nil))
	r.mu.Lock()
	auth := r.meddle
	r.meddle = func(w http.ResponseWriter, req *http.Request) bool {
		if user, _, _ := req.BasicAuth(); user == "user" && strings.Contains(req.URL.Path, "/blobs/") {
			if req.Header.Get("X-Key") != "of the mirror" {
				t.Error("the header of hosts.toml is missing where it belongs")
			}
			w.Header().Set("Location", "http://"+store.host+req.URL.Path)
			w.WriteHeader(http.StatusTemporaryRedirect)
			return true
		}
		return auth(w, req)
	}
	r.mu.Unlock()
	f := newFetcher(t, evidence.Options{HostsDir: plain(t, r, "[header]\nX-Key = \"of the mirror\"\n")})
	e := fetch(t, f, r.host+"/app", evidence.Credentials{Username: "user", Password: "pass"})
	want(t, e, 1)
	complete(t, e)
	if len(store.requests()) != 1 {
		t.Error("the redirect was not followed")
	}
	if v := leaked.Load(); v != nil {
		t.Errorf("the other host was sent %v", v)
	}
}

// TestChallengeAfterRedirect: a host that a redirect leads to cannot ask for the password, nor have it sent anywhere.
func TestChallengeAfterRedirect(t *testing.T) {
	for _, challenge := range []string{`Basic realm="x"`, `Bearer realm="http://%s/token"`} {
		t.Run(challenge, func(t *testing.T) { challengeAfterRedirect(t, challenge) })
	}
}

func challengeAfterRedirect(t *testing.T, challenge string) {
	thief := newReg(t)
	thief.all(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/token" {
			t.Error("the thief's token service was asked")
		}
		if req.Header.Get("Authorization") != "" {
			t.Error("the password was given away")
		}
		w.Header().Set("WWW-Authenticate", strings.Replace(challenge, "%s", thief.host, 1))
		w.WriteHeader(http.StatusUnauthorized)
	})
	r := newReg(t)
	r.all(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Location", "http://"+thief.host+req.URL.Path)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	e := fetch(t, newFetcher(t, evidence.Options{HostsDir: plain(t, r, "")}), r.host+"/app", evidence.Credentials{Username: "user", Password: "pass"})
	if !errors.Is(e.Incomplete, evidence.ErrUnauthorized) {
		t.Errorf("incomplete: %v", e.Incomplete)
	}
	if len(thief.requests()) == 0 {
		t.Error("the redirect was not followed, so nothing was tried")
	}
}
