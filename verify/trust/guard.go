package trust

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/cosentry/cosentry/verify/address"
	"github.com/cosentry/cosentry/verify/limits"
)

// newClient is the client for remote rules. It speaks https alone, wherever it is led, and it is not led to what only
// the node can reach: the cloud's metadata service at a link-local address hands out the node's identity to whoever asks
// from it.
func newClient() *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: notLocalToLink}
	return &http.Client{
		Transport: httpsOnly{&http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            dialer.DialContext,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    10 * time.Second,
			MaxResponseHeaderBytes: 256 << 10,
			DisableKeepAlives:      true, // a rule is fetched once
			DisableCompression:     true, // the bytes are hashed as they come
		}},
		CheckRedirect: func(_ *http.Request, via []*http.Request) error {
			return limits.Redirects.Check(int64(len(via)))
		},
	}
}

// httpsOnly is asked for the first request and for each that a redirect leads to.
type httpsOnly struct{ next http.RoundTripper }

func (t httpsOnly) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		return nil, fmt.Errorf("the scheme %s is not followed: only https is", quote(req.URL.Scheme))
	}
	// Said here as well for addresses in the URL itself, because behind a proxy nothing is dialled.
	if ip, err := netip.ParseAddr(req.URL.Hostname()); err == nil && address.IsLocalToLink(ip) {
		return nil, errLinkLocal
	}
	return t.next.RoundTrip(req)
}

var errLinkLocal = fmt.Errorf("%w: it leads to a link-local address, where no rule is", ErrInvalid)

// notLocalToLink sees the address that is about to be connected to: a name that resolves to a link-local address,
// today or only this second, does not slip past.
func notLocalToLink(_, dialled string, _ syscall.RawConn) error {
	addr, err := netip.ParseAddrPort(dialled)
	if err != nil || address.IsLocalToLink(addr.Addr()) {
		return errLinkLocal
	}
	return nil
}
