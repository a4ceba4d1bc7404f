package sight

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cosentry/cosentry/agent/twin"
)

// shortDir is a folder that everybody can enter, with a path that leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// serveRoot serves on a socket until stop is called, or the test ends.
func serveRoot(t *testing.T, socket string, s Sources, log *slog.Logger) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ServeRoot(ctx, socket, s, log) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeRoot: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// askedAlone is an agent that root can ask.
func askedAlone(t *testing.T, s Sources) Agent {
	t.Helper()
	a := Agent{filepath.Join(shortDir(t), "agent.sock")}
	serveRoot(t, a.Socket, s, slog.New(slog.DiscardHandler))
	eventually(t, "it answers", func() bool { _, err := a.Get(t.Context(), "/healthz", 100); return err == nil })
	return a
}

// The folder is open to all, as that of kubelet's socket is.
func TestRootAloneIsToldOnTheSocket(t *testing.T) {
	a := askedAlone(t, nothing)
	if fi, err := os.Lstat(a.Socket); err != nil || fi.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if _, said := twin.Start(t, "TestHelperAsks", twin.Nobody(), "ASK="+a.Socket); !strings.HasPrefix(said, "only root can ask the agent: ") {
		t.Errorf("user 65534 is told %q", said)
	}
}

// TestHelperAsks is another user's process, which tells what comes of its question.
func TestHelperAsks(t *testing.T) {
	if socket := os.Getenv("ASK"); socket != "" {
		s, err := Agent{socket}.Status(t.Context())
		if err == nil {
			err = errors.New("mode " + s.Mode)
		}
		twin.Tell(err.Error())
	}
}

// Whoever has all connections of the loopback address takes none of root's.
func TestRootIsAnsweredWhileTheAddressIsFull(t *testing.T) {
	address := startServing(t, nothing)
	a := askedAlone(t, nothing)
	connect(t, address, 2*maxConns, "")
	for range 2 * maxConns {
		if _, err := a.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRootsConnectionsAreFewAsWell(t *testing.T) {
	release := make(chan struct{})
	var mu sync.Mutex
	under, most := 0, 0
	s := nothing
	s.Status = func() Status {
		mu.Lock()
		under++
		most = max(most, under)
		mu.Unlock()
		<-release
		mu.Lock()
		under--
		mu.Unlock()
		return Status{}
	}
	a := askedAlone(t, s)
	var all sync.WaitGroup
	for range 2 * maxConns {
		all.Go(func() { _, _ = a.Status(t.Context()) })
	}
	eventually(t, "all places are taken", func() bool { mu.Lock(); defer mu.Unlock(); return under == maxConns })
	close(release)
	all.Wait()
	if most > maxConns {
		t.Errorf("%d questions at a time", most)
	}
}

// An agent that was killed leaves its socket file, and the next one serves at once.
func TestSocketOfAKilledAgentIsReplaced(t *testing.T) {
	socket := filepath.Join(shortDir(t), "agent.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := os.Lstat(socket); err != nil {
		t.Fatal(err)
	}
	stop := serveRoot(t, socket, nothing, slog.New(slog.DiscardHandler))
	eventually(t, "it answers", func() bool { _, err := Agent{socket}.Status(t.Context()); return err == nil })
	stop()
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an agent that ended well leaves its socket: %v", err)
	}
}

// A socket that was removed while the agent runs is made anew, or root could not ask the agent until it is restarted.
func TestSocketThatWasRemovedIsMadeAnew(t *testing.T) {
	socket := filepath.Join(shortDir(t), "agent.sock")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serveSocket(ctx, socket, nothing, slog.New(slog.DiscardHandler), time.Millisecond) }()
	answers := func() bool { _, err := Agent{socket}.Status(t.Context()); return err == nil }
	eventually(t, "it answers", answers)
	for range 3 {
		if err := os.Remove(socket); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it answers again", answers)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What is no socket of an agent's stays as it is, wherever it leads.
func TestNothingElseIsReplacedByTheSocket(t *testing.T) {
	for name, put := range map[string]func(at, other string) error{
		"a file": func(at, _ string) error { return os.WriteFile(at, []byte("mine"), 0o600) },
		"a link to a file": func(at, other string) error {
			return errors.Join(os.WriteFile(other, nil, 0o600), os.Symlink(other, at))
		},
		"a link to where it is": func(at, other string) error { return os.Symlink(other, at) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			socket, other := filepath.Join(dir, "agent.sock"), filepath.Join(dir, "other")
			if err := put(socket, other); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(socket)
			if err != nil {
				t.Fatal(err)
			}
			var log buffer
			serveRoot(t, socket, nothing, slog.New(slog.NewTextHandler(&log, nil)))
			eventually(t, "the log says so", func() bool { return strings.Contains(log.String(), "not a socket") })
			if after, err := os.Lstat(socket); err != nil || !os.SameFile(before, after) {
				t.Errorf("it was replaced: %v, %v", after, err)
			}
			if fi, err := os.Lstat(other); err == nil && fi.Mode().Type() == fs.ModeSocket {
				t.Error("the link was followed")
			}
		})
	}
}

// A flood of silent connections to kubelet's probes keeps nobody out but those who are silent.
func TestSilentConnectionsKeepNoProbeOut(t *testing.T) {
	probe := freeAddress(t)
	serving(t, ServeProbes, probe)
	eventually(t, "it answers", func() bool { return answers(probe) })
	ctx, end := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	defer flood.Wait()
	defer end()
	var mu sync.Mutex
	opened := 0
	for _, text := range []string{"", "GET /healthz HTTP/1.1\r\nHost: n\r\n", "GET /healthz HTTP/1.1\r\nHost: n\r\nContent-Length: 100\r\n\r\n"} {
		for range 15 {
			flood.Go(func() {
				for ctx.Err() == nil {
					c, err := (&net.Dialer{}).DialContext(ctx, "tcp", probe)
					if err != nil {
						continue
					}
					mu.Lock()
					opened++
					mu.Unlock()
					_, _ = io.WriteString(c, text)
					flood.Go(func() {
						defer context.AfterFunc(ctx, func() { c.Close() })()
						_, _ = io.Copy(io.Discard, c) // until the server has had enough of it
						c.Close()
					})
				}
			})
		}
	}
	eventually(t, "there are more than there are places", func() bool { mu.Lock(); defer mu.Unlock(); return opened > 10*maxProbes })
	for range 20 {
		client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}} // as by the manifest
		resp, err := client.Get("http://" + probe + "/healthz")
		if err != nil {
			t.Fatalf("kubelet is kept out: %v", err)
		}
		resp.Body.Close()
	}
}

