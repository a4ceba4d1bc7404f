package doctor

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/host/peers"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/systemd/manager"
)

// stand is a systemd that has these units.
type stand map[string]manager.Unit

func (s stand) Unit(_ context.Context, name string) (manager.Unit, error) {
	if u, ok := s[name]; ok {
		u.Name = name
		return u, nil
	}
	return manager.Unit{Name: name, Load: "not-found"}, nil
}

const dropInPath = "/etc/systemd/system/kubelet.service.d/10-cosentry.conf"

// wellNode is a node on which nothing is wrong, as far as units, status and peers go. Its root is a folder.
func wellNode(t *testing.T) *node {
	t.Helper()
	root := t.TempDir()
	tree, err := files.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	now := time.Now()
	n := &node{Options: Options{Root: root, Settings: host.ConfigFile, Version: "v1"}, tree: tree, now: time.Now, config: config.Default()}
	n.status = &sight.Status{Version: "v1", Mode: "enforce", Listen: n.config.Listen, Started: now,
		Policies: sight.Policies{}, Namespaces: sight.Namespaces{Enforce: "all"},
		Sandbox: sight.Sandbox{Looked: now, Images: []sight.SandboxImage{{Name: "pause", Allowed: true}}}}
	up := manager.Unit{Load: "loaded", Active: "active", Enabled: "enabled"}
	kubelet := up
	kubelet.MainPID, kubelet.DropInPaths = 70, []string{dropInPath}
	kubelet.ExecStart = [][]string{{"/usr/bin/kubelet", "--config=/var/lib/kubelet/config.yaml"}}
	n.systemd = stand{"cosentry.socket": up, "cosentry.service": up, "kubelet.service": kubelet}
	n.state = &host.State{Phase: host.Installed, Kubelet: host.Kubelet{Unit: "kubelet.service"}}
	n.write(t, dropInPath, "[Unit]\n")
	n.write(t, host.ConfigFile, "apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\n")
	n.write(t, "/var/lib/kubelet/config.yaml", "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix://"+n.config.Listen+"\n")
	n.socket = peers.Socket{Listeners: []peers.Process{{PID: 1, Unit: "init.scope"}, {PID: 60, Unit: "cosentry.service"}}, Clients: []peers.Client{{Process: kubeletProcess, Connections: 2}}}
	n.runtime = peers.Socket{Listeners: []peers.Process{{PID: 50, Name: "containerd", Unit: "containerd.service"}}, Clients: []peers.Client{
		{Process: peers.Process{PID: 60, Name: "cosentry", Unit: "cosentry.service"}, Connections: 3}, {Process: kubeletProcess, Connections: 1},
	}}
	return n
}

var kubeletProcess = peers.Process{PID: 70, Name: "kubelet", Exe: "/usr/bin/kubelet", Unit: "kubelet.service"}

func (n *node) write(t *testing.T, path, text string) {
	t.Helper()
	here := filepath.Join(n.Root, path)
	if err := os.MkdirAll(filepath.Dir(here), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(here, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (n *node) record(t *testing.T, r audit.Record) {
	t.Helper()
	dir := filepath.Join(n.Root, n.config.Audit.Dir)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Append(r); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}

// listenAt has somebody listen at a path of the host's. It is moved there, as a temporary folder's path is too long.
func (n *node) listenAt(t *testing.T, path string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "do")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	here := filepath.Join(n.Root, path)
	if err := os.MkdirAll(filepath.Dir(here), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "s"), here); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(here, 0o660); err != nil {
		t.Fatal(err)
	}
}

func unit(name string, change func(u *manager.Unit)) func(*testing.T, *node) {
	return func(_ *testing.T, n *node) {
		u := n.systemd.(stand)[name]
		change(&u)
		n.systemd.(stand)[name] = u
	}
}
