package evidence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"github.com/cosentry/cosentry/verify/address"
	"github.com/cosentry/cosentry/verify/limits"
)

// guard keeps one set of hosts from being led elsewhere. A registry chooses where its redirects and its token
// service point to; a node can reach things that the registry cannot, above all the cloud's metadata service at a
// link-local address, which hands out the node's identity to whoever asks from it.
type guard struct {
	observe func(host, operation string, code int, d time.Duration, err error)

	mu      sync.RWMutex
	allowed map[string]bool // host:port, as dialled, that the node's owner configured
}

// allow admits a host of the owner's own configuration, even a link-local one.
func (g *guard) allow(u *url.URL) {
	ports := []string{u.Port()}
	if u.Port() == "" {
		ports = []string{"443", "80"}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, port := range ports {
		g.allowed[net.JoinHostPort(u.Hostname(), port)] = true
	}
}

func (g *guard) isAllowed(addr string) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.allowed[addr]
}

// client puts the guard into a client that containerd's configuration has made. It may be called twice for clients
// that share a transport; the checks then run twice, which changes nothing.
func (g *guard) client(c *http.Client) error {
	c.CheckRedirect = checkRedirect
	tr, ok := c.Transport.(*http.Transport)
	if !ok {
		if _, ok := c.Transport.(*guardedTransport); ok {
			return nil // a client with the shared transport, guarded before
		}
		return fmt.Errorf("a transport of type %T cannot be guarded", c.Transport)
	}
	dial := tr.DialContext
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		// The address that was really connected to: a name that resolves to a link-local address, today or only
		// this second, does not slip past. Nothing has been sent yet.
		if remote, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err != nil || address.IsLocalToLink(remote.Addr()) && !g.isAllowed(addr) {
			_ = conn.Close()
			return nil, errLinkLocal
		}
		return conn, nil
	}
	if proxy := tr.Proxy; proxy != nil {
		tr.Proxy = func(r *http.Request) (*url.URL, error) {
			u, err := proxy(r)
			if err == nil && u != nil {
				g.allow(u) // the proxy is the owner's choice too
			}
			return u, err
		}
	}
	tr.DisableCompression = true // the bytes are hashed as they come
	tr.MaxIdleConnsPerHost = int(limits.Parallel.Max())
	tr.MaxResponseHeaderBytes = 256 << 10
	c.Transport = &guardedTransport{tr, g}
	return nil
}

// errLedAway is a redirect that is not followed. It is the registry's answer, not the lack of one: asking again would
// lead there again.
var errLedAway = errors.New("led away")

var errLinkLocal = fmt.Errorf("%w to a link-local address, where no registry is configured", errLedAway)

// checkRedirect bounds how often a request is led on, and leaves behind what was meant for the first host alone.
// net/http by itself keeps Authorization for another port of the same host and for subdomains, and keeps the
// headers of hosts.toml, which may be keys, for any host.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if err := limits.Redirects.Check(int64(len(via))); err != nil {
		return err
	}
	if req.URL.Host != via[0].URL.Host {
		for name := range req.Header {
			if name != "Accept" && name != "User-Agent" {
				req.Header.Del(name)
			}
		}
	}
	return nil
}

// guardedTransport sees each exchange as it goes over the wire, below containerd's fallback from https to http, so
// that "another scheme" means the one really spoken.
type guardedTransport struct {
	*http.Transport
	guard *guard
}

// chain is one request and the redirects that follow from it.
type chain struct {
	mu     sync.Mutex
	scheme string // spoken so far; "" before the first answer
	// upgrade allows to go from http to https: a token service may be better protected than its registry.
	upgrade bool
	// token marks the exchange with a token service, whose body is read by containerd without a bound.
	token bool
}

type chainKey struct{}

func (t *guardedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	c, ok := req.Context().Value(chainKey{}).(*chain)
	if !ok {
		return nil, errors.New("a request without its chain")
	}
	if err := t.check(req, c); err != nil {
		return nil, err
	}
	start := time.Now()
	resp, err := t.Transport.RoundTrip(req)
	if c.token {
		code := 0
		if err == nil {
			code = resp.StatusCode
			resp.Body = boundedBody{limits.Token.Reader(resp.Body), resp.Body}
		}
		t.guard.observe(escape(req.URL.Host), "token", code, time.Since(start), err)
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scheme = req.URL.Scheme
	return resp, nil
}

func (t *guardedTransport) check(req *http.Request, c *chain) error {
	c.mu.Lock()
	spoken, upgrade := c.scheme, c.upgrade
	c.mu.Unlock()
	scheme := req.URL.Scheme
	if spoken != "" && scheme != spoken && !(upgrade && scheme == "https") {
		return fmt.Errorf("%w from %s to %s, which is not followed", errLedAway, spoken, escape(scheme))
	}
	// Said here as well for addresses in the URL itself, because behind a proxy nothing is dialled.
	if ip, err := netip.ParseAddr(req.URL.Hostname()); err == nil && address.IsLocalToLink(ip) {
		port := req.URL.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[scheme]
		}
		if !t.guard.isAllowed(net.JoinHostPort(req.URL.Hostname(), port)) {
			return errLinkLocal
		}
	}
	return nil
}

type boundedBody struct {
	io.Reader
	io.Closer
}
