package host_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cosentry/cosentry/agent/host"
)

func TestInstallAndUninstallLeaveNothingBehind(t *testing.T) {
	w := newWorld(t)
	before := w.tree()
	if err := w.install("v1"); err != nil {
		t.Fatal(err, w.out.String())
	}
	w.wantInstalled("v1")
	want := strings.Replace(delivered, "/run/containerd/", "/run/cosentry/", 1)
	if got := w.read(kubeletConfig); got != want {
		t.Errorf("kubelet's settings:\n%s", cmp.Diff(want, got))
	}
	if err := w.host("v1").Uninstall(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if w.told != theirSocket {
		t.Errorf("kubelet uses %s", w.told)
	}
	if diff := cmp.Diff(before, w.tree()); diff != "" {
		t.Errorf("the host is not as it was (-before +after):\n%s", diff)
	}
	if err := w.host("v1").Uninstall(t.Context(), true); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if diff := cmp.Diff(before, w.tree()); diff != "" {
		t.Errorf("the host is not as it was (-before +after):\n%s", diff)
	}
}

// TestPlanChangesNothing: --dry-run shows every file, and writes none.
func TestPlanChangesNothing(t *testing.T) {
	w := newWorld(t)
	before := w.tree()
	p, err := w.host("v1").Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := p.Print(&text); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{
		"-containerRuntimeEndpoint: unix:///run/containerd/containerd.sock # the runtime",
		"+containerRuntimeEndpoint: unix:///run/cosentry/containerd.sock # the runtime",
		"+mode: observe", "+ListenStream=/run/cosentry/containerd.sock", "+After=cosentry.socket", "write /opt/cosentry/bin/cosentry-v1-", "kubelet: restart it",
	} {
		if !strings.Contains(text.String(), words) {
			t.Errorf("the plan does not say %q:\n%s", words, &text)
		}
	}
	if diff := cmp.Diff(before, w.tree()); diff != "" || len(w.did()) > 0 {
		t.Errorf("the plan changed the host (-before +after):\n%s", diff)
	}
}

// TestSecondInstallDoesNothing: who installs again and again restarts nothing.
func TestSecondInstallDoesNothing(t *testing.T) {
	w := newWorld(t)
	if err := w.install("v1"); err != nil {
		t.Fatal(err)
	}
	w.did()
	before := w.tree()
	if err := w.install("v1"); err != nil {
		t.Fatal(err)
	}
	if jobs := w.did(); len(jobs) > 0 {
		t.Errorf("jobs: %v", jobs)
	}
	after := w.tree()
	for _, p := range []string{"/var/lib/cosentry/install/state.json", "/var/lib/cosentry/install/lock"} { // they tell the time
		delete(before, p)
		delete(after, p)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
}

func TestUpgradeRestartsTheAgentAlone(t *testing.T) {
	w := newWorld(t)
	for _, v := range []string{"v1", "v2", "v3"} {
		w.did()
		if err := w.install(v); err != nil {
			t.Fatal(err)
		}
		w.wantInstalled(v)
	}
	if diff := cmp.Diff([]string{"start cosentry.service"}, w.did()); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
	all, err := filepath.Glob(w.path("/opt/cosentry/bin/cosentry-*"))
	if err != nil || len(all) != 2 {
		t.Errorf("binaries: %v, %v; want the one that runs and the one before it", all, err)
	}
}

// TestWhatDoesNotProveItselfIsUndone: wherever a first installation fails, the host is as it was, and kubelet on its runtime.
func TestWhatDoesNotProveItselfIsUndone(t *testing.T) {
	for name, spoil := range map[string]func(*world){
		"the agent does not start":       func(w *world) { w.broken = []string{"v1"} },
		"the agent is blind":             func(w *world) { w.blind = []string{"v1"} },
		"kubelet does not start with it": func(w *world) { w.kubeletDies = ourSocket },
		"systemd enables nothing": func(w *world) {
			w.stop = func(job string) error { return errorIf(strings.HasPrefix(job, "enable")) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			before := w.tree()
			spoil(w)
			err := w.install("v1")
			if err == nil || !strings.HasSuffix(err.Error(), "everything is as it was before") {
				t.Fatalf("error %v", err)
			}
			if diff := cmp.Diff(before, w.tree()); diff != "" {
				t.Errorf("the host is not as it was (-before +after):\n%s", diff)
			}
			if w.told != theirSocket || w.units["kubelet.service"].pid == 0 {
				t.Errorf("kubelet uses %q", w.told)
			}
			if u := w.units["cosentry.service"]; u != nil && u.pid != 0 {
				t.Error("the agent still runs")
			}
		})
	}
}

// TestKubeletThatCannotBeHeardIsNoFailure: any user can take the address at which kubelet says that it is well, when that is restarted. What
// systemd and the kernel say has to do then, with a warning, when cosentry is installed, mended and taken off.
func TestKubeletThatCannotBeHeardIsNoFailure(t *testing.T) {
	w := newWorld(t)
	before := w.tree()
	stranger := fmt.Errorf("%w: who answers is user 65534", host.ErrUntold)
	w.stop = func(job string) error {
		if job == "start kubelet.service" {
			w.unwell = stranger
		}
		return nil
	}
	warned := func(what string, err error) {
		t.Helper()
		must(t, err)
		if !strings.Contains(w.out.String(), "warning: whether kubelet is well cannot be told: who answers is user 65534") {
			t.Errorf("%s: no warning:\n%s", what, &w.out)
		}
		w.out.Reset()
	}
	warned("installed", w.install("v1"))
	w.wantInstalled("v1")
	warned("upgraded", w.install("v2"))
	w.wantInstalled("v2")
	warned("taken off", w.host("v2").Uninstall(t.Context(), true))
	if diff := cmp.Diff(before, w.tree()); diff != "" || w.told != theirSocket {
		t.Errorf("kubelet uses %q, and the host is not as it was:\n%s", w.told, diff)
	}
	w.unwell = stranger // and one who was there first
	warned("installed where it was never heard", w.install("v1"))
	w.wantInstalled("v1")
}

// TestKubeletThatIsNotWellIsUndone: what root says there counts, and a kubelet that nobody hears still has to run, and to use the agent.
func TestKubeletThatIsNotWellIsUndone(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"it says that it is not well": func(w *world) { w.unwell = errors.New("it says 500") },
		"it ends again and again":     func(w *world) { w.unwell, w.flaps = host.ErrUntold, true },
		"it goes another way":         func(w *world) { w.unwell, w.told = host.ErrUntold, theirSocket },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			restarts := 0
			w.stop = func(job string) error {
				if job != "start kubelet.service" {
					return nil
				}
				restarts++
				w.unwell, w.flaps, w.started = nil, false, nil
				if restarts == 1 { // and not when it is back on the runtime
					w.started = func() { spoil(w) }
				}
				return nil
			}
			err := w.install("v1")
			if err == nil || !strings.HasSuffix(err.Error(), "everything is as it was before") {
				t.Fatalf("error %v", err)
			}
			if w.told != theirSocket || restarts != 2 {
				t.Errorf("kubelet uses %q after %d restarts", w.told, restarts)
			}
		})
	}
}

