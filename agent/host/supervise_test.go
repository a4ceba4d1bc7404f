package host_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cosentry/cosentry/agent/host"
)

// watch supervises the host: it looks once for each call of the function that it returns.
func watch(t *testing.T, w *world, version string, edit ...func(*host.Options)) func() host.Seen {
	t.Helper()
	s := &host.Supervisor{
		Host: w.host(version, edit...), Log: slog.New(slog.DiscardHandler),
		Every: time.Hour, Patience: 2, Longest: time.Hour, RepairTimeout: time.Minute,
	}
	return s.Stepwise(t.Context(), nil)
}

func what(seen host.Seen) (all []string) {
	for _, f := range seen.Faults {
		all = append(all, f.What)
	}
	return all
}

// TestLostThingsAreMended: whatever of an installation is lost is noticed, waited for, and installed again; kubelet is not restarted for it.
func TestLostThingsAreMended(t *testing.T) {
	for name, c := range map[string]struct {
		lose  func(*world)
		fault string
	}{
		"binary":   {func(w *world) { os.RemoveAll(w.path("/opt/cosentry")) }, host.FaultBinary},
		"settings": {func(w *world) { os.RemoveAll(w.path("/etc/cosentry")) }, host.FaultSettings},
		"unit":     {func(w *world) { os.Remove(w.path("/etc/systemd/system/cosentry.service")) }, host.FaultUnits},
		"drop-in":  {func(w *world) { os.RemoveAll(w.path("/etc/systemd/system/kubelet.service.d")) }, host.FaultDropIn},
		"agent":    {func(w *world) { w.units["cosentry.service"].pid = 0 }, host.FaultAgent},
		"socket":   {func(w *world) { os.Remove(w.path(ourSocket)) }, host.FaultSocket},
		"state": {func(w *world) {
			os.RemoveAll(w.path("/var/lib/cosentry/install"))
			os.RemoveAll(w.path("/etc/systemd/system"))
		}, host.FaultUnits},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			must(t, w.install("v1"))
			look := watch(t, w, "v1")
			if seen := look(); len(seen.Faults) > 0 || seen.Phase != host.Installed {
				t.Fatalf("before: %+v", seen)
			}
			w.did()
			c.lose(w)
			seen := look()
			for range 5 {
				if seen.Repaired+seen.Failed > 0 {
					break
				}
				seen = look()
			}
			seen = look()
			if seen.Repaired != 1 || len(seen.Faults) > 0 {
				t.Errorf("afterwards: %+v", seen)
			}
			w.wantInstalled("v1")
			for _, job := range w.did() {
				if job == "start kubelet.service" {
					t.Error("kubelet was restarted")
				}
			}
		})
	}
}

// TestWhatCannotBeToldIsNotWell: that nobody can see where kubelet is connected is shown, and no reason to restart it.
func TestWhatCannotBeToldIsNotWell(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	w.told, w.unsure = "/run/containerd/containerd.sock", true
	w.did()
	look := watch(t, w, "v1")
	seen := look()
	for range 4 {
		seen = look()
	}
	if got := what(seen); !slices.Equal(got, []string{host.FaultUntold}) || !strings.Contains(seen.Faults[0].Why, "the kernel does not say") {
		t.Errorf("supervise sees %+v", seen.Faults)
	}
	if did := w.did(); len(did) > 0 || !seen.Whole() || seen.Repaired+seen.Failed > 0 {
		t.Errorf("it did %v: %+v", did, seen)
	}
	p, err := w.host("v1").Plan(t.Context())
	must(t, err)
	var plan bytes.Buffer
	must(t, p.Print(&plan))
	if !p.Nothing() || !strings.Contains(plan.String(), "warning: it cannot be told whether kubelet is connected") {
		t.Errorf("the dry run says\n%s", &plan)
	}
}

// cutOff is a host whose second look at kubelet's connections lasts until it is given up.
type cutOff struct {
	*world
	looks atomic.Int32
}

func (c *cutOff) Connected(ctx context.Context, socket, unit string) (bool, error) {
	if c.looks.Add(1) == 1 {
		return c.world.Connected(ctx, socket, unit)
	}
	<-ctx.Done()
	return false, ctx.Err()
}

// TestLookThatIsCutOffHidesNoBypass: that kubelet goes past the agent was seen, and the end of the time for another look changes nothing.
func TestLookThatIsCutOffHidesNoBypass(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	w.told = "/run/containerd/containerd.sock"
	p, err := w.host("v1", func(o *host.Options) { o.Proofs, o.Reconnect = &cutOff{world: w}, 300*time.Millisecond }).Plan(t.Context())
	must(t, err)
	if p.Restart == "" || p.Untold != "" {
		t.Errorf("restart %q, untold %q", p.Restart, p.Untold)
	}
}

func TestKubeletThatGoesAnotherWayIsBroughtBack(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	look := watch(t, w, "v1")
	look()
	w.put(kubeletConfig, delivered)
	must(t, w.Restart(t.Context(), "kubelet.service"))
	for range 5 {
		if look().Repaired > 0 {
			break
		}
	}
	w.wantInstalled("v1")
}

// TestSupervisorNeitherInstallsNorReinstallsOnItsOwn: what was taken off stays off, and another's version stays as well.
func TestSupervisorNeitherInstallsNorReinstallsOnItsOwn(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	look := watch(t, w, "v1")
	look()
	must(t, w.install("v2"))
	for range 4 {
		look()
	}
	w.wantInstalled("v2")
	must(t, os.Remove(w.path("/etc/systemd/system/cosentry.service")))
	for range 5 {
		if look().Repaired > 0 {
			break
		}
	}
	w.wantInstalled("v2")
	before := look()
	must(t, w.host("v2").Uninstall(t.Context(), false))
	var seen host.Seen
	for range 4 {
		seen = look()
	}
	if !seen.Left || before.Repaired != 1 || seen.Repaired > 1 || seen.Failed > 0 || w.told != theirSocket {
		t.Errorf("%+v; kubelet on %s", seen, w.told)
	}
}

// TestMendingThatFailsIsPutOff: a host that cannot be mended is not restarted for ever.
func TestMendingThatFailsIsPutOff(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	look := watch(t, w, "v1")
	look()
	w.blind = []string{"v1"}
	must(t, os.Remove(w.path("/etc/systemd/system/cosentry.service")))
	var seen host.Seen
	for range 8 {
		seen = look()
	}
	if seen.Failed != 1 || len(what(seen)) == 0 && seen.Repaired == 0 {
		t.Errorf("%+v", seen)
	}
}

// TestRuntimeThatIsDownIsNoReasonToInstall: nothing that an installation does would bring it back.
func TestRuntimeThatIsDownIsNoReasonToInstall(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	look := watch(t, w, "v1")
	look()
	w.sockets[theirSocket].Stop()
	w.did()
	look()
	var seen host.Seen
	for range 3 {
		seen = look()
	}
	if got := what(seen); len(got) != 1 || got[0] != host.FaultRuntime || seen.Failed > 0 || len(w.did()) > 0 {
		t.Errorf("%+v", seen)
	}
}
