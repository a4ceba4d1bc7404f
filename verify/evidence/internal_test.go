package evidence

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// farConn claims to be connected to a far address, as a name that resolves there would be.
type farConn struct {
	net.Conn
	addr    string
	written *bool
}

func (c farConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.addr))
}

func (c farConn) Write(p []byte) (int, error) {
	*c.written = true
	return 0, errors.New("written to")
}

// TestNamesThatResolveToLinkLocal: what counts is the address that was really connected to.
func TestNamesThatResolveToLinkLocal(t *testing.T) {
	for _, c := range []struct {
		addr    string
		allowed bool
		ok      bool
	}{
		{"169.254.169.254:80", false, false},
		{"[fe80::1%eth0]:80", false, false},
		{"[::ffff:169.254.1.1]:80", false, false},
		{"192.0.2.1:80", false, true},
		{"169.254.20.10:80", true, true},
	} {
		written := false
		client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			t.Cleanup(func() { _ = theirs.Close() })
			return farConn{ours, c.addr, &written}, nil
		}}}
		g := &guard{allowed: map[string]bool{}, observe: func(string, string, int, time.Duration, error) {}}
		if err := g.client(client); err != nil {
			t.Fatal(err)
		}
		if c.allowed {
			g.allow(&url.URL{Host: "harmless.example"})
		}
		req, err := http.NewRequestWithContext(context.WithValue(context.Background(), chainKey{}, &chain{}), http.MethodGet, "http://harmless.example/", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Do(req)
		if err == nil || written != c.ok || errors.Is(err, errLinkLocal) == c.ok {
			t.Errorf("%s: written to: %v, %v", c.addr, written, err)
		}
	}
}

