package sight

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// connect opens n connections and sends text on each.
func connect(t *testing.T, address string, n int, text string) []net.Conn {
	t.Helper()
	var conns []net.Conn
	for range n {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	return conns
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Anyone on the node can connect as often as they like: the descriptors that kubelet's
// connections need must not go to them, and whoever is silent must make room.
func TestIdleClientsTakeNothingAway(t *testing.T) {
	for name, text := range map[string]string{
		"silent":               "",
		"a request, then idle": "GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n",
		"half a request":       "GET /healthz HTTP/1.1\r\nHost:",
		"a body without end":   "GET /healthz HTTP/1.1\r\nHost: n\r\nContent-Length: 100000\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := limit(listen(t), maxConns)
			address := l.Addr().String()
			served := make(chan error, 1)
			server := newServer(nothing, slog.New(slog.DiscardHandler))
			for _, limit := range []*time.Duration{&server.ReadHeaderTimeout, &server.ReadTimeout, &server.WriteTimeout, &server.IdleTimeout} {
				if *limit <= 0 || *limit > 30*time.Second {
					t.Errorf("a limit of %v", *limit)
				}
				*limit /= 20 // nobody wants to wait for the real ones
			}
			go func() { served <- server.Serve(l) }()
			t.Cleanup(func() {
				server.Close()
				<-served
			})
			connect(t, address, 3*maxConns, text)
			eventually(t, "all places are taken", func() bool { return len(l.places) == maxConns })
			eventually(t, "the idle are sent away and the next is served", func() bool { return answers(address) })
		})
	}
}

func TestServeIsLimited(t *testing.T) {
	address := startServing(t, nothing)
	var answered atomic.Int32
	for _, c := range connect(t, address, 2*maxConns, "GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n") {
		go func() {
			if n, _ := c.Read(make([]byte, 1)); n == 1 {
				answered.Add(1)
			}
		}()
	}
	eventually(t, "as many as there are places are answered", func() bool { return answered.Load() >= maxConns })
	<-time.After(50 * time.Millisecond) // nothing more is to come
	if n := answered.Load(); n > maxConns {
		t.Errorf("%d connections at a time, at most %d are meant", n, maxConns)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestNoMoreConnectionsThanPlaces(t *testing.T) {
	inner := listen(t)
	l := limit(inner, 2)
	accepted := make(chan net.Conn, 10)
	ended := make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- c
		}
	}()
	connect(t, inner.Addr().String(), 4, "")
	first, second := <-accepted, <-accepted
	before := descriptors(t)
	select {
	case <-accepted:
		t.Fatal("a third connection was accepted")
	case <-time.After(50 * time.Millisecond): // nothing is to be waited for
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	first.Close() // gives back no second place
	third := <-accepted
	select {
	case <-accepted:
		t.Error("closing twice made two places")
	case <-time.After(50 * time.Millisecond):
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors after, %d before", after, before)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("Accept goes on waiting for a place after Close")
	}
	second.Close()
	third.Close()
}

func TestHeadersAreBounded(t *testing.T) {
	address := startServing(t, nothing)
	req, err := http.NewRequest(http.MethodGet, "http://"+address+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X", strings.Repeat("x", 4*maxHeader))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of %d bytes: %s", 4*maxHeader, resp.Status)
	}
}

// What net/http has to say stands in the agent's log like everything else: one plain line
// breaks whoever reads it as JSON.
func TestEveryLogLineIsJSON(t *testing.T) {
	var log buffer
	s := nothing
	s.Ready = func() error { panic("a fault of ours") }
	address := freeAddress(t)
	start(t, address, s, slog.New(slog.NewJSONHandler(&log, nil)))
	eventually(t, "it answers", func() bool { return answers(address) })
	if resp, err := http.Get("http://" + address + "/readyz"); err == nil {
		resp.Body.Close()
		t.Fatalf("the handler did not panic: %s", resp.Status)
	}
	eventually(t, "the panic is logged", func() bool { return strings.Contains(log.String(), "a fault of ours") })
	for line := range strings.Lines(log.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

// TestTakenAddressIsLoggedOnce: not at each try, and once more when it is over.
func TestTakenAddressIsLoggedOnce(t *testing.T) {
	var log buffer
	taken := listen(t)
	address := taken.Addr().String()
	start(t, address, nothing, slog.New(slog.NewTextHandler(&log, nil)))
	eventually(t, "it is logged", func() bool { return strings.Contains(log.String(), "cannot be served") })
	tries := time.Now().Add(200 * time.Millisecond) // some twenty
	eventually(t, "it was tried some times", func() bool { return time.Now().After(tries) })
	if n := strings.Count(log.String(), "cannot be served"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
	taken.Close()
	eventually(t, "it answers", func() bool { return answers(address) })
	if n := strings.Count(log.String(), "are served"); n != 1 {
		t.Errorf("the end was logged %d times:\n%s", n, log.String())
	}
}
