package sight

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var plain = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })

// serving runs a server until the test ends.
func serving(t *testing.T, serve func(context.Context, string, http.Handler, *slog.Logger) error, address string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, address, plain, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// from is a client of its own connections from that address.
func from(address string) *http.Client {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	return &http.Client{Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}}
}

func ok(client *http.Client, url string) bool {
	resp, err := client.Get(url)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Any pod can connect to the metrics. One that takes all the connections it can get keeps neither another from the
// metrics, nor kubelet from its probes.
func TestOneRemoteAddressTakesNoOthersPlace(t *testing.T) {
	inner := listen(t)
	each := limitEach(inner, maxConnsEach)
	server := public(plain, slog.New(slog.DiscardHandler))
	server.ReadHeaderTimeout, server.ReadTimeout = 0, 0 // the worst case: the silent are never sent away
	served := make(chan error, 1)
	go func() { served <- server.Serve(limit(each, maxConns)) }()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	address := inner.Addr().String()
	probe := freeAddress(t)
	serving(t, ServeProbes, probe)

	attacker := connect(t, address, 200, "GET /healthz HTTP/1.1\r\n")
	for _, c := range attacker[maxConnsEach:] { // each is sent away and none waits
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Fatal(err)
		}
	}
	if ok(from("127.0.0.1"), "http://"+address) {
		t.Error("the address that has its connections got another")
	}
	if !ok(from("127.0.0.2"), "http://"+address) {
		t.Error("another address is not served")
	}
	eventually(t, "the probe is answered", func() bool { return ok(from("127.0.0.1"), "http://"+probe) })

	for _, c := range attacker {
		c.Close()
	}
	eventually(t, "the places are given back", func() bool { return ok(from("127.0.0.1"), "http://"+address) })
	eventually(t, "nothing is remembered", func() bool {
		each.mu.Lock()
		defer each.mu.Unlock()
		return len(each.open) == 0
	})
}

func TestProbesAreServedOnLoopbackAlone(t *testing.T) {
	for _, address := range []string{":9480", "0.0.0.0:9480", "[::]:9480", "192.0.2.1:9480", "localhost:9480", "[::ffff:0.0.0.0]:9480", "127.0.0.1", ""} {
		if err := ServeProbes(t.Context(), address, plain, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("probes are served on %q", address)
		}
	}
}

func TestWhoIsSilentIsSentAwaySoon(t *testing.T) {
	for name, s := range map[string]*http.Server{
		"metrics": public(plain, slog.New(slog.DiscardHandler)), "probes": probes(plain, slog.New(slog.DiscardHandler)),
	} {
		if s.ReadHeaderTimeout <= 0 || s.ReadHeaderTimeout > publicRequestTimeout || s.ReadTimeout <= 0 || s.ReadTimeout > publicRequestTimeout || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// One host has a network of IPv6 addresses, and is one.
func TestAHostIsOneWhateverAddressItChooses(t *testing.T) {
	for _, same := range [][2]string{{"2001:db8::1", "2001:db8::ffff:1"}, {"::ffff:192.0.2.1", "192.0.2.1"}, {"fe80::1%eth0", "fe80::1%eth1"}} {
		if a, b := network(netip.MustParseAddr(same[0])), network(netip.MustParseAddr(same[1])); a != b || !a.IsValid() {
			t.Errorf("%s is %v, %s is %v", same[0], a, same[1], b)
		}
	}
	if network(netip.MustParseAddr("192.0.2.1")) == network(netip.MustParseAddr("192.0.2.2")) {
		t.Error("two hosts are one")
	}
}
