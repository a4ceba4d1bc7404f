package host_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/host/files"
)

// attacks are what whoever may edit the ConfigMap would write there to have an enforcing node run what nobody signed, and what the
// warning says of it.
var attacks = map[string]struct{ settings, says string }{
	"observe":                     {"mode: observe\n", "mode: enforce here, observe offered"},
	"nothing matches":             {"policies: {noMatch: allow}\n", "policies.noMatch: deny here, allow offered"},
	"policies elsewhere":          {"policies: {dir: /tmp}\n", "policies.dir: /etc/cosentry/policies here, /tmp offered"},
	"namespaces exempt":           {"namespaces: {exempt: [kube-system, \"a*\"]}\n", "namespaces.exempt: none here, kube-system, a* offered"},
	"all namespaces exempt":       {"namespaces: {exempt: [\"*\"]}\n", "exempts every namespace"},
	"trust elsewhere":             {"trust: {dir: /tmp}\n", "trust.dir: /etc/cosentry here, /tmp offered"},
	"hidden behind stricter ones": {"audit: {required: true}\nsandbox: {refuse: true}\npolicies: {noMatch: warn}\n", "policies.noMatch: deny here, warn offered"},
	"faulty":                      {"mod: observe\n", "unknown setting mod"},
	"another socket":              {"listen: /run/other.sock\n", "listen is /run/other.sock"},
}

const enforcing = head + "mode: enforce\n"

// TestConfigMapLoosensNoNodeThatEnforces: the installation goes on with the node's own settings, and says so.
func TestConfigMapLoosensNoNodeThatEnforces(t *testing.T) {
	for name, c := range attacks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			must(t, w.install("v1", given(t, head+"mode: observe\n", nil)))
			must(t, w.install("v1", given(t, enforcing, nil)))
			w.out.Reset()
			offer := given(t, head+c.settings, map[string]string{"open.yaml": "a"})
			must(t, w.install("v2", offer))
			w.wantInstalled("v2")
			if got := w.read(host.ConfigFile); got != enforcing {
				t.Errorf("settings are now %s", got)
			}
			for _, want := range []string{"NOT TAKEN", c.says, "edits /etc/cosentry/config.yaml", "--weaken", "break-glass"} {
				if !strings.Contains(w.out.String(), want) {
					t.Errorf("%q is not said:\n%s", want, &w.out)
				}
			}
			p, err := w.host("v2", offer).Plan(t.Context())
			must(t, err)
			var text bytes.Buffer
			must(t, p.Print(&text))
			if !p.Nothing() || !strings.Contains(text.String(), "NOT TAKEN") || !strings.Contains(text.String(), c.says) {
				t.Errorf("dry run:\n%s", &text)
			}
			if state := w.read("/var/lib/cosentry/install/state.json"); !strings.Contains(state, "notTaken") {
				t.Errorf("the state says nothing of it, so that doctor cannot: %s", state)
			}
		})
	}
}

// TestConfigMapLoosensNoNodeThatLostEtc: the copy that was kept decides, and not what the cluster says today; a faulty offer does not keep
// the node from being guarded again.
func TestConfigMapLoosensNoNodeThatLostEtc(t *testing.T) {
	for name, c := range attacks {
		for _, state := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				must(t, w.install("v1", given(t, enforcing, map[string]string{"mine.yaml": "mine"})))
				must(t, os.RemoveAll(w.path("/etc/cosentry")))
				must(t, os.RemoveAll(w.path("/etc/systemd/system")))
				if !state {
					w.put("/var/lib/cosentry/install/state.json", "{")
				}
				w.put(kubeletConfig, delivered)
				must(t, w.Restart(t.Context(), "kubelet.service"))
				w.units["cosentry.service"], w.units["cosentry.socket"] = nil, nil
				must(t, w.install("v1", given(t, head+c.settings, map[string]string{"open.yaml": "static: pass"})))
				w.wantInstalled("v1")
				if got := w.read(host.ConfigFile); got != enforcing {
					t.Errorf("settings are now %s", got)
				}
				if w.read("/etc/cosentry/policies/mine.yaml") != "mine" || w.read("/etc/cosentry/policies/open.yaml") == "static: pass" {
					t.Errorf("policies: %v", w.tree())
				}
			})
		}
	}
}