// TestTokenServiceMayBeSafer but not less safe than its registry.
func TestTokenServiceMayBeSafer(t *testing.T) {
	g := &guardedTransport{guard: &guard{}}
	for _, c := range []struct {
		spoken, to string
		upgrade    bool
		ok         bool
	}{
		{"https", "http", true, false},
		{"http", "https", true, true},
		{"http", "https", false, false},
		{"https", "http", false, false},
		{"https", "https", false, true},
	} {
		req := &http.Request{URL: &url.URL{Scheme: c.to, Host: "tokens.example"}}
		if err := g.check(req, &chain{scheme: c.spoken, upgrade: c.upgrade}); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestHostSetsAge: CA files elsewhere, and whatever was learnt of a registry, are looked at again.
func TestHostSetsAge(t *testing.T) {
	root := t.TempDir()
	f, err := New(Options{HostsDir: root})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	f.hosts.now = func() time.Time { return now }
	get := func() *hostSet {
		t.Helper()
		set, err := f.hosts.get("registry.example")
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	first := get()
	now = now.Add(hostSetAge - time.Second)
	if get() != first {
		t.Error("made anew too early")
	}
	now = now.Add(time.Second)
	second := get()
	if second == first {
		t.Error("too old a set was used")
	}
	if err := os.Mkdir(filepath.Join(root, "registry.example"), 0o700); err != nil {
		t.Fatal(err)
	}
	if get() == second {
		t.Error("a new folder was not seen")
	}
}

func TestNodeCredentialsMatchAsKubeletsDo(t *testing.T) {
	for _, c := range []struct {
		server, host, repository string
		matches                  bool
	}{
		{"registry.example", "registry.example", "a/b", true},
		{"https://registry.example/", "registry.example", "a/b", true},
		{"http://registry.example/v2/", "registry.example", "a/b", true},
		{"registry.example/a", "registry.example", "a/b", true},
		{"registry.example/v2/a", "registry.example", "a", true},
		{"registry.example/a", "registry.example", "b", false},
		{"registry.example/team", "registry.example", "team-of-others/x", false},
		{"registry.example:5000", "registry.example", "a", false},
		{"registry.example", "registry.example:5000", "a", false},
		{"*.example", "registry.example", "a", true},
		{"*.example", "a.registry.example", "a", false},
		{"*.registry.example", "registry.example", "a", false},
		{"reg*.example", "registry.example", "a", true},
		{"*.example", "registry.example.evil.test", "a", false},
		{"registry.example", "registry.example.evil.test", "a", false},
		{"registry.example", "registryXexample", "a", false},
		{"https://index.docker.io/v1/", "docker.io", "library/busybox", true},
		{"index.docker.io", "docker.io", "library/busybox", true},
		{"docker.io", "docker.io", "library/busybox", true},
		{"docker.io/library", "docker.io", "library/busybox", true},
		{"docker.io", "registry.example", "library/busybox", false},
		{"[*.example", "registry.example", "a", false},
		{"", "registry.example", "a", false},
	} {
		entry, ok := newNodeEntry(c.server, Credentials{Username: "u"})
		if got := ok && entry.matches(c.host, "/"+c.repository); got != c.matches {
			t.Errorf("%q for %s/%s: %v", c.server, c.host, c.repository, got)
		}
	}
}

func TestParseDockerConfig(t *testing.T) {
	entries, err := parseDockerConfig([]byte(`{"auths":{
		"a.example":{"auth":"dXNlcjpwYXNzOndvcmQ="},
		"a.example/longer":{"username":"u","password":"p"},
		"b.example":{"auth":"PHRva2VuPjo=","identitytoken":"refresh"},
		"c.example":{"registrytoken":"as-it-is"},
		"d.example":{"auth":"%%%"},
		"e.example":{}},"credsStore":"desktop"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []nodeEntry{
		{"a.example", "/longer", Credentials{Username: "u", Password: "p"}},
		{"a.example", "", Credentials{Username: "user", Password: "pass:word"}},
		{"b.example", "", Credentials{IdentityToken: "refresh"}},
		{"c.example", "", Credentials{RegistryToken: "as-it-is"}},
	}
	if diff := cmp.Diff(want, entries, cmp.AllowUnexported(nodeEntry{})); diff != "" {
		t.Error(diff)
	}
}

func TestWordsAreCleanAndShort(t *testing.T) {
	err := &url.Error{Op: "Get", URL: "https://store.example/x?signature=secret", Err: errors.New("bad\nnews " + strings.Repeat("x", 1000))}
	if got := transportError(err, "GET x").Error(); strings.Contains(got, "secret") || strings.Contains(got, "\n") || len(got) > 300 {
		t.Errorf("%q", got)
	}
}

func TestOnlyVersionsThatCanBeParsed(t *testing.T) {
	raw, _ := json.Marshal(map[string]any{"subject": map[string]any{"digest": digest.FromString("x")}, "layers": []map[string]any{
		{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}, {"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1"},
		{"mediaType": "application/vnd.dev.sigstore.bundle.v0.4+json"}, {"mediaType": "text/plain"},
	}})
	layers, err := parsedBundleLayers(raw, digest.FromString("x"))
	if len(layers) != 2 || err == nil {
		t.Errorf("%d layers, %v", len(layers), err)
	}
}

func parsedBundleLayers(raw []byte, subject digest.Digest) ([]descriptor, error) {
	m, err := parseManifest(raw)
	if err != nil {
		return nil, err
	}
	return bundleLayers(m, subject)
}

// FuzzManifests: whatever the bytes are, nothing beyond a bound comes out, nothing about another subject, and an error
// is one of this package's.
func FuzzManifests(f *testing.F) {
	subject := digest.FromString("x")
	for _, seed := range []string{
		`{}`, `[]`, `{"manifests":[]}`, `{"manifests":[{"digest":"sha256:x"}]}`, `{"layers":null,"manifests":null}`,
		`{"layers":[{"mediaType":"` + simpleSigningType + `","size":3,"annotations":{"` + signatureAnnotation + `":"c2ln"}}]}`,
		`{"subject":{"digest":"` + subject.String() + `"},"layers":[{"mediaType":"` + bundleTypes[0] + `"}]}`,
		`{"layers":[{}],"manifests":[{}]}`, `{"layers":[{"size":1e400}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, parse := range []func([]byte) ([]descriptor, error){
			signatures.layers, parseReferrers,
			func(raw []byte) ([]descriptor, error) { return parsedBundleLayers(raw, subject) },
		} {
			if _, err := parse(raw); err != nil && !errors.Is(err, ErrMismatch) && !isExceeded(err) {
				t.Errorf("%v", err)
			}
		}
		layers, _ := parsedBundleLayers(raw, subject)
		var m manifest
		if err := json.Unmarshal(raw, &m); len(layers) > 0 && (err != nil || m.Subject == nil || m.Subject.Digest != subject) {
			t.Error("layers of a manifest about something else")
		}
		if layers, _ := signatures.layers(raw); len(layers) > 128 {
			t.Error("more signatures than the bound")
		}
	})
}

func FuzzNextPage(f *testing.F) {
	for _, seed := range []string{`<?last=a>; rel="next"`, `<//evil.test/x>; rel=next`, `<http://u:p@registry.example/>; rel="next"`, `<x>; rel="prev", <y>; rel="next"`} {
		f.Add(seed)
	}
	current := &url.URL{Scheme: "https", Host: "registry.example", Path: "/v2/app/referrers/x", RawQuery: "ns=docker.io"}
	f.Fuzz(func(t *testing.T, link string) {
		next, err := nextPage(current, http.Header{"Link": {link}})
		if err == nil && next != nil && (next.Scheme != "https" || next.Host != current.Host || next.User != nil || next.Query().Get("ns") != "docker.io") {
			t.Errorf("%q leads to %s", link, next)
		}
	})
}
