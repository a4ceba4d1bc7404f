package main

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
	agent := hostAt(t, "http: {address: \""+address+"\"}\n")
	if why := notReady(t.Context(), guarded, agent); !strings.Contains(why, "user 65534") {
		t.Errorf("ready by the word of user 65534: %q", why)
	}
	if m := metricsOf(t, guarded, agent); m["cosentry_host_agent_up"] != 0 || m["cosentry_policies"] != 0 {
		t.Errorf("metrics by the word of user 65534: %v", m)
	}
}

// Not even the agent's own address may send supervise elsewhere.
func TestSuperviseFollowsNoRedirect(t *testing.T) {
	_, address := twin.Start(t, "TestHelperForges", nil, "FORGED=ok", "REDIRECT=1")
	agent := hostAt(t, "http: {address: \""+address+"\"}\n")
	if why := notReady(t.Context(), guarded, agent); !strings.Contains(why, "302") {
		t.Errorf("ready by a redirect: %q", why)
	}
}

// kubelet's health decides whether an installation stays: nobody else says that it is well.
func TestKubeletIsNotWellByTheWordOfAStranger(t *testing.T) {
	_, address := twin.Start(t, "TestHelperForges", twin.Nobody(), "FORGED=ok")
	if err := (hostProofs{healthz: "http://" + address + "/healthz"}).Healthy(t.Context()); err == nil || !strings.Contains(err.Error(), "user 65534") {
		t.Errorf("well by the word of user 65534: %v", err)
	}
	_, address = twin.Start(t, "TestHelperForges", nil, "FORGED=ok")
	if err := (hostProofs{healthz: "http://" + address + "/healthz"}).Healthy(t.Context()); err != nil {
		t.Error(err)
	}
}

// Empty is a good setting: then the agent's socket is what tells.
func TestAgentWithoutHTTPIsAskedOnItsSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "co")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	agent := hostAt(t, "http: {address: \"\"}\nlisten: /run/a.sock\n")
	socket := filepath.Join(agent.root, "run", "a.sock")
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	if why := notReady(t.Context(), guarded, agent); !strings.Contains(why, "a.sock") {
		t.Errorf("no socket: %q", why)
	}
	if m := metricsOf(t, guarded, agent); m["cosentry_host_agent_up"] != 0 {
		t.Error("up without a socket")
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	answering := grpc.NewServer()
	go func() { _ = answering.Serve(l) }()
	t.Cleanup(answering.Stop)
	if why := notReady(t.Context(), guarded, agent); why != "" {
		t.Errorf("it answers on its socket: %q", why)
	}
	if m := metricsOf(t, guarded, agent); m["cosentry_host_agent_up"] != 1 {
		t.Error("not up although it answers on its socket")
	}
	faulty := guarded
	faulty.Faults = []host.Fault{{What: host.FaultKubelet, Why: "elsewhere"}}
	if notReady(t.Context(), faulty, agent) == "" {
		t.Error("ready whatever the host is")
	}
}

// Who scrapes by annotations has one port a pod. sync's metrics come with supervise's, by the word of the user who may write what
// the cluster says, and nobody else's.
func TestSuperviseShowsSyncsMetrics(t *testing.T) {
	const text = "cosentry_sync_broken 1\ncosentry_policies 7\ncosentry_host_installed 7\n"
	_, address := twin.Start(t, "TestHelperForges", twin.Nobody(), "FORGED="+text)
	agent := hostWithAgent(t, "cosentry_policies 3\ncosentry_sync_broken 5\n")
	if m := metricsOf(t, guarded, agent); m["cosentry_host_sync_up"] != 0 || m["cosentry_sync_broken"] != 0 {
		t.Errorf("sync is down: %v", m)
	}
	agent.sync = address
	if m := metricsOf(t, guarded, agent); m["cosentry_host_sync_up"] != 0 || m["cosentry_sync_broken"] != 0 {
		t.Errorf("by the word of a user whose folder it is not: %v", m)
	}
	if err := os.Chown(filepath.Join(agent.root, "cluster"), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if m := metricsOf(t, guarded, agent); m["cosentry_host_sync_up"] != 1 || m["cosentry_sync_broken"] != 1 || m["cosentry_policies"] != 3 || m["cosentry_host_installed"] != 1 {
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
	agent.sync = "127.0.0.1:" + port
	if m := metricsOf(t, guarded, agent); m["cosentry_host_sync_up"] != 1 {
		t.Errorf("on every address: %v", m)
	}
	off := hostAt(t, "")
	off.sync = ""
	if _, there := metricsOf(t, guarded, off)["cosentry_host_sync_up"]; there {
		t.Error("sync is missed where it is not asked")
	}
}