// TestSuperviseKeepsTheNodesSettings: settings that are not taken are a fault that is seen, for which nothing is installed again; what is really wrong is mended beside it, and the fault ends with its cause.
func TestSuperviseKeepsTheNodesSettings(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1", given(t, enforcing, nil)))
	look := watch(t, w, "v1", given(t, enforcing, nil))
	if seen := look(); len(seen.Faults) > 0 {
		t.Fatalf("before: %+v", seen)
	}
	weaker := given(t, head+"mode: observe\n", nil)
	must(t, w.install("v1", weaker))
	w.did()
	look = watch(t, w, "v1", weaker)
	var seen host.Seen
	for range 6 {
		seen = look()
	}
	if got := what(seen); len(got) != 1 || got[0] != host.FaultOffered || seen.Repaired+seen.Failed > 0 || len(w.did()) > 0 || seen.Repairable() || !seen.Whole() {
		t.Errorf("%+v", seen)
	}
	if state := w.read("/var/lib/cosentry/install/state.json"); !strings.Contains(state, "mode: enforce here, observe offered") {
		t.Errorf("the state says nothing of it: %s", state)
	}
	must(t, os.Remove(w.path("/etc/systemd/system/cosentry.service")))
	must(t, os.RemoveAll(w.path("/etc/cosentry")))
	for range 6 {
		seen = look()
	}
	if w.read(host.ConfigFile) != enforcing || seen.Repaired != 1 || !seen.Whole() {
		t.Errorf("%+v, settings %s", seen, w.read(host.ConfigFile))
	}
	must(t, w.install("v1", given(t, enforcing, nil)))
	look = watch(t, w, "v1", given(t, enforcing, nil))
	if seen = look(); len(seen.Faults) > 0 {
		t.Errorf("afterwards: %+v", seen)
	}
	if state := w.read("/var/lib/cosentry/install/state.json"); strings.Contains(state, "notTaken") {
		t.Errorf("the state still tells of it: %s", state)
	}
}

// TestStricterSettingsGoOnComingByConfigMap: from observe to enforce, whatever else comes with it, and from there to more.
func TestStricterSettingsGoOnComingByConfigMap(t *testing.T) {
	w := newWorld(t)
	for _, text := range []string{
		"mode: observe\n", "mode: observe\npolicies: {noMatch: warn}\nnamespaces: {exempt: [kube-system]}\n",
		"mode: enforce\npolicies: {noMatch: warn}\nnamespaces: {exempt: [kube-system, legacy]}\n",
		"mode: enforce\nnamespaces: {exempt: [kube-system]}\nclusterPolicies: {dir: /var/lib/cosentry/cluster}\nlog: {level: debug}\n",
	} {
		must(t, w.install("v1", given(t, head+text, nil)))
		if got := w.read(host.ConfigFile); got != head+text {
			t.Errorf("settings are %s, want %s", got, text)
		}
	}
}

// TestOwnerWeakens: by hand, with a flag that says what it does; what he wrote himself stays even then.
func TestOwnerWeakens(t *testing.T) {
	weaken := func(o *host.Options) { o.Weaken = true }
	w := newWorld(t)
	must(t, w.install("v1", given(t, enforcing, nil)))
	must(t, w.install("v1", given(t, head+"mode: observe\n", nil), weaken))
	if w.mode() != config.Observe {
		t.Error("it was not taken")
	}
	w.put(host.ConfigFile, enforcing+"# mine\n")
	must(t, w.install("v1", given(t, head+"mode: observe\n", nil), weaken))
	if w.mode() != config.Enforce {
		t.Error("the owner's settings were written over")
	}
	if err := w.install("v1", given(t, "", nil), weaken); err == nil {
		t.Error("faulty settings that the owner names were passed over without a word")
	}
}

// TestSettingsOfAnotherVersion: what this version cannot read is only replaced where it says observe.
func TestSettingsOfAnotherVersion(t *testing.T) {
	for text, taken := range map[string]bool{
		head + "mode: observe\nlater: {x: 1}\n": true, head + "mode: enforce\nlater: {x: 1}\n": false, head + "later: {x: 1}\n": false, "mode: [": false,
	} {
		w := newWorld(t)
		must(t, w.install("v1", given(t, enforcing, nil)))
		// What the other version wrote is known as written by an installation.
		state := w.read("/var/lib/cosentry/install/state.json")
		w.put("/var/lib/cosentry/install/state.json", strings.ReplaceAll(state, files.Hash([]byte(enforcing)), files.Hash([]byte(text))))
		w.put(host.ConfigFile, text)
		err := w.install("v1", given(t, head+"mode: observe\n", nil))
		if (err == nil) != taken || (w.read(host.ConfigFile) != text) != taken {
			t.Errorf("%q: %v, settings are %s", text, err, w.read(host.ConfigFile))
		}
	}
}

// TestBinaryIsLabelledAsAProgram: where files have SELinux labels systemd would not start what is labelled as data, as a folder below /opt is.
func TestBinaryIsLabelledAsAProgram(t *testing.T) {
	for folder, want := range map[string]string{
		"system_u:object_r:usr_t:s0\x00": "system_u:object_r:bin_t:s0\x00", "system_u:object_r:usr_t:s0:c1,c2\x00": "system_u:object_r:bin_t:s0:c1,c2\x00",
		"system_u:object_r:usr_t\x00": "system_u:object_r:bin_t\x00", "": "",
	} {
		w := newWorld(t)
		must(t, os.MkdirAll(w.path("/opt/cosentry/bin"), 0o755))
		if folder != "" {
			must(t, unix.Setxattr(w.path("/opt/cosentry/bin"), "security.selinux", []byte(folder), 0))
		}
		must(t, w.install("v1"))
		value := make([]byte, 100)
		n, err := unix.Getxattr(w.path("/opt/cosentry/bin/cosentry"), "security.selinux", value)
		if got := string(value[:max(n, 0)]); got != want || (err == nil) != (want != "") {
			t.Errorf("in %q: %q, %v", folder, got, err)
		}
	}
}
