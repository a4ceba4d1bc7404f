package sight

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// What the commands of the DaemonSet's pod show is on two addresses. Every pod of the cluster can connect to that of the
// metrics. If kubelet's probes had to share it, whoever fills it could have the pod killed, in the middle of a repair too.
const (
	// maxConnsEach is for one remote address: a Prometheus needs one, two of them behind one address need two.
	maxConnsEach = 4
	// Whoever scrapes sends a line and some headers, and reads at once.
	publicRequestTimeout = 2 * time.Second
	// publicAnswerTimeout is what Prometheus waits for by default.
	publicAnswerTimeout = 10 * time.Second
	// probeTimeout is for whoever connects from the node itself: kubelet, or somebody who wants to keep kubelet waiting.
	probeTimeout = time.Second
	maxProbes    = 512
)

// ServePublic answers on an address of the network until ctx ends, each remote address on a few connections at a time.
func ServePublic(ctx context.Context, address string, h http.Handler, log *slog.Logger) error {
	few := func(l net.Listener) net.Listener { return limit(limitEach(l, maxConnsEach), maxConns) }
	return serveOn(ctx, tcp(address), public(h, log), few, log, bindAgain)
}

func public(h http.Handler, log *slog.Logger) *http.Server {
	s := bounded(h, log)
	s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout = publicRequestTimeout, publicRequestTimeout, publicAnswerTimeout
	return s
}

// ServeProbes answers kubelet's probes on a loopback address until ctx ends, one on each connection, and refuses any other
// address.
func ServeProbes(ctx context.Context, address string, h http.Handler, log *slog.Logger) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("the address for probes: %w", err)
	}
	if !at.Addr().IsLoopback() {
		return fmt.Errorf("the address for probes, %s, is not a loopback address such as 127.0.0.1: others than this node could keep kubelet from it", address)
	}
	few := func(l net.Listener) net.Listener { return newCrowd(l, maxProbes) }
	return serveOn(ctx, tcp(address), probes(h, log), few, log, bindAgain)
}

func probes(h http.Handler, log *slog.Logger) *http.Server {
	s := bounded(whole(h), log)
	s.ConnContext = withGuest
	s.ReadHeaderTimeout, s.ReadTimeout = probeTimeout, probeTimeout
	s.SetKeepAlivesEnabled(false)
	return s
}

// eachLimited accepts up to n connections of one remote address, and closes what comes beyond: it must not wait in front of
// the others.
type eachLimited struct {
	net.Listener
	n    int
	mu   sync.Mutex
	open map[netip.Prefix]int
}

func limitEach(l net.Listener, n int) *eachLimited {
	return &eachLimited{Listener: l, n: n, open: map[netip.Prefix]int{}}
}

func (l *eachLimited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who := remote(c)
		if l.enter(who) {
			return &placed{Conn: c, leave: sync.OnceFunc(func() { l.leave(who) })}, nil
		}
		_ = c.Close()
	}
}

func (l *eachLimited) enter(who netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[who] >= l.n {
		return false
	}
	l.open[who]++
	return true
}

func (l *eachLimited) leave(who netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[who]--; l.open[who] <= 0 {
		delete(l.open, who)
	}
}

// remote is whose connection it is. A host has as many IPv6 addresses as it likes, of one network of 64 bits. What has no
// address is all one.
func remote(c net.Conn) netip.Prefix {
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	return network(tcp.AddrPort().Addr())
}

func network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