func errorIf(yes bool) error {
	if yes {
		return errors.New("no")
	}
	return nil
}

// TestBrokenUpgradeGoesBack: a version that does not prove itself is replaced by the one before it, behind the same socket.
func TestBrokenUpgradeGoesBack(t *testing.T) {
	for name, spoil := range map[string]func(*world){
		"does not start": func(w *world) { w.broken = []string{"v2"} },
		"is blind":       func(w *world) { w.blind = []string{"v2"} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spoil(w)
			if err := w.install("v1"); err != nil {
				t.Fatal(err)
			}
			w.did()
			if err := w.install("v2"); err == nil {
				t.Fatal("the upgrade succeeded")
			}
			w.wantInstalled("v1")
			if jobs := w.did(); slices.ContainsFunc(jobs, func(j string) bool { return j != "start cosentry.service" }) {
				t.Errorf("jobs: %v; want the agent alone to be restarted", jobs)
			}
			if err := w.install("v3"); err != nil {
				t.Fatal(err)
			}
			w.wantInstalled("v3")
		})
	}
}

// TestKilledAnywhere: a run that is killed at any job or write is carried on by the next, and taken off by an uninstallation.
func TestKilledAnywhere(t *testing.T) {
	count := 0
	clean := newWorld(t)
	clean.stop = func(string) error { count++; return nil }
	if err := clean.install("v1"); err != nil {
		t.Fatal(err)
	}
	for at := 1; at <= count; at++ {
		for _, next := range []string{"install", "uninstall"} {
			w := newWorld(t)
			before := w.tree()
			ctx, kill := context.WithCancel(t.Context())
			n := 0
			w.stop = func(string) error {
				if n++; n >= at { // and every job after it: nothing is undone either
					kill()
					return errors.New("killed")
				}
				return nil
			}
			if err := w.host("v1").Install(ctx); err == nil {
				t.Fatalf("killed at job %d: no error", at)
			}
			w.stop = nil
			if next == "install" {
				if err := w.install("v1"); err != nil {
					t.Errorf("killed at job %d, then installed: %v", at, err)
					continue
				}
				w.wantInstalled("v1")
			}
			if err := w.host("v1").Uninstall(t.Context(), true); err != nil {
				t.Errorf("killed at job %d, then %s: %v", at, next, err)
				continue
			}
			if diff := cmp.Diff(before, w.tree()); diff != "" || w.told != theirSocket {
				t.Errorf("killed at job %d, then %s: the host is not as it was (-before +after), kubelet on %q:\n%s", at, next, w.told, diff)
			}
		}
	}
}

