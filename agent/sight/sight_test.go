package sight

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var nothing = Sources{Metrics: http.NotFoundHandler(), Ready: func() error { return nil }, Status: func() Status { return Status{} }}

// freeAddress is one that was free a moment ago; Serve tries again should it be taken.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func start(t *testing.T, address string, s Sources, log *slog.Logger) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, tcp(address), s, log, 10*time.Millisecond) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long: %s", what)
		}
	}
}

// A status is asked for when much is wrong: that is when it is long.
func TestStatusOfAThousandThingsThatFailIsRead(t *testing.T) {
	s := nothing
	s.Status = func() (st Status) {
		for i := range 5000 {
			st.Trust = append(st.Trust, Trust{Name: fmt.Sprint(i, strings.Repeat("n", 200)), Error: strings.Repeat("e", 300)})
		}
		return st
	}
	if st, err := askedAlone(t, s).Status(t.Context()); err != nil || len(st.Trust) != 5000 {
		t.Errorf("%d things, error %v", len(st.Trust), err)
	}
}

func answers(address string) bool {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + address + "/healthz")
	if err == nil {
		resp.Body.Close()
	}
	return err == nil
}

func startServing(t *testing.T, s Sources) string {
	t.Helper()
	address := freeAddress(t)
	start(t, address, s, slog.New(slog.DiscardHandler))
	eventually(t, "it answers", func() bool { return answers(address) })
	return address
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestStatusComesBackAsItWas(t *testing.T) {
	want := Status{
		Version: "v1", Node: "n", Mode: "enforce", Listen: "/l", NotReady: "no", Runtime: "/r", RuntimeState: "READY",
		Started:   time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Policies:  Policies{Revision: "abc", Count: 1, Names: []string{"p"}, Warnings: 2, Broken: "b.yaml: bad"},
		NoMatch:   "deny",
		Decisions: map[string]map[string]uint64{"pull": {"allow": 3}},
		Audit:     Audit{Dir: "/a", Required: true, Sequence: 4, Hash: "h", Fault: "disk full", Queued: 2, Lost: 1},
	}
	got, err := askedAlone(t, Sources{Metrics: http.NotFoundHandler(), Ready: func() error { return nil }, Status: func() Status { return want }}).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestReadyzSaysWhyNot(t *testing.T) {
	var reason error
	address := startServing(t, Sources{Metrics: http.NotFoundHandler(), Ready: func() error { return reason }, Status: func() Status { return Status{} }})
	if code, _ := get(t, "http://"+address+"/readyz"); code != http.StatusOK {
		t.Errorf("ready: %d", code)
	}
	reason = errors.New("no policies")
	if code, body := get(t, "http://"+address+"/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no policies") {
		t.Errorf("not ready: %d %q", code, body)
	}
	if code, _ := get(t, "http://"+address+"/healthz"); code != http.StatusOK {
		t.Errorf("healthz: %d: an agent that cannot judge is still alive", code)
	}
}

func TestNothingElseIsServed(t *testing.T) {
	address := startServing(t, Sources{Metrics: http.NotFoundHandler(), Ready: func() error { return nil }, Status: func() Status { return Status{} }})
	for _, path := range []string{"/", "/debug/pprof/", "/status/x"} {
		if code, _ := get(t, "http://"+address+path); code != http.StatusNotFound {
			t.Errorf("%s: %d", path, code)
		}
	}
	resp, err := http.Post("http://"+address+"/status", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST /status: %d", resp.StatusCode)
	}
}

func TestNoAgentIsAnError(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "a")
	if _, err := (Agent{socket}).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "no agent answers on "+socket) || !strings.Contains(err.Error(), "listen in its settings") {
		t.Errorf("got %v", err)
	}
}
