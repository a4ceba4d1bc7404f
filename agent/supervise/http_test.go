package supervise

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cosentry/cosentry/agent/firsthand"
	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/sight"
)

// shown is what a handler answers.
func shown(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

// The network is shown metrics, and whatever else supervise knows is for the node alone.
func TestSuperviseShowsTheNetworkMetricsAlone(t *testing.T) {
	h := Metrics(func() host.Seen { return host.Seen{} }, hostWithAgent(t, "cosentry_policies 3\n"))
	if code, text := shown(t, h, "/metrics"); code != http.StatusOK || !strings.Contains(text, "\ncosentry_host_installed 0\n") {
		t.Errorf("%d: %s", code, text)
	}
	for _, path := range []string{"/healthz", "/readyz", "/status", "/"} {
		if code, text := shown(t, h, path); code != http.StatusNotFound {
			t.Errorf("%s: %d: %s", path, code, text)
		}
	}
}

// aged has a page be as old as its readers take it anew.
func (p *page) aged() { p.at = time.Now().Add(-2 * pageAge) }

// Reasons have paths and errors in them. They are for the log, once each.
func TestReadinessTellsItsReasonsToTheLogAlone(t *testing.T) {
	var log bytes.Buffer
	why := "dropin: /etc/systemd/system/kubelet.service.d/10-cosentry.conf is missing\nagent: dial unix /run/cosentry/agent.sock: connection refused"
	r := newReadiness(slog.New(slog.NewTextHandler(&log, nil)), func(context.Context) string { return why })
	for range 3 {
		if code, text := shown(t, r, "/readyz"); code != http.StatusServiceUnavailable || text != "not ready; the log says why\n" {
			t.Errorf("%d: %q", code, text)
		}
		r.aged()
	}
	if n := strings.Count(log.String(), "10-cosentry.conf is missing"); n != 1 {
		t.Errorf("the reason was logged %d times:\n%s", n, log.String())
	}
	why = ""
	if code, text := shown(t, r, "/readyz"); code != http.StatusOK || text != "ok\n" {
		t.Errorf("%d: %q", code, text)
	}
	if !strings.Contains(log.String(), "the agent is ready") {
		t.Errorf("the log does not say that it is ready again:\n%s", log.String())
	}
}

// An agent that hangs: its kernel accepts, and nobody answers. kubelet waits as long as the manifest says, and the log says why.
func TestWhyAHungAgentIsNotReadyIsLogged(t *testing.T) {
	from := hostAt(t, "")
	agentListens(t, from.Agent.Root)
	var log bytes.Buffer
	r := newReadiness(slog.New(slog.NewTextHandler(&log, nil)), func(ctx context.Context) string { return notReady(ctx, guarded, from.Agent) })
	gone, hangUp := context.WithCancel(t.Context())
	hangUp() // it is asked all the same, and by nobody's patience but its own
	r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(gone, http.MethodGet, "/readyz", nil))
	for !strings.Contains(log.String(), "agent.sock") { // who hung up may have been turned away first
		if code, _ := shown(t, r, "/readyz"); code != http.StatusServiceUnavailable {
			t.Fatalf("ready by an agent that hangs: %d", code)
		}
		r.aged()
	}
	if strings.Contains(log.String(), "canceled") {
		t.Errorf("who hung up is the reason:\n%s", log.String())
	}
}