// TestKilledUpgradeGoesBackToWhatProved: the next run goes back to the binary that worked, not to the one that a killed run left in its
// place.
func TestKilledUpgradeGoesBackToWhatProved(t *testing.T) {
	w := newWorld(t)
	w.broken, w.blind = []string{"v2"}, []string{"v3"}
	if err := w.install("v1"); err != nil {
		t.Fatal(err)
	}
	w.stop = func(string) error { return errors.New("killed") }
	if err := w.install("v2"); err == nil {
		t.Fatal("the upgrade succeeded")
	}
	// As a kill would have left it.
	link := w.path("/opt/cosentry/bin/cosentry")
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("cosentry-v2-000000000000", link); err != nil {
		t.Fatal(err)
	}
	w.stop = nil
	if err := w.install("v3"); err == nil {
		t.Fatal("the upgrade succeeded")
	}
	w.wantInstalled("v1")
}

// TestKubeletThatWasNotRestartedIsRemembered: a run that was killed between kubelet's settings and its restart is made good, even where
// nobody can tell which way kubelet goes.
func TestKubeletThatWasNotRestartedIsRemembered(t *testing.T) {
	for _, next := range []string{"install", "uninstall"} {
		w := newWorld(t)
		w.stop = func(job string) error { return errorIf(job == "start kubelet.service") }
		if err := w.install("v1"); err == nil {
			t.Fatal("installed")
		}
		if next == "install" {
			w.put(kubeletConfig, strings.Replace(delivered, "/run/containerd/", "/run/cosentry/", 1)) // as before it was undone
		}
		w.stop, w.unsure = nil, true
		w.did()
		var err error
		if next == "install" {
			err = w.install("v1")
		} else {
			err = w.host("v1").Uninstall(t.Context(), true)
		}
		if err != nil || !slices.Contains(w.did(), "start kubelet.service") {
			t.Errorf("%s: kubelet was not restarted, %v", next, err)
		}
	}
}

// TestWhatWasLostIsNotLostAgain: an upgrade that fails on a host that lost its units leaves the agent before it running, with units.
func TestWhatWasLostIsNotLostAgain(t *testing.T) {
	w := newWorld(t)
	if err := w.install("v1"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/etc/systemd/system", "/etc/cosentry"} {
		if err := os.RemoveAll(w.path(p)); err != nil {
			t.Fatal(err)
		}
	}
	w.broken = []string{"v2"}
	if err := w.install("v2"); err == nil || !strings.Contains(err.Error(), "as it was before") {
		t.Fatalf("error %v", err)
	}
	w.wantInstalled("v1")
	if w.file("cosentry.service") == "" || w.file("cosentry.socket") == "" {
		t.Error("the units are gone")
	}
}

func TestOneInstallationAtATime(t *testing.T) {
	w := newWorld(t)
	inside, other := make(chan struct{}), make(chan struct{})
	once := false
	w.stop = func(string) error {
		if !once {
			once = true
			close(inside)
			<-other
		}
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- w.host("v1").Install(context.WithoutCancel(t.Context())) }()
	<-inside
	before := w.tree()
	err := w.host("v2", func(o *host.Options) { o.LockWait = 1 }).Install(t.Context())
	if err == nil || !strings.Contains(err.Error(), "another installation") {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, w.tree()); diff != "" {
		t.Errorf("the second changed something:\n%s", diff)
	}
	close(other)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.wantInstalled("v1")
}
