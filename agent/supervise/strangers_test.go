package supervise

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/twin"
)

// TestHelperForges is another user's process, which says what would be good to hear.
func TestHelperForges(t *testing.T) {
	text := os.Getenv("FORGED")
	if text == "" {
		return
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" && os.Getenv("REDIRECT") != "" {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
			return
		}
		_, _ = w.Write([]byte(text))
	}))
	defer server.Close()
	twin.Tell(strings.TrimPrefix(server.URL, "http://"))
}

var guarded = host.Seen{Health: host.Health{Phase: host.Installed}, At: time.Unix(1, 0)}

// While the agent is down anyone on the node can listen where it would, and say that it is ready.
func TestSuperviseBelievesNoStranger(t *testing.T) {
	_, address := twin.Start(t, "TestHelperForges", twin.Nobody(), "FORGED=cosentry_policies 3\n")
	from := hostAt(t, "http: {address: \""+address+"\"}\n")
	if why := notReady(t.Context(), guarded, from.Agent); !strings.Contains(why, "user 65534") {
		t.Errorf("ready by the word of user 65534: %q", why)
	}
	if m := metricsOf(t, guarded, from); m["cosentry_host_agent_up"] != 0 || m["cosentry_policies"] != 0 {
		t.Errorf("metrics by the word of user 65534: %v", m)
	}
}

// Not even the agent's own address may send supervise elsewhere.
func TestSuperviseFollowsNoRedirect(t *testing.T) {
	_, address := twin.Start(t, "TestHelperForges", nil, "FORGED=ok", "REDIRECT=1")
	from := hostAt(t, "http: {address: \""+address+"\"}\n")
	if why := notReady(t.Context(), guarded, from.Agent); !strings.Contains(why, "302") {
		t.Errorf("ready by a redirect: %q", why)
	}
}

// Empty is a good setting: then the agent's socket is what tells.
func TestAgentWithoutHTTPIsAskedOnItsSocket(t *testing.T) {
	from := hostAt(t, "http: {address: \"\"}\nlisten: /run/a.sock\n")
	socket := filepath.Join(from.Agent.Root, "run", "a.sock")
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	if why := notReady(t.Context(), guarded, from.Agent); !strings.Contains(why, "a.sock") {
		t.Errorf("no socket: %q", why)
	}
	if m := metricsOf(t, guarded, from); m["cosentry_host_agent_up"] != 0 {
		t.Error("up without a socket")
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	answering := grpc.NewServer()
	go func() { _ = answering.Serve(l) }()
	t.Cleanup(answering.Stop)
	if why := notReady(t.Context(), guarded, from.Agent); why != "" {
		t.Errorf("it answers on its socket: %q", why)
	}
	if m := metricsOf(t, guarded, from); m["cosentry_host_agent_up"] != 1 {
		t.Error("not up although it answers on its socket")
	}
	faulty := guarded
	faulty.Faults = []host.Fault{{What: host.FaultKubelet, Why: "elsewhere"}}
	if notReady(t.Context(), faulty, from.Agent) == "" {
		t.Error("ready whatever the host is")
	}
}

// Who scrapes by annotations has one port a pod. sync's metrics come with supervise's, by the word of the user who may write what
// the cluster says, and nobody else's.
func TestSuperviseShowsSyncsMetrics(t *testing.T) {
	const text = "cosentry_sync_broken 1\ncosentry_policies 7\ncosentry_host_installed 7\n"
	_, address := twin.Start(t, "TestHelperForges", twin.Nobody(), "FORGED="+text)
	from := hostWithAgent(t, "cosentry_policies 3\ncosentry_sync_broken 5\n")
	if m := metricsOf(t, guarded, from); m["cosentry_host_sync_up"] != 0 || m["cosentry_sync_broken"] != 0 {
		t.Errorf("sync is down: %v", m)
	}
	from.Sync.Address = address
	if m := metricsOf(t, guarded, from); m["cosentry_host_sync_up"] != 0 || m["cosentry_sync_broken"] != 0 {
		t.Errorf("by the word of a user whose folder it is not: %v", m)
	}
	if err := os.Chown(filepath.Join(from.Agent.Root, "cluster"), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if m := metricsOf(t, guarded, from); m["cosentry_host_sync_up"] != 1 || m["cosentry_sync_broken"] != 1 || m["cosentry_policies"] != 3 || m["cosentry_host_installed"] != 1 {
		t.Errorf("by the word of sync's user: %v", m)
	}
	// It serves on all addresses of the node.
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	every := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) })}}
	every.Start()
	defer every.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	from.Sync.Address = "127.0.0.1:" + port
	if m := metricsOf(t, guarded, from); m["cosentry_host_sync_up"] != 1 {
		t.Errorf("on every address: %v", m)
	}
	off := hostAt(t, "")
	off.Sync.Address = ""
	if _, there := metricsOf(t, guarded, off)["cosentry_host_sync_up"]; there {
		t.Error("sync is missed where it is not asked")
	}
}
