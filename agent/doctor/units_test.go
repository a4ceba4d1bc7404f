package doctor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/systemd/manager"
)

// Settings, units and files, who may change them, and what is recorded.
func TestFaultsOfWhatIsInstalledAreNamed(t *testing.T) {
	named(t, map[string]fault{
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
	})
}
