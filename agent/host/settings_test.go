package host_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host"
)

const head = "apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\n"

// given are settings and policies as a ConfigMap has them: links into a folder of another name.
func given(t *testing.T, settings string, policies map[string]string) func(*host.Options) {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{"config/config.yaml": settings}
	for name, text := range policies {
		files["policies/..data/"+name] = text
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name := range policies {
		if err := os.Symlink("..data/"+name, filepath.Join(dir, "policies", name)); err != nil {
			t.Fatal(err)
		}
	}
	return func(o *host.Options) {
		o.Settings = filepath.Join(dir, "config/config.yaml")
		if policies != nil {
			o.Policies = filepath.Join(dir, "policies")
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) mode() config.Mode {
	w.t.Helper()
	c, err := config.Parse([]byte(w.read(host.ConfigFile)))
	if err != nil {
		w.t.Fatal(err)
	}
	return c.Mode
}

func TestNewSettingsObserve(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	if m := w.mode(); m != config.Observe {
		t.Errorf("mode %s", m)
	}
}

// TestOwnersSettingsStay: neither an upgrade nor a ConfigMap that changed writes over what the owner wrote.
func TestOwnersSettingsStay(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1", given(t, head+"mode: observe\n", nil)))
	owners := head + "mode: enforce # mine\n"
	w.put(host.ConfigFile, owners)
	must(t, w.install("v2", given(t, head+"mode: observe\nlog: {level: debug}\n", nil)))
	if got := w.read(host.ConfigFile); got != owners {
		t.Errorf("settings are now %s", got)
	}
}

// TestSettingsThatNobodyChangedFollow: what an installation wrote follows the ConfigMap, and the agent starts with it.
func TestSettingsThatNobodyChangedFollow(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1", given(t, head+"mode: observe\n", nil)))
	w.did()
	must(t, w.install("v1", given(t, head+"mode: enforce\n", nil)))
	if m := w.mode(); m != config.Enforce {
		t.Errorf("mode %s", m)
	}
	if jobs := w.did(); len(jobs) != 1 || jobs[0] != "start cosentry.service" {
		t.Errorf("jobs %v", jobs)
	}
}

// TestFaultySettingsAreRefusedBeforeAnythingIsDone: an agent would not start with them.
func TestFaultySettingsAreRefusedBeforeAnythingIsDone(t *testing.T) {
	for name, text := range map[string]string{
		"unknown setting": head + "mod: enforce\n", "empty": "", "another socket": head + "listen: /run/other.sock\n",
		"another runtime": head + "runtime: {endpoint: /run/crio/crio.sock}\n", "the runtime's own socket": head + "listen: /run/containerd/containerd.sock\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if err := w.install("v1", given(t, text, nil)); err == nil {
				t.Error("installed")
			}
			if jobs := w.did(); len(jobs) > 0 || w.read("/var/lib/cosentry/install/state.json") != "(no such file or directory)" {
				t.Errorf("something was done: %v", jobs)
			}
		})
	}
}

func TestPoliciesAreForTheFirstInstallationAlone(t *testing.T) {
	w := newWorld(t)
	options := given(t, head+"mode: observe\n", map[string]string{"a.yaml": "a", ".hidden.yaml": "x", "README.md": "x"})
	must(t, w.install("v1", options))
	if w.read("/etc/cosentry/policies/a.yaml") != "a" || w.read("/etc/cosentry/policies/README.md") == "x" || w.read("/etc/cosentry/policies/.hidden.yaml") == "x" {
		t.Errorf("policies: %v", w.tree())
	}
	must(t, os.Remove(w.path("/etc/cosentry/policies/a.yaml")))
	must(t, w.install("v2", options))
	if w.read("/etc/cosentry/policies/a.yaml") == "a" {
		t.Error("a policy that the owner removed came back")
	}
}