// Readiness takes a moment to be known: who waits for it is not thrown out by those who come after him and are silent. One whose request
// has a body that does not come is silent too.
func TestProbeThatIsBeingAnsweredIsSpared(t *testing.T) {
	asked, release := make(chan struct{}, 2), make(chan struct{})
	slow := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-release
		_, _ = io.WriteString(w, "ok")
	})
	inner := listen(t)
	server := probes(slow, slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- server.Serve(newCrowd(inner, 4)) }()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	address := inner.Addr().String()
	bodiless := connect(t, address, 1, "GET /readyz HTTP/1.1\r\nHost: n\r\nContent-Length: 100\r\n\r\n")[0]
	<-asked
	waiting := connect(t, address, 1, "GET /readyz HTTP/1.1\r\nHost: n\r\n\r\n")[0]
	<-asked
	for _, c := range connect(t, address, 8, "")[:5] { // as many as have to go
		_, _ = io.Copy(io.Discard, c)
	}
	close(release)
	if text, _ := io.ReadAll(waiting); !strings.HasPrefix(string(text), "HTTP/1.1 200 ") {
		t.Errorf("who had asked got %q", text)
	}
	if text, _ := io.ReadAll(bodiless); len(text) > 0 {
		t.Errorf("whose body did not come got %q", text)
	}
}

// Those who are silent go first, oldest first; those who asked go only where they have taken most of the places.
func TestWhoIsSilentMakesRoom(t *testing.T) {
	inner := listen(t)
	l := newCrowd(inner, 4)
	defer l.Close()
	var guests []*guest
	come := func() *guest {
		connect(t, inner.Addr().String(), 1, "")
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		guests = append(guests, c.(*guest))
		return guests[len(guests)-1]
	}
	there := func() (text string) {
		var b bytes.Buffer
		for i, g := range guests {
			switch g.in {
			case l.silent:
				b.WriteByte(byte('a' + i))
			case l.asked:
				b.WriteByte(byte('A' + i))
			}
		}
		return b.String()
	}
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() { come(); come().ask(); come(); come() }, "aBcd"},
		{func() { come() }, "Bcde"},
		{func() { guests[0].ask(); guests[0].Close() }, "Bcde"},
		{func() { guests[2].ask(); guests[3].ask() }, "BCDe"},
		{func() { come() }, "CDef"},
		{func() { guests[4].Close(); guests[4].Close() }, "CDf"},
		{func() { come() }, "CDfg"},
		{func() { come() }, "CDgh"},
	} {
		if step.do(); there() != step.want {
			t.Errorf("there are %s, want %s", there(), step.want)
		}
	}
}
