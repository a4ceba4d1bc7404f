package supervise

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/twin"
)

// TestHelperForges is another user's process, which says what would be good to hear.
func TestHelperForges(t *testing.T) {
	text := os.Getenv("FORGED")
	if text == "" {
		return
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }))
	defer server.Close()
	twin.Tell(strings.TrimPrefix(server.URL, "http://"))
}

var guarded = host.Seen{Health: host.Health{Phase: host.Installed}, At: time.Unix(1, 0)}

// Anyone on the node can listen on the agent's loopback address, root of a container in the host's network among them, and say that it
// is ready. It is not asked there.
func TestSuperviseBelievesNoStranger(t *testing.T) {
	for name, who := range map[string]*syscall.SysProcAttr{"another user": twin.Nobody(), "root of a container": nil} {
		_, address := twin.Start(t, "TestHelperForges", who, "FORGED=cosentry_policies 3\n")
		from := hostAt(t, "http: {address: \""+address+"\"}\n")
		if why := notReady(t.Context(), guarded, from.Agent); !strings.Contains(why, "no agent answers") {
			t.Errorf("ready by the word of %s: %q", name, why)
		}
		if m := metricsOf(t, guarded, from); m["cosentry_host_agent_up"] != 0 || m["cosentry_policies"] != 0 {
			t.Errorf("metrics by the word of %s: %v", name, m)
		}
	}
}

// Not even the agent may send supervise elsewhere.
func TestSuperviseFollowsNoRedirect(t *testing.T) {
	from := hostAt(t, "")
	agentOn(t, from.Agent.Root, http.RedirectHandler("/elsewhere", http.StatusFound))
	if why := notReady(t.Context(), guarded, from.Agent); !strings.Contains(why, "302") {
		t.Errorf("ready by a redirect: %q", why)
	}
}

// Empty is a good setting: people and Prometheus have no address then, and supervise asks where it always does.
func TestAgentWithoutAnAddressIsAskedAsWell(t *testing.T) {
	from := hostAt(t, "http: {address: \"\"}\n")
	if why := notReady(t.Context(), guarded, from.Agent); !strings.Contains(why, "agent.sock") {
		t.Errorf("no socket: %q", why)
	}
	unready := true
	agentOn(t, from.Agent.Root, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if unready {
			http.Error(w, "no policies are in force", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("cosentry_policies 3\n"))
	}))
	if why := notReady(t.Context(), guarded, from.Agent); !strings.Contains(why, "no policies are in force") {
		t.Errorf("ready without policies: %q", why)
	}
	unready = false
	if why := notReady(t.Context(), guarded, from.Agent); why != "" {
		t.Errorf("it is ready: %q", why)
	}
	if m := metricsOf(t, guarded, from); m["cosentry_host_agent_up"] != 1 || m["cosentry_policies"] != 3 {
		t.Errorf("its metrics: %v", m)
	}
	faulty := guarded
	faulty.Faults = []host.Fault{{What: host.FaultKubelet, Why: "elsewhere"}}
	if notReady(t.Context(), faulty, from.Agent) == "" {
		t.Error("ready whatever the host is")
	}
}

// An agent that hangs takes nothing of sync's time.
func TestSyncIsShownWhileTheAgentHangs(t *testing.T) {
	_, address := twin.Start(t, "TestHelperForges", nil, "FORGED=cosentry_sync_broken 1\n")
	from := hostAt(t, "")
	from.Sync.Address = address
	agentListens(t, from.Agent.Root)
	if m := metricsOf(t, guarded, from); m["cosentry_host_sync_up"] != 1 || m["cosentry_sync_broken"] != 1 || m["cosentry_host_agent_up"] != 0 {
		t.Errorf("%v", m)
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