func TestPoliciesOfTheOwnerStay(t *testing.T) {
	w := newWorld(t)
	w.put("/etc/cosentry/policies/mine.yaml", "mine")
	must(t, w.install("v1", given(t, head+"mode: observe\n", map[string]string{"a.yaml": "a"})))
	if w.read("/etc/cosentry/policies/a.yaml") == "a" {
		t.Error("a policy was put beside the owner's")
	}
	must(t, w.host("v1").Uninstall(t.Context(), false))
	if w.read("/etc/cosentry/policies/mine.yaml") != "mine" || w.mode() != config.Observe {
		t.Error("the owner's settings went with the agent")
	}
}

// TestLostEtcComesBack: on a host whose /etc is in memory an enforcing node enforces again after a boot, with the owner's policies, and is
// not begun anew in observe.
func TestLostEtcComesBack(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1", given(t, head+"mode: observe\n", map[string]string{"a.yaml": "a"})))
	w.put(host.ConfigFile, head+"mode: enforce\n")
	w.put("/etc/cosentry/policies/mine.yaml", "mine")
	w.put("/etc/cosentry/secrets/ns/name/key", "secret")
	must(t, w.host("v1").Keep(t.Context()))

	must(t, os.RemoveAll(w.path("/etc/cosentry")))
	must(t, os.RemoveAll(w.path("/etc/systemd/system")))
	w.put(kubeletConfig, delivered)
	must(t, w.Restart(t.Context(), "kubelet.service"))
	w.units["cosentry.service"], w.units["cosentry.socket"] = nil, nil
	must(t, w.install("v1", given(t, head+"mode: observe\n", map[string]string{"a.yaml": "new"})))
	w.wantInstalled("v1")
	if w.mode() != config.Enforce || w.read("/etc/cosentry/policies/mine.yaml") != "mine" || w.read("/etc/cosentry/policies/a.yaml") != "a" ||
		w.read("/etc/cosentry/secrets/ns/name/key") != "secret" {
		t.Errorf("settings: %v", w.tree())
	}
}

// TestRemovedSettingsAreNotBegunInObserve: who removes the settings file of an enforcing node has not turned it to observe.
func TestRemovedSettingsAreNotBegunInObserve(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1", func(o *host.Options) { o.Mode = "enforce" }))
	must(t, os.Remove(w.path(host.ConfigFile)))
	must(t, w.install("v2"))
	if w.mode() != config.Enforce {
		t.Errorf("mode %s", w.mode())
	}
}

// TestLostEtcIsNotKept: the copy is what comes back, so it is not made equal to what was lost.
func TestLostEtcIsNotKept(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	must(t, os.RemoveAll(w.path("/etc/cosentry")))
	must(t, w.host("v1").Keep(t.Context()))
	if got := w.read("/var/lib/cosentry/install/etc/config.yaml"); !strings.Contains(got, "mode: observe") {
		t.Errorf("the copy is now %s", got)
	}
}

// TestKubeletMustNotOutliveItsUnits: where /etc is in memory and kubelet's file is not, kubelet would wait for a socket that is gone.
func TestKubeletMustNotOutliveItsUnits(t *testing.T) {
	for name, c := range map[string]struct {
		mounts string
		fails  bool
	}{
		"all on disk":               {"/dev/sda / ext4 rw 0 0\n", false},
		"etc in memory":             {"/dev/sda / ext4 rw 0 0\ntmpfs /etc tmpfs rw 0 0\n", true},
		"etc overlaid by memory":    {"/dev/sda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\noverlay /etc overlay rw,lowerdir=/etc,upperdir=/tmp/etc_overlay/etc,workdir=/tmp/w 0 0\n", true},
		"etc overlaid by disk":      {"/dev/sda / ext4 rw 0 0\noverlay /etc overlay rw,lowerdir=/etc,upperdir=/var/etc,workdir=/var/w 0 0\n", false},
		"both in memory":            {"tmpfs / tmpfs rw 0 0\n", false},
		"kubelet's alone in memory": {"/dev/sda / ext4 rw 0 0\ntmpfs /var/lib/kubelet tmpfs rw 0 0\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.put("/proc/1/mounts", c.mounts)
			before := w.tree()
			err := w.install("v1")
			if (err != nil) != c.fails {
				t.Fatalf("error %v", err)
			}
			if c.fails && len(before) != len(w.tree()) {
				t.Error("the host was changed")
			}
		})
	}
}
