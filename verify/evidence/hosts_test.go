package evidence_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/cosentry/cosentry/verify/evidence"
)

// upstream is the name in image references; no such host exists, which proves that the hosts of hosts.toml are asked.
const upstream = "registry.invalid"

func TestMirrorIsToldForWhom(t *testing.T) {
	mirror := newReg(t, registry.WithReferrersSupport(true))
	mirror.sign("app", 1)
	mirror.refer("app", `{"one":1}`)
	dir := hostsDir(t, map[string]string{upstream: fmt.Sprintf("[host.\"http://%s\"]\n", mirror.host)})
	f := newFetcher(t, evidence.Options{HostsDir: filepath.Join(dir, "none") + ":" + dir})
	e := fetch(t, f, upstream+"/app", evidence.Credentials{})
	want(t, e, 1, `{"one":1}`)
	requests := mirror.requests()
	if len(requests) != 6 {
		t.Errorf("%d requests: %q", len(requests), requests)
	}
	for _, r := range requests {
		if !strings.HasSuffix(r, "?ns="+upstream) {
			t.Errorf("%s does not say for which registry", r)
		}
	}
}

// TestMirrorWithoutSignaturesIsPassedOver, whether it says so or is down; the upstream then answers.
func TestMirrorWithoutSignaturesIsPassedOver(t *testing.T) {
	for name, meddle := range map[string]http.HandlerFunc{
		"404":            nil,
		"500":            status(500),
		"401":            status(401),
		"empty list":     func(w http.ResponseWriter, r *http.Request) { emptyList(w, r) },
		"other payloads": wrongBlobs(t),
	} {
		t.Run(name, func(t *testing.T) {
			mirror, main := newReg(t), newReg(t, registry.WithReferrersSupport(true))
			main.sign("app", 1)
			main.refer("app", `{"one":1}`)
			if name == "other payloads" {
				mirror.sign("app", 1)
				mirror.refer("app", `{"one":1}`)
			}
			if meddle != nil {
				mirror.all(meddle)
			}
			dir := hostsDir(t, map[string]string{upstream: fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n", main.host, mirror.host)})
			f := newFetcher(t, evidence.Options{HostsDir: dir})
			e := fetch(t, f, upstream+"/app", evidence.Credentials{})
			want(t, e, 1, `{"one":1}`)
			complete(t, e)
			if len(mirror.requests()) == 0 {
				t.Error("the mirror was not asked")
			}
			d := main.manifest("app", "v1", ociManifest, object{"schemaVersion": 2})
			if got, err := f.Resolve(testContext(t), upstream+"/app", "v1", evidence.Credentials{}); err != nil || got != d {
				t.Errorf("resolved %s, %v", got, err)
			}
		})
	}
}

func emptyList(w http.ResponseWriter, r *http.Request) {
	if !strings.Contains(r.URL.Path, "/referrers/") {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_, _ = w.Write([]byte(`{"manifests":[]}`))
}

func wrongBlobs(t *testing.T) http.HandlerFunc {
	r := newReg(t)
	r.sign("app", 1)
	return func(w http.ResponseWriter, req *http.Request) {
		if strings.Contains(req.URL.Path, "/blobs/") {
			_, _ = w.Write([]byte("other bytes"))
			return
		}
		r.store.ServeHTTP(w, req)
	}
}

// TestDownMirrorIsNotNone: a mirror that could have had signatures was not reached, and upstream has none.
func TestDownMirrorIsNotNone(t *testing.T) {
	mirror, main := newReg(t), newReg(t)
	mirror.all(status(503))
	dir := hostsDir(t, map[string]string{upstream: fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n", main.host, mirror.host)})
	e := fetch(t, newFetcher(t, evidence.Options{HostsDir: dir}), upstream+"/app", evidence.Credentials{})
	want(t, e, 0)
	if !errors.Is(e.Incomplete, evidence.ErrUnavailable) {
		t.Errorf("incomplete: %v", e.Incomplete)
	}
}

// TestCapabilities: a mirror that is not trusted to resolve is not asked what a tag names.
func TestCapabilities(t *testing.T) {
	mirror, main := newReg(t), newReg(t)
	main.sign("app", 1)
	mirror.sign("app", 1)
	dir := hostsDir(t, map[string]string{upstream: fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\ncapabilities = [\"pull\"]\n", main.host, mirror.host)})
	want(t, fetch(t, newFetcher(t, evidence.Options{HostsDir: dir}), upstream+"/app", evidence.Credentials{}), 1)
	if seen := mirror.requests(); len(seen) != 0 {
		t.Errorf("the mirror was asked %q", seen)
	}
}

func TestOverridePath(t *testing.T) {
	r := newReg(t)
	r.sign("app", 1)
	r.mu.Lock()
	r.meddle = func(w http.ResponseWriter, req *http.Request) bool {
		req.URL.Path = strings.Replace(req.URL.Path, "/odd/place/", "/v2/", 1)
		return false
	}
	r.mu.Unlock()
	dir := hostsDir(t, map[string]string{upstream: fmt.Sprintf("[host.\"http://%s/odd/place\"]\noverride_path = true\n", r.host)})
	want(t, fetch(t, newFetcher(t, evidence.Options{HostsDir: dir}), upstream+"/app", evidence.Credentials{}), 1)
	for _, seen := range r.requests() {
		if !strings.HasPrefix(seen, "GET /odd/place/app/") {
			t.Errorf("asked %s", seen)
		}
	}
}

func TestTLS(t *testing.T) {
	r := unstarted(t)
	r.sign("app", 1)
	clientCert, clientKey, clientPool := selfSigned(t)
	r.srv.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clientPool}
	r.srv.StartTLS()
	host := strings.TrimPrefix(r.srv.URL, "https://")
	root := t.TempDir()
	f := newFetcher(t, evidence.Options{HostsDir: root})
	server := "server = \"https://" + host + "\"\n"
	writeHosts(t, root, upstream, server)
	for name, content := range map[string][]byte{
		"ca.pem":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.srv.Certificate().Raw}),
		"client.pem": clientCert, "client.key": clientKey,
	} {
		if err := os.WriteFile(filepath.Join(root, upstream, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, toml string
		found      int
	}{
		{"a CA that is not known", server, 0},
		{"the CA, and no client certificate", server + "ca = \"ca.pem\"\n", 0},
		{"the CA and the client certificate", server + "ca = \"ca.pem\"\nclient = [[\"client.pem\", \"client.key\"]]\n", 1},
		{"no verification, and the client certificate", server + "skip_verify = true\nclient = [[\"client.pem\", \"client.key\"]]\n", 1},
	} {
		// One Fetcher for all: a changed hosts.toml takes effect at once.
		writeHosts(t, root, upstream, c.toml)
		e := fetch(t, f, upstream+"/app", evidence.Credentials{})
		if len(e.Signatures) != c.found {
			t.Errorf("%s: %d signatures, %v", c.name, len(e.Signatures), e.Incomplete)
		}
		if c.found == 0 && !errors.Is(e.Incomplete, evidence.ErrUnavailable) {
			t.Errorf("%s: %v", c.name, e.Incomplete)
		}
	}
}

func selfSigned(t *testing.T) (cert, key []byte, pool *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(parsed)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), pool
}

// TestBrokenHostsToml: containerd only logs it, and goes on without mirror and CA.
func TestBrokenHostsToml(t *testing.T) {
	r := newReg(t)
	for name, content := range map[string]string{
		"not TOML":             "server = ",
		"unknown capability":   "[host.\"http://" + r.host + "\"]\ncapabilities = [\"everything\"]\n",
		"CA of the wrong kind": "ca = 7\n",
		"CA that is not there": "ca = \"missing.pem\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := hostsDir(t, map[string]string{r.host: content})
			f := newFetcher(t, evidence.Options{HostsDir: dir})
			e, err := f.Fetch(testContext(t), evidence.Question{Repository: r.host + "/app", Digest: subject})
			if err == nil || e != nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v, %v; want an error that names the folder", e, err)
			}
			if n := len(r.requests()); n != 0 {
				t.Errorf("%d requests were made without the configuration", n)
			}
			writeHosts(t, dir, r.host, "")
			if _, err := f.Fetch(testContext(t), evidence.Question{Repository: r.host + "/app", Digest: subject}); err != nil {
				t.Errorf("mended: %v", err)
			}
			r.requests()
		})
	}
}

