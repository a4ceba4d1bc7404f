package trust

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

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
	if ip, err := netip.ParseAddr(req.URL.Hostname()); err == nil && isLocalToLink(ip) {
		return nil, errLinkLocal
	}
	return t.next.RoundTrip(req)
}

var errLinkLocal = fmt.Errorf("%w: it leads to a link-local address, where no rule is", ErrInvalid)

// notLocalToLink sees the address that is about to be connected to: a name that resolves to a link-local address,
// today or only this second, does not slip past.
func notLocalToLink(_, address string, _ syscall.RawConn) error {
	addr, err := netip.ParseAddrPort(address)
	if err != nil || isLocalToLink(addr.Addr()) {
		return errLinkLocal
	}
	return nil
}

// metadata are clouds' metadata addresses that are not link-local: of AWS, Google, Oracle and Alibaba.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),
	netip.MustParseAddr("fd20:ce::254"),
	netip.MustParseAddr("fd00:c1::a9fe:a9fe"),
	netip.MustParseAddr("192.0.0.192"),
	netip.MustParseAddr("100.100.100.200"),
}

// nat64 is the prefix behind which a translator would reach IPv4 addresses.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

func isLocalToLink(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	return a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || slices.Contains(metadata, a)
}
