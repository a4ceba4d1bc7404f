package host_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/agent/host"
)

// TestUninstallOnAFullDisk: what helps where nothing else does needs no room. kubelet's own settings are on the full disk too.
func TestUninstallOnAFullDisk(t *testing.T) {
	if !mounting(t) {
		return
	}
	w := newWorld(t)
	w.disk("/var/lib", "80m")
	must(t, w.install("v1"))
	w.fill("/var/lib", 0)
	if err := w.host("v1", person).Uninstall(t.Context(), false); err != nil {
		t.Fatalf("%v\n%s", err, &w.out)
	}
	if w.told != theirSocket || w.read(kubeletConfig) != delivered {
		t.Errorf("kubelet uses %q and is told\n%s", w.told, w.read(kubeletConfig))
	}
	if u := w.units["cosentry.service"]; u.pid != 0 || w.file("cosentry.service") != "" {
		t.Error("the agent is still there")
	}
	if !strings.Contains(w.out.String(), "no space left") {
		t.Errorf("nothing is said of the disk:\n%s", &w.out)
	}
}

// TestUninstallFromAReadOnlyEtc: units and drop-in cannot be removed, and kubelet goes back all the same. What is left is told, and goes
// the next time.
func TestUninstallFromAReadOnlyEtc(t *testing.T) {
	if !mounting(t) {
		return
	}
	w := newWorld(t)
	must(t, w.install("v1"))
	w.readOnly("/etc")
	err := w.host("v1").Uninstall(t.Context(), false)
	if err == nil || !strings.Contains(err.Error(), "10-cosentry.conf") || !strings.Contains(err.Error(), "cosentry.socket") {
		t.Errorf("error %v", err)
	}
	if w.told != theirSocket || w.units["cosentry.service"].pid != 0 {
		t.Errorf("kubelet uses %q", w.told)
	}
	if seen := w.host("v1").Look(t.Context()); !seen.Left {
		t.Errorf("it would be installed again: %+v", seen)
	}
}

// TestBypassIsSeenAndMendedWithLittleRoom: room is what a change needs, not what looking does, and a small file needs little of it.
func TestBypassIsSeenAndMendedWithLittleRoom(t *testing.T) {
	if !mounting(t) {
		return
	}
	w := newWorld(t)
	w.disk("/var/lib", "80m")
	w.disk("/opt", "80m")
	must(t, w.install("v1"))
	w.fill("/opt", 0)
	w.fill("/var/lib", 2048)
	if seen := w.host("v1").Look(t.Context()); len(seen.Faults) > 0 {
		t.Errorf("nothing is to be written: %+v", seen.Faults)
	}
	w.put(kubeletConfig, delivered)
	must(t, w.Restart(t.Context(), "kubelet.service"))
	h := w.host("v1")
	if seen := h.Look(t.Context()); !slices.Equal(kinds(seen), []string{host.FaultEndpoint}) || !seen.Repairable() {
		t.Errorf("%+v", seen.Faults)
	}
	must(t, h.Repair(t.Context()))
	w.wantInstalled("v1")
}

// TestBypassIsToldWithoutRoom: what cannot be mended is said, beside why not.
func TestBypassIsToldWithoutRoom(t *testing.T) {
	if !mounting(t) {
		return
	}
	w := newWorld(t)
	w.disk("/var/lib", "80m")
	must(t, w.install("v1"))
	w.fill("/var/lib", 0)
	if seen := w.host("v1").Look(t.Context()); len(seen.Faults) > 0 {
		t.Errorf("nothing is to be written: %+v", seen.Faults)
	}
	must(t, w.install("v1")) // as when the node's pod starts again
	must(t, os.WriteFile(w.path(kubeletConfig), []byte(delivered), 0o644))
	must(t, w.Restart(t.Context(), "kubelet.service"))
	if seen := w.host("v1").Look(t.Context()); !slices.Equal(kinds(seen), []string{host.FaultRoom, host.FaultEndpoint}) || seen.Repairable() {
		t.Errorf("%+v", seen.Faults)
	}
}

// TestFaultySettingsHideNoBypass: they cannot be mended from here, and kubelet is looked at all the same.
func TestFaultySettingsHideNoBypass(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	w.put(host.ConfigFile, "mode: [")
	w.put(kubeletConfig, delivered)
	must(t, w.Restart(t.Context(), "kubelet.service"))
	if seen := w.host("v1").Look(t.Context()); !slices.Equal(kinds(seen), []string{host.FaultInvalid, host.FaultEndpoint}) || seen.Repairable() {
		t.Errorf("%+v", seen.Faults)
	}
}

// TestNobodyElseDecidesWhatIsInstalled: a folder to which others can write is not written to, and another's home is not taken for GKE's.
func TestNobodyElseDecidesWhatIsInstalled(t *testing.T) {
	for name, spoil := range map[string]func(*world){
		"binaries": func(w *world) {
			must(t, os.MkdirAll(w.path("/opt/cosentry/bin"), 0o755))
			must(t, os.Chmod(w.path("/opt/cosentry"), 0o777))
		},
		"settings": func(w *world) {
			must(t, os.Mkdir(w.path("/etc/cosentry"), 0o755))
			must(t, os.Chmod(w.path("/etc/cosentry"), 0o757))
		},
		"state": func(w *world) { must(t, os.Chmod(w.path("/var/lib"), 0o777)) },
		"sticky, free": func(w *world) {
			must(t, os.MkdirAll(w.path("/opt"), 0o755))
			must(t, os.Chmod(w.path("/opt"), 0o777|os.ModeSticky))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spoil(w)
			if err := w.install("v1"); err == nil || !strings.Contains(err.Error(), "only root may decide") {
				t.Errorf("error %v", err)
			}
		})
	}
	w := newWorld(t)
	must(t, os.MkdirAll(w.path("/home/kubernetes/bin"), 0o755))
	must(t, w.install("v1"))
	if all, err := os.ReadDir(w.path("/home/kubernetes/bin")); err != nil || len(all) > 0 {
		t.Errorf("written to a home: %v, %v", all, err)
	}
}

func kinds(h host.Health) (all []string) {
	for _, f := range h.Faults {
		all = append(all, f.What)
	}
	return all
}
