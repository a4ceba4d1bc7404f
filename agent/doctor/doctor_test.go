package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/host/peers"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/systemd/manager"
	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
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

// fault is a way in which a node is not well, and what the check about it has to say.
type fault struct {
	check string
	spoil func(t *testing.T, n *node)
	level Level
	says  string
	do    string
}

func TestWellNode(t *testing.T) {
	n := wellNode(t)
	n.readSettings()
	for _, c := range []check{{"settings", settings}, {"mode", mode}, {"units", units}, {"drop-in", dropIn}, {"files", installed}, {"permissions", permissions},
		{"agent", agent}, {"kubelet-endpoint", kubeletEndpoint}, {"kubelet", kubeletConnected}, {"runtime-clients", runtimeClients},
		{"references", references}, {"cluster-policies", clusterPolicies}, {"namespaces", namespaces}, {"sandbox", sandbox}, {"disk", disk}} {
		if f := n.make(t.Context(), c); f.Level != OK || f.Do != "" || f.Saw == "" || f.ID != c.id {
			t.Errorf("%+v", f)
		}
	}
}

func TestFaultsAreNamed(t *testing.T) {
	all := map[string]func(context.Context, *node) Finding{}
	for _, c := range checks(true) {
		all[c.id] = c.run
	}
	for name, tc := range map[string]fault{
		"settings with a fault": {"settings", func(t *testing.T, n *node) {
			n.write(t, host.ConfigFile, "apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\nmod: enforce\n")
			n.readSettings()
		}, Fail, "unknown setting mod", "cosentry config check"},
		"no settings": {"settings", func(t *testing.T, n *node) {
			n.Settings = "/nowhere"
			n.readSettings()
		}, Fail, "no settings file", "install"},
		"settings with a fault, and an agent that goes by a copy": {"settings", func(t *testing.T, n *node) {
			n.write(t, host.ConfigFile, "mod: enforce\n")
			n.readSettings()
			n.status.SettingsBroken = &sight.SettingsBroken{Copy: "/the/copy", Fault: "as it was"}
		}, Fail, "NOT IN FORCE", "cosentry config check"},
		"settings with a fault, and a copy for the next start": {"settings", func(t *testing.T, n *node) {
			n.write(t, config.KeptFile(config.StateDir, host.ConfigFile), "apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\nmode: observe\n")
			n.write(t, host.ConfigFile, "mod: enforce\n")
			n.readSettings()
		}, Fail, "an agent that starts now goes on with a copy of older settings, mode observe", "cosentry config check"},
		"settings with a fault, and a copy that others can write to": {"settings", func(t *testing.T, n *node) {
			kept := config.KeptFile(config.StateDir, host.ConfigFile)
			n.write(t, kept, "apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\nmode: observe\n")
			if err := os.Chmod(filepath.Join(n.Root, kept), 0o666); err != nil {
				t.Fatal(err)
			}
			n.write(t, host.ConfigFile, "mod: enforce\n")
			n.readSettings()
		}, Fail, "an agent does not start", "cosentry config check"},
		"settings that were mended": {"settings", func(_ *testing.T, n *node) {
			n.status.SettingsBroken = &sight.SettingsBroken{Copy: "/the/copy", Fault: "line 3: unknown"}
		}, Warn, "not in force yet", "restart"},
		"observe":                      {"mode", func(_ *testing.T, n *node) { n.status.Mode, n.config.Mode = "observe", "observe" }, Warn, "nothing is refused", "enforce"},
		"a mode that is not in force":  {"mode", func(_ *testing.T, n *node) { n.config.Mode = "observe" }, Warn, "the agent is in mode enforce", "restart"},
		"a glass that is broken":       {"mode", func(_ *testing.T, n *node) { n.status.BreakGlass = &sight.BreakGlass{Reason: "fire", By: "root"} }, Warn, "because: fire", "--end"},
		"no units":                     {"units", func(_ *testing.T, n *node) { n.systemd = stand{} }, Fail, "no cosentry.socket", "install"},
		"no systemd":                   {"units", func(_ *testing.T, n *node) { n.systemd, n.noUnits = nil, errors.New("no such socket") }, Warn, "no such socket", "root"},
		"a socket that was stopped":    {"units", unit("cosentry.socket", func(u *manager.Unit) { u.Active = "inactive" }), Fail, "kubelet cannot connect", "systemctl start cosentry.socket"},
		"a service that failed":        {"units", unit("cosentry.service", func(u *manager.Unit) { u.Active, u.Result = "failed", "watchdog" }), Fail, "watchdog", "systemctl start cosentry.service"},
		"a service that is masked":     {"units", unit("cosentry.service", func(u *manager.Unit) { u.Load = "masked" }), Fail, "masked", "systemctl cat"},
		"a socket gone at next boot":   {"units", unit("cosentry.socket", func(u *manager.Unit) { u.Enabled = "disabled" }), Fail, "next boot", "enable"},
		"unit files that were changed": {"units", unit("cosentry.service", func(u *manager.Unit) { u.NeedDaemonReload = true }), Warn, "have changed", "daemon-reload"},
		"a service that starts often":  {"units", unit("cosentry.service", func(u *manager.Unit) { u.NRestarts = 40 }), Warn, "40 times", "journalctl"},
		"a drop-in lost at reboot": {"drop-in", func(t *testing.T, n *node) {
			if err := os.Remove(filepath.Join(n.Root, dropInPath)); err != nil {
				t.Fatal(err)
			}
		}, Fail, "is gone", "install"},
		"a drop-in that systemd does not know": {"drop-in", unit("kubelet.service", func(u *manager.Unit) { u.DropInPaths = nil }), Fail, "does not know it", "daemon-reload"},
		"weaker settings that were offered": {"settings", func(_ *testing.T, n *node) {
			n.state.NotTaken = []string{"mode: enforce here, observe offered"}
		}, Warn, "mode: enforce here, observe offered", "--weaken"},
		"an installation in the middle": {"files", func(_ *testing.T, n *node) { n.state.Phase = host.Installing }, Fail, "stopped in the middle", "carry on"},
		"no installation":               {"files", func(_ *testing.T, n *node) { n.state = nil }, Warn, "nothing tells of an installation", "install"},
		"a link that leads in circles": {"files", func(t *testing.T, n *node) {
			if err := os.Symlink("ring", filepath.Join(n.Root, "ring")); err != nil {
				t.Fatal(err)
			}
			n.state.Files = []host.Record{{Path: "/ring/x"}}
		}, Warn, "/ring/x cannot be looked at: too many", "by hand"},
		"no audit log": {"audit", func(*testing.T, *node) {}, Warn, "there is no audit log", "--canary"},
		"a socket that cannot be reached": {"socket", func(t *testing.T, n *node) {
			if err := os.Symlink("cosentry", filepath.Join(n.Root, "run")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("run", filepath.Join(n.Root, "cosentry")); err != nil {
				t.Fatal(err)
			}
		}, Fail, "cannot be looked at, and kubelet can start no pod without it: too many", "cosentry.socket"},
		"a file that is gone": {"files", func(_ *testing.T, n *node) {
			n.state.Files = []host.Record{{Path: "/etc/systemd/system/cosentry.socket"}}
		}, Fail, "gone since", "install"},
		"a link that is gone": {"files", func(_ *testing.T, n *node) {
			n.state.Files = []host.Record{{Path: "/usr/local/bin/cosentry", Link: "/opt/x"}}
		}, Fail, "gone since", "install"},
		"a file that was changed": {"files", func(t *testing.T, n *node) {
			n.state.Files = []host.Record{{Path: dropInPath, SHA256: files.Hash([]byte("other"))}}
		}, Warn, dropInPath, "install"},
		"a policy that others may write": {"permissions", func(t *testing.T, n *node) {
			n.write(t, "/etc/cosentry/policies/a.yaml", "")
			if err := os.Chmod(filepath.Join(n.Root, "/etc/cosentry/policies/a.yaml"), 0o666); err != nil {
				t.Fatal(err)
			}
		}, Fail, "policies/a.yaml can be written to by everybody", "chmod"},
		"settings of another user": {"permissions", func(t *testing.T, n *node) {
			if err := os.Chown(filepath.Join(n.Root, host.ConfigFile), 1000, 0); err != nil {
				t.Fatal(err)
			}
		}, Fail, "config.yaml is user 1000's", "chown"},
		"a folder above that others may write": {"permissions", func(t *testing.T, n *node) {
			if err := os.Chmod(filepath.Join(n.Root, "/etc"), 0o777); err != nil {
				t.Fatal(err)
			}
		}, Fail, "/etc can be written to", "chmod"},
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
		"clients that cannot be seen":        {"runtime-clients", func(_ *testing.T, n *node) { n.runtime.Unknown = 2 }, Warn, "2 connections", "hostPID"},
		"namespaces that cannot be entered":  {"runtime-clients", func(_ *testing.T, n *node) { n.runtime.Partial = errors.New("EPERM") }, Warn, "EPERM", "root"},
		"policies that cannot be loaded":     {"policies", func(t *testing.T, n *node) { n.write(t, "/etc/cosentry/policies/bad.yaml", "kind: [") }, Fail, "bad.yaml", "policy check"},
		"no policies and everything allowed": {"policies", noPolicies("allow"), Fail, "everything runs", "write policies"},
		"no policies":                        {"policies", noPolicies("deny"), Warn, "no policies in", "write policies"},
		"policies on disk that are not in force": {"policies", func(t *testing.T, n *node) {
			noPolicies("deny")(t, n)
			n.status.Policies.Revision = "other"
		}, Warn, `"other" is in force`, "look again"},
		"a key service that is away":   {"references", trusts(sight.Trust{Kind: "kms key", Name: "awskms:///k", Error: "no route to host"}), Fail, "no route to host", "key management service"},
		"a root that has expired":      {"references", trusts(sight.Trust{Kind: "trust root", Name: "corp", OK: true, Expires: time.Now().Add(-time.Hour)}), Fail, "corp expired", ""},
		"a root that expires soon":     {"references", trusts(sight.Trust{Kind: "trust root", Name: "corp", OK: true, Expires: time.Now().Add(time.Hour)}), Warn, "corp expires", ""},
		"a key that cannot be renewed": {"references", trusts(sight.Trust{Kind: "kms key", Name: "awskms:///k", OK: true, Error: "denied"}), Warn, "not renewed: denied", ""},
		"a key service, without agent": {"references", deadAgentTrust, Fail, "no credentials", ""},
		"namespaces that are not told": {"namespaces", func(_ *testing.T, n *node) { n.status.Namespaces.State = "missing" }, Warn, "in all namespaces", ""},
		"a sandbox image that is refused": {"sandbox", func(_ *testing.T, n *node) {
			n.status.Sandbox.Images[0].Allowed = false
		}, Warn, "pods start with it", "sandbox.refuse"},
		"a sandbox image that stops all": {"sandbox", func(_ *testing.T, n *node) {
			n.status.Sandbox.Images[0].Allowed, n.status.Sandbox.Refuse = false, true
		}, Fail, "no pod starts", ""},
		"the cluster's policies broken at start": {"cluster-policies", cluster(sight.ClusterPolicies{State: "broken", Broken: "bad"}), Fail, "every image is refused", "sync"},
		"the cluster's policies broken":          {"cluster-policies", cluster(sight.ClusterPolicies{State: "broken", Revision: "r", Broken: "bad"}), Fail, "stay in force", "sync"},
		"the cluster's policies old":             {"cluster-policies", cluster(sight.ClusterPolicies{State: "good", Heartbeat: time.Now().Add(-time.Hour)}), Warn, "up to date", "API server"},
		"the cluster's policies unsigned":        {"cluster-policies", cluster(sight.ClusterPolicies{State: "good", SkippedCount: 1, Skipped: []sight.Skipped{{File: "x", Why: "no signature"}}}), Warn, "x: no signature", "policy signed"},
		"a registry that is away":                {"registries", registry(errors.New("connection refused")), Fail, "registry.example: connection refused", "network"},
		"a clock before the last record": {"clock", func(t *testing.T, n *node) {
			n.record(t, audit.Record{Action: audit.ActionPull, Decision: audit.DecisionAllow, Image: "a/b", Time: time.Now()})
			n.now = func() time.Time { return time.Now().Add(-24 * time.Hour) }
		}, Fail, "the last audit record is of", "timedatectl"},
		"records that are not written": {"audit", func(_ *testing.T, n *node) { n.status.Audit.Fault = "disk full" }, Fail, "disk full", ""},
		"records that are required":    {"audit", func(_ *testing.T, n *node) { n.status.Audit.Fault, n.status.Audit.Required = "disk full", true }, Fail, "nothing new starts", ""},
		"a log that was altered": {"audit", func(t *testing.T, n *node) {
			n.record(t, audit.Record{Action: audit.ActionPull, Decision: audit.DecisionDeny, Image: "evil"})
			path := filepath.Join(n.Root, n.config.Audit.Dir, "audit.jsonl")
			all, _ := filepath.Glob(filepath.Join(n.Root, n.config.Audit.Dir, "*.jsonl"))
			if len(all) == 1 {
				path = all[0]
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(strings.Replace(string(data), "evil", "good", 1)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, Fail, "hash mismatch", "audit verify"},
		"a log whose end was cut": {"audit", func(t *testing.T, n *node) {
			n.record(t, audit.Record{Action: audit.ActionPull, Decision: audit.DecisionDeny, Image: "evil"})
			n.status.Audit.Sequence = 7
		}, Fail, "has written 7 records", "audit verify"},
		"no canary without a socket": {"canary", func(*testing.T, *node) {}, Fail, "does not answer", ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := wellNode(t)
			n.faulty = nil
			tc.spoil(t, n)
			f := n.make(t.Context(), check{tc.check, all[tc.check]})
			if f.Level != tc.level || !strings.Contains(f.Saw, tc.says) || !strings.Contains(f.Do, tc.do) {
				t.Errorf("%s: %s\nto do: %s\nwant %s: … %s …; to do: … %s …", f.Level, f.Saw, f.Do, tc.level, tc.says, tc.do)
			}
			nameable(t, f)
		})
	}
}

// nameable: of what is not good it is said what to do, and nothing is said in words of the system's calls.
func nameable(t *testing.T, f Finding) {
	t.Helper()
	if f.Level > OK && f.Do == "" {
		t.Errorf("%s: %s: %s: nothing is said to be done", f.ID, f.Level, f.Saw)
	}
	for _, word := range []string{"statat ", "openat ", "readlinkat ", "fstatat "} {
		if strings.Contains(f.Saw, word) {
			t.Errorf("%s: %s", f.ID, f.Saw)
		}
	}
}

func unit(name string, change func(u *manager.Unit)) func(*testing.T, *node) {
	return func(_ *testing.T, n *node) {
		u := n.systemd.(stand)[name]
		change(&u)
		n.systemd.(stand)[name] = u
	}
}

func noPolicies(noMatch string) func(*testing.T, *node) {
	return func(t *testing.T, n *node) {
		n.config.Policies.NoMatch = noMatch
		if err := os.MkdirAll(filepath.Join(n.Root, n.config.Policies.Dir), 0o755); err != nil {
			t.Fatal(err)
		}
		set, err := n.policySet()
		if err != nil {
			t.Fatal(err)
		}
		n.status.Policies.Revision = set.Revision()
	}
}

func trusts(one sight.Trust) func(*testing.T, *node) {
	return func(_ *testing.T, n *node) { n.status.Trust = []sight.Trust{one} }
}

// deadAgentTrust: without an agent what policies refer to is fetched.
func deadAgentTrust(t *testing.T, n *node) {
	noPolicies("deny")(t, n)
	n.status = nil
	n.Trust = func(_ context.Context, c config.Trust, set *policy.Set) ([]sight.Trust, error) {
		if set == nil || !strings.HasPrefix(c.Dir, n.Root) || c.CacheDir != "" {
			t.Errorf("asked about %v in %+v", set, c)
		}
		return []sight.Trust{{Kind: "kms key", Name: "gcpkms://k", Error: "no credentials"}}, nil
	}
}

func cluster(c sight.ClusterPolicies) func(*testing.T, *node) {
	return func(_ *testing.T, n *node) { n.status.ClusterPolicies = &c }
}

// away is a registry that gives one answer to all.
type away struct{ err error }

func (a away) Resolve(context.Context, string, string, evidence.Credentials) (digest.Digest, error) {
	return "", a.err
}

func registry(answer error) func(*testing.T, *node) {
	return func(t *testing.T, n *node) {
		n.record(t, audit.Record{Action: audit.ActionPull, Decision: audit.DecisionError, Image: "registry.example/app:1"})
		n.Registries = func(config.Config) (Registries, error) { return away{answer}, nil }
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

// A registry that has no such image, or wants credentials, answers.
func TestRegistryThatRefusesAnswers(t *testing.T) {
	for _, err := range []error{nil, evidence.ErrNotFound, evidence.ErrUnauthorized} {
		n := wellNode(t)
		registry(err)(t, n)
		if f := registries(t.Context(), n); f.Level != OK {
			t.Errorf("%v: %+v", err, f)
		}
	}
}

// On a host where nothing is, every check says so, and none takes what it could not look at for good.
func TestNothingIsGoodWhereNothingIs(t *testing.T) {
	found, err := Examine(t.Context(), Options{Root: t.TempDir(), Settings: host.ConfigFile, Canary: true,
		Trust: func(context.Context, config.Trust, *policy.Set) ([]sight.Trust, error) {
			return nil, errors.New("away")
		},
		Registries: func(config.Config) (Registries, error) { return nil, errors.New("away") }})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != len(checks(true)) || Worst(found) != Fail {
		t.Errorf("%d findings, worst %s", len(found), Worst(found))
	}
	seen := map[string]bool{}
	for _, f := range found {
		if seen[f.ID] || f.ID == "" || f.Saw == "" {
			t.Errorf("%+v", f)
		}
		seen[f.ID] = true
		nameable(t, f)
		// The agent of another node answers on this machine's loopback where one runs: what it says is not asked for here.
		switch f.ID {
		case "permissions", "disk", "clock", "agent", "mode", "references", "cluster-policies", "namespaces", "sandbox":
		default:
			if f.Level == OK {
				t.Errorf("good where nothing is: %+v", f)
			}
		}
	}
}

// A fault of a check's own is a finding like others, and what it repeats is one line.
func TestCheckThatPanics(t *testing.T) {
	n := wellNode(t)
	if f := n.make(t.Context(), check{"x", func(context.Context, *node) Finding { panic("boom") }}); f.Level != Warn || f.ID != "x" {
		t.Errorf("%+v", f)
	}
	f := n.make(t.Context(), check{"x", func(context.Context, *node) Finding {
		return good("a\nok  y  forged\x1b[2J%s", strings.Repeat("é", 2000))
	}})
	if strings.ContainsAny(f.Saw, "\n\x1b") || len(f.Saw) > maxLine+8 {
		t.Errorf("%q", f.Saw)
	}
}

func TestLevelsAsJSON(t *testing.T) {
	data, err := json.Marshal([]Level{OK, Warn, Fail})
	if err != nil || string(data) != `["ok","warn","fail"]` {
		t.Errorf("%s, %v", data, err)
	}
}
