package host_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/host/files"
)

// TestUninstallKeepsAnAgentThatKubeletNeeds: if kubelet does not start on the runtime, the agent stays.
func TestUninstallKeepsAnAgentThatKubeletNeeds(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	w.kubeletDies = theirSocket
	if err := w.host("v1").Uninstall(t.Context(), true); err == nil || !strings.Contains(err.Error(), "the agent stays") {
		t.Fatalf("error %v", err)
	}
	if w.units["cosentry.service"].pid == 0 || w.sockets[ourSocket] == nil {
		t.Error("the agent was stopped")
	}
	w.kubeletDies = ""
	must(t, w.host("v1").Uninstall(t.Context(), true))
}

// TestKubeletGoesFirst: at no time is the socket gone that a kubelet is told.
func TestKubeletGoesFirst(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	w.did()
	must(t, w.host("v1").Uninstall(t.Context(), false))
	if diff := cmp.Diff([]string{"start kubelet.service", "stop cosentry.socket", "stop cosentry.service"}, w.did()); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
}

// TestUninstallWithoutState: what is on the host says what to do.
func TestUninstallWithoutState(t *testing.T) {
	for name, state := range map[string]string{"lost": "", "broken": "{", "hostile": `{"format":1,"phase":"installed","files":[{"path":"../etc/hostname","stage":"unit"}]}`} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			before := w.tree()
			must(t, w.install("v1"))
			must(t, os.RemoveAll(w.path("/var/lib/cosentry/install")))
			if state != "" {
				w.put("/var/lib/cosentry/install/state.json", state)
			}
			must(t, w.host("v1").Uninstall(t.Context(), true))
			if diff := cmp.Diff(before[kubeletConfig], w.read(kubeletConfig)); diff != "" || w.told != theirSocket {
				t.Errorf("kubelet on %q:\n%s", w.told, diff)
			}
			for p := range w.tree() {
				if strings.Contains(p, "cosentry") {
					t.Errorf("%s is left", p)
				}
			}
			if w.read("/etc/hostname") != "node\n" {
				t.Error("a file of the host's was removed")
			}
		})
	}
}

// TestOthersEditsStay: what somebody else wrote into kubelet's file since is not lost when it goes back.
func TestOthersEditsStay(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	w.put(kubeletConfig, w.read(kubeletConfig)+"maxPods: 42\n")
	must(t, w.host("v1").Uninstall(t.Context(), true))
	if got := w.read(kubeletConfig); got != delivered+"maxPods: 42\n" {
		t.Errorf("kubelet's settings:\n%s", cmp.Diff(delivered+"maxPods: 42\n", got))
	}
}

// TestFileWrittenAnewIsTheOneThatGoesBack: a kubeadm upgrade writes kubelet's file anew; what goes back is that, and not what was there at
// the first installation.
func TestFileWrittenAnewIsTheOneThatGoesBack(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	anew := strings.Replace(delivered, "100Mi", "200Mi", 1)
	w.put(kubeletConfig, anew)
	must(t, w.install("v1"))
	w.wantInstalled("v1")
	must(t, w.host("v1").Uninstall(t.Context(), true))
	if got := w.read(kubeletConfig); got != anew {
		t.Errorf("kubelet's settings:\n%s", cmp.Diff(anew, got))
	}
}

// TestRecordOfAKilledRunKeepsTheFirstFile: a run writes down what it is about to write. If it is killed then, what is there is still what
// the run before it wrote, and what was there before that is what goes back: a file without an endpoint here.
func TestRecordOfAKilledRunKeepsTheFirstFile(t *testing.T) {
	w := newWorld(t)
	plain := "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nmaxPods: 42\n"
	w.put(kubeletConfig, plain)
	must(t, w.install("v1"))
	state := w.read("/var/lib/cosentry/install/state.json")
	sum := files.Hash([]byte(w.read(kubeletConfig)))
	if !strings.Contains(state, sum) {
		t.Fatalf("the state does not have what was written: %s", state)
	}
	w.put("/var/lib/cosentry/install/state.json", strings.Replace(state, `"sha256": "`+sum+`"`, `"sha256": "`+files.Hash(nil)+`", "older": "`+sum+`"`, 1))
	w.put("/var/lib/cosentry/install/state.json", strings.Replace(w.read("/var/lib/cosentry/install/state.json"), `"installed"`, `"installing"`, 1))
	must(t, w.host("v1").Uninstall(t.Context(), true))
	if got := w.read(kubeletConfig); got != plain {
		t.Errorf("kubelet's settings:\n%s", cmp.Diff(plain, got))
	}
}

// TestLayoutThatWasNamedIsRemembered: who takes cosentry off, or watches a host, need not say again where kubelet's settings are.
func TestLayoutThatWasNamedIsRemembered(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1", func(o *host.Options) { o.Kubelet = kubeletConfig }))
	if state := w.read("/var/lib/cosentry/install/state.json"); !strings.Contains(state, `"layout": "`+kubeletConfig+`"`) {
		t.Fatalf("state %s", state)
	}
	// Now nobody could find out by looking.
	w.put("/usr/lib/systemd/system/kubelet.service", "[Service]\nExecStart=/usr/bin/start-kubelet.sh\n")
	w.put(fmt.Sprintf("/proc/%d/cmdline", w.units["kubelet.service"].pid), "/bin/sh\x00/usr/bin/start-kubelet.sh\x00")
	must(t, w.install("v1"))
	if seen := w.host("v1").Look(t.Context()); len(seen.Faults) > 0 {
		t.Errorf("%+v", seen)
	}
	must(t, w.host("v1").Uninstall(t.Context(), true))
	if got := w.read(kubeletConfig); got != delivered {
		t.Errorf("kubelet's settings:\n%s", cmp.Diff(delivered, got))
	}
}

