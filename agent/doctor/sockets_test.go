package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cosentry/cosentry/agent/host/peers"
	"github.com/cosentry/cosentry/systemd/manager"
)

// From kubelet to the runtime: who listens, who is told what, and who is connected.
func TestFaultsOnTheWayToTheRuntimeAreNamed(t *testing.T) {
	named(t, map[string]fault{
		"a socket that cannot be reached": {"socket", func(t *testing.T, n *node) {
			if err := os.Symlink("cosentry", filepath.Join(n.Root, "run")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("run", filepath.Join(n.Root, "cosentry")); err != nil {
				t.Fatal(err)
			}
		}, Fail, "cannot be looked at, and kubelet can start no pod without it: too many", "cosentry.socket"},
		"a dead agent":               {"agent", func(_ *testing.T, n *node) { n.status, n.silent = nil, errors.New("connection refused") }, Fail, "connection refused", "journalctl"},
		"an agent that cannot judge": {"agent", func(_ *testing.T, n *node) { n.status.NotReady = "no policies" }, Fail, "no policies", ""},
		"another version":            {"agent", func(_ *testing.T, n *node) { n.status.Version = "v0" }, Warn, "version v0", "same version"},
		"settings after the start":   {"agent", func(_ *testing.T, n *node) { n.status.Started = time.Now().Add(-time.Hour) }, Warn, "not in force", "restart"},
		"an older program that runs": {"agent", func(_ *testing.T, n *node) {
			unit("cosentry.service", func(u *manager.Unit) { u.MainPID = 60 })(nil, n)
			n.state.Agent.Path = "/opt/cosentry/bin/cosentry-2"
			n.socket.Listeners[1].Exe = "/opt/cosentry/bin/cosentry-1"
		}, Warn, "cosentry-1, and /opt/cosentry/bin/cosentry-2", "restart"},
		"no runtime":                   {"runtime", func(*testing.T, *node) {}, Fail, "does not answer", "runtime.endpoint"},
		"no socket":                    {"socket", func(*testing.T, *node) {}, Fail, "no socket /run/cosentry/containerd.sock", "cosentry.socket"},
		"a file in the socket's place": {"socket", func(t *testing.T, n *node) { n.write(t, n.config.Listen, "") }, Fail, "is not a socket", "move it away"},
		"the runtime's socket in the agent's place": {"socket", func(t *testing.T, n *node) {
			n.listenAt(t, n.config.Listen)
			n.socket.Listeners = n.runtime.Listeners
		}, Fail, "served by the runtime itself", "find out who"},
		"another's socket in the agent's place": {"socket", func(t *testing.T, n *node) {
			n.listenAt(t, n.config.Listen)
			n.socket.Listeners = []peers.Process{{PID: 99, Name: "cosentry", Unit: "session-1.scope"}}
		}, Fail, `served by "cosentry" (process 99`, "find out who"},
		"a socket that is open to all": {"socket", func(t *testing.T, n *node) {
			n.listenAt(t, n.config.Listen)
			if err := os.Chmod(filepath.Join(n.Root, n.config.Listen), 0o666); err != nil {
				t.Fatal(err)
			}
		}, Fail, "open to everybody", "restart"},
		"kubelet told the runtime's socket": {"kubelet-endpoint", func(t *testing.T, n *node) {
			n.write(t, "/var/lib/kubelet/config.yaml", "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n")
		}, Fail, "told to use unix:///run/containerd/containerd.sock", "install"},
		"kubelet told to pull past the agent": {"kubelet-endpoint", func(t *testing.T, n *node) {
			n.write(t, "/var/lib/kubelet/config.yaml", "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix://"+n.config.Listen+"\nimageServiceEndpoint: unix:///run/containerd/containerd.sock\n")
		}, Fail, "unix:///run/containerd/containerd.sock for images", "install"},
		"kubelet past the agent": {"kubelet", func(_ *testing.T, n *node) { n.socket.Clients = nil }, Fail, "BYPASSES", "kubelet-endpoint"},
		"kubelet past the agent, and another of its name on the agent's socket": {"kubelet", func(_ *testing.T, n *node) {
			n.socket.Clients = []peers.Client{{Process: peers.Process{PID: 71, Name: "kubelet", Exe: "/tmp/kubelet", Unit: "session-1.scope"}, Connections: 2}}
		}, Fail, "BYPASSES", ""},
		"kubelet past the agent, and a pod of its name on the agent's socket": {"kubelet", func(_ *testing.T, n *node) {
			n.socket.Clients = []peers.Client{{Process: peers.Process{PID: 71, Name: "kubelet", Exe: "/usr/bin/kubelet", Pod: true}, Connections: 2}}
		}, Fail, "BYPASSES", ""},
		"kubelet past the agent for images alone": {"kubelet", func(_ *testing.T, n *node) { n.runtime.Clients[1].Connections = 2 }, Warn, "more than its statistics take", "imageServiceEndpoint"},
		"kubelet on neither":                      {"kubelet", func(_ *testing.T, n *node) { n.socket.Clients, n.runtime.Clients = nil, nil }, Fail, "neither", ""},
		"kubelet that is stopped": {"kubelet", func(_ *testing.T, n *node) {
			n.socket.Clients, n.runtime.Clients = nil, nil
			unit("kubelet.service", func(u *manager.Unit) { u.Active, u.MainPID = "inactive", 0 })(nil, n)
		}, Warn, "is inactive", "systemctl status"},
		"kubelet that no unit tells, past the agent": {"kubelet", func(_ *testing.T, n *node) {
			n.systemd = nil
			n.socket.Clients = nil
			n.runtime.Clients = []peers.Client{{Process: peers.Process{PID: 70, Name: "x", Exe: "/opt/kubelet"}, Connections: 1}}
		}, Fail, "and not to", ""},
		"a socket that cannot be looked at": {"kubelet", func(_ *testing.T, n *node) { n.socketErr = errors.New("nobody is listening") }, Fail, "nobody is listening", ""},
		"another client on the runtime's socket": {"runtime-clients", func(_ *testing.T, n *node) {
			n.runtime.Clients = append(n.runtime.Clients, peers.Client{Process: peers.Process{PID: 90, Name: "dockerish", Pod: true}, Connections: 1})
		}, Warn, `"dockerish" (process 90 of user 0, in a pod)`, "judged by nobody"},
		"another that calls itself the agent": {"runtime-clients", func(_ *testing.T, n *node) {
			n.runtime.Clients = append(n.runtime.Clients, peers.Client{Process: peers.Process{PID: 90, Name: "cosentry", Exe: "/opt/cosentry/bin/cosentry"}, Connections: 1})
		}, Warn, `"cosentry" (process 90`, "judged by nobody"},
		"clients that cannot be seen":       {"runtime-clients", func(_ *testing.T, n *node) { n.runtime.Unknown = 2 }, Warn, "2 connections", "hostPID"},
		"namespaces that cannot be entered": {"runtime-clients", func(_ *testing.T, n *node) { n.runtime.Partial = errors.New("EPERM") }, Warn, "EPERM", "root"},
		"no canary without a socket":        {"canary", func(*testing.T, *node) {}, Fail, "does not answer", ""},
	})
}