// TestCredentialsAtMirrors: the request's own go where containerd sends them in the pull; the node's only to the host
// for which they are.
func TestCredentialsAtMirrors(t *testing.T) {
	mirror, main := newReg(t), newReg(t)
	main.sign("app", 1)
	var mu sync.Mutex
	var atMirror []string
	mirror.all(basicAuth(mirror, "nobody", "knows", func(s string) { mu.Lock(); atMirror = append(atMirror, s); mu.Unlock() }))
	main.all(basicAuth(main, "node", "for-upstream", nil))
	root := hostsDir(t, map[string]string{main.host: fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n", main.host, mirror.host)})
	file := dockerConfig(t, map[string]string{main.host: "node:for-upstream", mirror.host: "node:for-mirror"})
	f := newFetcher(t, evidence.Options{HostsDir: root, DockerConfig: file})
	want(t, fetch(t, f, main.host+"/app", evidence.Credentials{Username: "pod", Password: "own"}), 1)
	want(t, fetch(t, f, main.host+"/app", evidence.Credentials{Username: "pod", Password: "addressed", ServerAddress: "https://" + main.host}), 1)
	all := strings.Join(atMirror, " ")
	if strings.Contains(all, "for-upstream") || strings.Contains(all, "addressed") {
		t.Errorf("the mirror was given credentials that are not for it: %s", all)
	}
	if !strings.Contains(all, "pod:own") || !strings.Contains(all, "node:for-mirror") {
		t.Errorf("the mirror was given %s", all)
	}
}

func TestObserve(t *testing.T) {
	r, k := private(t), newTokens(t, "user:pass")
	k.guard(r)
	var mu sync.Mutex
	seen := map[string]int{}
	f := newFetcher(t, evidence.Options{UserAgent: "cosentry/test", Observe: func(host, operation string, code int, d time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		seen[fmt.Sprintf("%s %d", operation, code)]++
		if host != r.host && operation != "token" || d <= 0 {
			t.Errorf("observed %s at %s in %v: %v", operation, host, d, err)
		}
	}})
	want(t, fetch(t, f, r.host+"/app", evidence.Credentials{Username: "user", Password: "pass"}), 1)
	for _, one := range []string{"signature tag 200", "referrers 200", "referrers tag 404", "blob 200", "token 200"} {
		if seen[one] == 0 {
			t.Errorf("%s was not observed among %v", one, seen)
		}
	}
	// Whichever is first is asked for a token.
	if seen["signature tag 401"]+seen["referrers 401"]+seen["referrers tag 401"] == 0 {
		t.Errorf("no refusal was observed among %v", seen)
	}
}

// TestConnectionsAreKept: neither the transport nor the connections are made anew for each question.
func TestConnectionsAreKept(t *testing.T) {
	r := private(t)
	var mu sync.Mutex
	remotes := map[string]bool{}
	r.mu.Lock()
	r.meddle = func(_ http.ResponseWriter, req *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		remotes[req.RemoteAddr] = true
		return false
	}
	r.mu.Unlock()
	f := newFetcher(t, evidence.Options{})
	for range 20 {
		want(t, fetch(t, f, r.host+"/app", evidence.Credentials{}), 1)
	}
	if len(remotes) > 8 {
		t.Errorf("%d connections for 20 questions", len(remotes))
	}
	if bytes.Contains([]byte(strings.Join(r.requests(), "\n")), []byte("GET /v2/\n")) {
		t.Error("the registry was pinged")
	}
}