// What is asked has to end within what kubelet waits for a probe by the manifest, and a page that has to wait for another within what
// the network is given.
func TestQuestionsEndBeforeWhoAskedHangsUp(t *testing.T) {
	manifest, err := os.ReadFile(filepath.Join("..", "..", "deploy", "base", "daemonset.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	probe := regexp.MustCompile(`(?s)/readyz, host: 127\.0\.0\.1, port: 9480.*?timeoutSeconds: (\d+)`).FindSubmatch(manifest)
	if probe == nil {
		t.Fatal("the manifest has no such probe")
	}
	seconds, err := strconv.Atoi(string(probe[1]))
	if err != nil || askTimeout+time.Second > time.Duration(seconds)*time.Second {
		t.Errorf("kubelet waits %d s, and the agent may take %v", seconds, askTimeout)
	}
	if askTimeout >= pageTimeout || 2*pageTimeout >= 10*time.Second {
		t.Errorf("a page takes up to %v", pageTimeout)
	}
}

// A node on which all hang still shows what is known of it, to who waits for as long as Prometheus does.
func TestMetricsOfANodeOnWhichAllHang(t *testing.T) {
	from := hostAt(t, "")
	agentListens(t, from.Agent.Root)
	hung, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	from.Sync.Address = hung.Addr().String()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- sight.ServePublic(ctx, address, Metrics(func() host.Seen { return guarded }, from), from.Log)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	for end := time.Now().Add(30 * time.Second); ; {
		client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + address + "/metrics")
		if errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(end) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(text), "\ncosentry_host_agent_up 0\n") || !strings.Contains(string(text), "\ncosentry_host_sync_up 0\n") {
			t.Errorf("%v:\n%s", err, text)
		}
		return
	}
}

// A page is made for one who asks at a time, so that a hundred askers are to the agent like one; and one who hangs up
// gives the others no page that lacks what was being fetched.
func TestOnePageIsMadeAtATime(t *testing.T) {
	var mu sync.Mutex
	making, most, made := 0, 0, 0
	begun, goOn := make(chan struct{}, 100), make(chan struct{})
	p := newPage(func(ctx context.Context) ([]byte, error) {
		mu.Lock()
		making++
		most, made = max(most, making), made+1
		mu.Unlock()
		begun <- struct{}{}
		<-goOn
		mu.Lock()
		making--
		mu.Unlock()
		if ctx.Err() != nil {
			return []byte("half a page"), nil
		}
		return []byte("page"), nil
	})
	gone, hangUp := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { _, _ = p.get(gone) })
	<-begun
	for range 50 {
		all.Go(func() {
			if text, err := p.get(t.Context()); err != nil || string(text) != "page" {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
	hangUp()
	if _, err := p.get(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("who hung up goes on waiting: %v", err)
	}
	close(goOn)
	all.Wait()
	if most != 1 {
		t.Errorf("%d pages were made at a time", most)
	}
	p.aged()
	before := made
	if _, err := p.get(t.Context()); err != nil || made != before+1 {
		t.Errorf("an old page is given out again (%v)", err)
	}
}

// looksOnce is a host that is whole, and ends its supervision with the first look.
type looksOnce struct{ end context.CancelFunc }

func (l looksOnce) Look(context.Context) host.Health {
	return host.Health{Phase: host.Installed}
}
func (l looksOnce) Repair(context.Context) error { return nil }
func (l looksOnce) Keep(context.Context) error   { l.end(); return nil }

// A supervisor that hangs is started anew, and one that mends is not: a mending that is broken off leaves a host halfway.
func TestSupervisorIsAliveWhileItMendsAndNotForever(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	for name, c := range map[string]struct {
		mending time.Duration
		looked  bool
		want    int
	}{
		"it begins to look":    {time.Hour, false, http.StatusOK},
		"its first look hangs": {0, false, http.StatusServiceUnavailable},
		"it may be mending":    {time.Hour, true, http.StatusOK},
		"it looks no more":     {0, true, http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, end := context.WithCancel(t.Context())
			defer end()
			s := &host.Supervisor{Host: looksOnce{end}, Log: quiet, Every: time.Nanosecond, Patience: 1, RepairTimeout: c.mending}
			if c.looked {
				if err := s.Run(ctx); err != nil {
					t.Fatal(err)
				}
			}
			h := Probes(s, firsthand.Agent{Root: t.TempDir()}, quiet)
			if code, text := shown(t, h, "/healthz"); code != c.want {
				t.Errorf("%d: %s", code, text)
			}
			if code, text := shown(t, h, "/readyz"); code != http.StatusServiceUnavailable || strings.Contains(text, "/") {
				t.Errorf("ready without an agent, or with its reasons: %d: %s", code, text)
			}
		})
	}
}