// TestUninstallOfNothing: a host on which cosentry never was is not touched.
func TestUninstallOfNothing(t *testing.T) {
	w := newWorld(t)
	before := w.tree()
	must(t, w.host("v1").Uninstall(t.Context(), false))
	if diff := cmp.Diff(before, w.tree()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	for _, job := range w.did() {
		if strings.Contains(job, "kubelet") {
			t.Errorf("job %s", job)
		}
	}
}

// TestStateOfAnotherMachine: a copied disk brings a state along; it is told, and the installation goes by what is there.
func TestStateOfAnotherMachine(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	w.put("/etc/machine-id", "ffffffffffffffffffffffffffffffff\n")
	w.out.Reset()
	must(t, w.install("v1"))
	if !strings.Contains(w.out.String(), "0123456789abcdef0123456789abcdef") {
		t.Errorf("nothing is said of it: %s", &w.out)
	}
	w.out.Reset()
	must(t, w.install("v1"))
	if strings.Contains(w.out.String(), "warning") {
		t.Errorf("still: %s", &w.out)
	}
}

// TestWhatIsNoHostIsRefused: nothing is written into a container that forgot where its host is.
func TestWhatIsNoHostIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(*world){
		"no machine-id":   func(w *world) { must(t, os.Remove(w.path("/etc/machine-id"))) },
		"never booted":    func(w *world) { w.put("/etc/machine-id", "uninitialized\n") },
		"no kubelet":      func(w *world) { must(t, os.Remove(w.path("/usr/lib/systemd/system/kubelet.service"))) },
		"no runtime":      func(w *world) { w.sockets[theirSocket].Stop() },
		"unknown kubelet": func(w *world) { w.put(kubeletConfig, "{") },
		"two image services": func(w *world) {
			w.put(kubeletConfig, delivered+"imageServiceEndpoint: unix:///run/stargz.sock\n")
		},
		"a file in the link's place": func(w *world) { w.put("/opt/cosentry/bin/cosentry", "mine") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spoil(w)
			before := w.tree()
			if err := w.install("v1"); err == nil {
				t.Error("installed")
			}
			if diff := cmp.Diff(before, w.tree()); diff != "" {
				t.Errorf("(-before +after):\n%s", diff)
			}
		})
	}
}

// TestPathOfTheRuntimeCannotBeGuessedWrong: --runtime is a check, not a wish.
func TestPathOfTheRuntimeCannotBeGuessedWrong(t *testing.T) {
	w := newWorld(t)
	if err := w.install("v1", func(o *host.Options) { o.Runtime = "crio" }); err == nil || !strings.Contains(err.Error(), "--runtime says crio") {
		t.Errorf("error %v", err)
	}
}

// TestWhatAStrangerLeftDoesNotKeepTheRest: sync's folder is another user's to fill. It goes however deep it is, with few files open; and
// where it cannot go, the state by which the host is known stays for the run after that.
func TestWhatAStrangerLeftDoesNotKeepTheRest(t *testing.T) {
	if !mounting(t) {
		return
	}
	w := newWorld(t)
	before := w.tree()
	must(t, w.install("v1"))
	must(t, os.MkdirAll(w.path("/var/lib/cosentry/cluster/mounted"), 0o700))
	dig(t, w.path("/var/lib/cosentry/cluster"), 5000)
	fewFiles(t)
	inTheWay := w.path("/var/lib/cosentry/cluster/mounted")
	must(t, unix.Mount("tmpfs", inTheWay, "tmpfs", 0, ""))
	err := w.host("v1").Uninstall(t.Context(), true)
	if err == nil || !strings.Contains(err.Error(), "/var/lib/cosentry/cluster: something is mounted in it") {
		t.Errorf("error %v", err)
	}
	if state := w.read("/var/lib/cosentry/install/state.json"); !strings.Contains(state, `"uninstalling"`) {
		t.Errorf("state %s", state)
	}
	must(t, unix.Unmount(inTheWay, 0))
	must(t, w.host("v1").Uninstall(t.Context(), true))
	if diff := cmp.Diff(before, w.tree()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// dig makes folders below a folder, n deep, each in the one before: their path is longer than the system takes.
func dig(t *testing.T, folder string, n int) {
	t.Helper()
	at, err := unix.Open(folder, unix.O_DIRECTORY, 0)
	must(t, err)
	for range n {
		must(t, unix.Mkdirat(at, "d", 0o700))
		next, err := unix.Openat(at, "d", unix.O_DIRECTORY, 0)
		must(t, err)
		must(t, unix.Close(at))
		at = next
	}
	must(t, unix.Close(at))
}

// fewFiles has this process be able to open few files: a removal that has each folder open on its way down cannot do that for long.
func fewFiles(t *testing.T) {
	t.Helper()
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: old.Max}))
	t.Cleanup(func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) })
}
