package host_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cosentry/cosentry/agent/host"
)

func person(o *host.Options) { o.Person = true }

// TestWhatAPersonTookOffStaysOff: no pod that starts again undoes it; a person does, and who purges leaves nothing.
func TestWhatAPersonTookOffStaysOff(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	must(t, w.host("v1", person).Uninstall(t.Context(), false))
	if err := w.install("v1"); !errors.Is(err, host.ErrTakenOff) {
		t.Errorf("a pod installed it: %v", err)
	}
	if err := w.host("v1", person).Repair(t.Context()); !errors.Is(err, host.ErrTakenOff) {
		t.Errorf("it was mended: %v", err)
	}
	look := watch(t, w, "v1") // one that knows nothing of what was
	var seen host.Seen
	for range 4 {
		seen = look()
	}
	if !seen.Left || len(seen.Faults) > 0 || seen.Repaired+seen.Failed > 0 || w.told != theirSocket {
		t.Errorf("%+v", seen)
	}
	must(t, w.install("v1", person))
	w.wantInstalled("v1")
	if _, err := os.Stat(w.path(host.OffFile)); err == nil {
		t.Error("the word that it was taken off is still there")
	}
	must(t, w.install("v1"))
	must(t, w.host("v1", person).Uninstall(t.Context(), false))
	must(t, w.host("v1", person).Uninstall(t.Context(), true))
	if _, err := os.Stat(w.path(host.OffFile)); err == nil {
		t.Error("--purge left a file")
	}
	must(t, w.install("v1"))
}

// TestWhatTheLabelTookOffComesBack: the uninstalling pod leaves no word, so that taking the label off installs it again.
func TestWhatTheLabelTookOffComesBack(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	must(t, w.host("v1").Uninstall(t.Context(), false))
	must(t, w.install("v1"))
	w.wantInstalled("v1")
}

// TestSupervisorThatStartsAfterAPurgeInstallsNothing: what it knows is on the host and not in its memory.
func TestSupervisorThatStartsAfterAPurgeInstallsNothing(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	must(t, w.host("v1", person).Uninstall(t.Context(), true))
	look := watch(t, w, "v1")
	var seen host.Seen
	for range 4 {
		seen = look()
	}
	if !seen.Left || len(seen.Faults) > 0 || seen.Repaired > 0 || w.told != theirSocket {
		t.Errorf("%+v", seen)
	}
}

// TestFirstInstallationKilledWhileItCopies: what is there then is a state with a machine's ID and nothing else.
func TestFirstInstallationKilledWhileItCopies(t *testing.T) {
	policies := t.TempDir()
	for _, name := range []string{"a.yaml", "b.yaml"} {
		must(t, os.WriteFile(filepath.Join(policies, name), []byte("{}\n"), 0o600))
	}
	given := func(o *host.Options) { o.Policies = policies }
	w := newWorld(t)
	id := strings.TrimSpace(w.read("/etc/machine-id"))
	w.put("/var/lib/cosentry/install/state.json", `{"format":1,"machineID":"`+id+`","phase":"installing"}`)
	must(t, w.install("v1", given))
	for _, name := range []string{"a.yaml", "b.yaml"} {
		if w.read(host.PoliciesDir+"/"+name) != "{}\n" {
			t.Errorf("installed without policy %s", name)
		}
	}

	// Without policies there is a folder for them: an agent without one is not ready.
	w = newWorld(t)
	w.put("/var/lib/cosentry/install/state.json", `{"format":1,"machineID":"`+id+`","phase":"installing"}`)
	must(t, w.install("v1"))

	// And one that was killed between two policies.
	w = newWorld(t)
	must(t, w.install("v1", given))
	state := w.read("/var/lib/cosentry/install/state.json")
	cut := state[strings.Index(state, `"agent": {`):strings.Index(state, `"runtime": {`)]
	w.put("/var/lib/cosentry/install/state.json", strings.Replace(state, cut, "", 1))
	must(t, os.Remove(w.path(host.PoliciesDir+"/b.yaml")))
	must(t, w.install("v1", given))
	if w.read(host.PoliciesDir+"/b.yaml") != "{}\n" {
		t.Error("installed with half of the policies")
	}
	// Once it proved itself, what its owner removed stays away.
	must(t, os.Remove(w.path(host.PoliciesDir+"/b.yaml")))
	must(t, w.install("v1", given))
	if _, err := os.Stat(w.path(host.PoliciesDir + "/b.yaml")); err == nil {
		t.Error("a policy came back")
	}
}

// TestAgentThatIsNotReadyProvesNothing: unless it was not ready before either, as with a policy that its owner broke, where kubelet
// would be left without it.
func TestAgentThatIsNotReadyProvesNothing(t *testing.T) {
	w := newWorld(t)
	w.unready = []string{"v1"}
	if err := w.install("v1"); err == nil || !strings.Contains(err.Error(), "no policies are in force") || w.told != theirSocket {
		t.Errorf("error %v, kubelet on %s", err, w.told)
	}
	w.unready = []string{"v2"}
	must(t, w.install("v1"))
	if err := w.install("v2"); err == nil {
		t.Error("upgraded to what is not ready")
	}
	w.wantInstalled("v1")
	w.unready = []string{"v1"}
	must(t, os.RemoveAll(w.path("/etc/systemd/system")))
	must(t, w.install("v1"))
	w.wantInstalled("v1")
}

// TestRefusedUpgradeIsNotTriedAgainAtOnce: each attempt costs the node its agent for a while, and pods that fail are started again.
func TestRefusedUpgradeIsNotTriedAgainAtOnce(t *testing.T) {
	w := newWorld(t)
	w.blind = []string{"v2"}
	must(t, w.install("v1"))
	if err := w.install("v2"); err == nil {
		t.Fatal("upgraded")
	}
	w.did()
	err := w.install("v2")
	if err == nil || !strings.Contains(err.Error(), "nobody saw it") || !strings.Contains(err.Error(), "--again") || len(w.did()) > 0 {
		t.Errorf("error %v", err)
	}
	must(t, w.install("v1")) // forgets nothing
	if err := w.install("v2"); err == nil || len(w.did()) > 0 {
		t.Errorf("error %v", err)
	}
	if err := w.install("v2", func(o *host.Options) { o.Again = true }); err == nil || len(w.did()) == 0 {
		t.Errorf("error %v; want it tried again", err)
	}
	w.blind = nil
	state := w.read("/var/lib/cosentry/install/state.json")
	at := strings.Index(state, `"until": "`) + len(`"until": "`)
	w.put("/var/lib/cosentry/install/state.json", state[:at]+"2001"+state[at+4:])
	must(t, w.install("v2"))
	w.wantInstalled("v2")
	if strings.Contains(w.read("/var/lib/cosentry/install/state.json"), `"refused"`) {
		t.Error("what was refused is still known")
	}
}

// TestStoppedWhileLookingLeavesNothing: not even a lock, and whoever stops it need not know what there is to remove.
func TestStoppedWhileLookingLeavesNothing(t *testing.T) {
	for name, do := range map[string]func(*host.Host, context.Context) error{
		"install":   (*host.Host).Install,
		"uninstall": func(h *host.Host, ctx context.Context) error { return h.Uninstall(ctx, false) },
	} {
		w := newWorld(t)
		before := w.tree()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := do(w.host("v1"), ctx)
		if diff := cmp.Diff(before, w.tree()); diff != "" {
			t.Errorf("%s (%v): the host is not as it was (-before +after):\n%s", name, err, diff)
		}
	}
}

// TestStoppedUpgradeIsNotRefused: who stops it shows nothing of the binary.
func TestStoppedUpgradeIsNotRefused(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	ctx, stop := context.WithCancel(t.Context())
	w.stop = func(string) error {
		w.stop = nil
		stop()
		return errors.New("stopped")
	}
	if err := w.host("v2").Install(ctx); err == nil {
		t.Fatal("upgraded")
	}
	w.wantInstalled("v1")
	must(t, w.install("v2"))
}

// TestHalfOfABinaryIsRemoved: a run that is killed while it copies leaves 90 MB of a name that no other run has.
func TestHalfOfABinaryIsRemoved(t *testing.T) {
	half := "/opt/cosentry/bin/.cosentry-ABCDEFGHIJKLMNOPQRSTUVWXYZ.tmp"
	for _, next := range []string{"install", "uninstall"} {
		w := newWorld(t)
		must(t, w.install("v1"))
		w.put(half, "half")
		w.put("/opt/cosentry/bin/.cosentry-mine.tmp", "mine")
		if next == "install" {
			must(t, w.install("v1"))
		} else {
			must(t, w.host("v1").Uninstall(t.Context(), false))
		}
		if _, err := os.Stat(w.path(half)); err == nil {
			t.Errorf("%s: it is still there", next)
		}
		if w.read("/opt/cosentry/bin/.cosentry-mine.tmp") != "mine" {
			t.Errorf("%s: what is another's was removed", next)
		}
	}
}

// TestFaultThatComesBackIsMendedMoreSlowly: another manager that writes kubelet's settings must not have kubelet restarted all the time.
func TestFaultThatComesBackIsMendedMoreSlowly(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1"))
	now := time.Unix(1000, 0)
	s := &host.Supervisor{Host: w.host("v1"), Log: slog.New(slog.DiscardHandler),
		Every: 10 * time.Second, Patience: 2, Longest: 5 * time.Minute, RepairTimeout: time.Minute}
	look := s.Stepwise(t.Context(), func() time.Time { return now })
	var at []time.Duration
	for range 240 { // forty minutes
		before := s.Seen().Repaired
		if w.told == ourSocket {
			w.put(kubeletConfig, delivered)
			must(t, w.Restart(t.Context(), "kubelet.service"))
		}
		if look().Repaired > before {
			at = append(at, now.Sub(time.Unix(1000, 0)))
		}
		now = now.Add(10 * time.Second)
	}
	var gaps []time.Duration
	for i := 1; i < len(at); i++ {
		gaps = append(gaps, at[i]-at[i-1])
	}
	if len(at) < 3 || len(at) > 15 || !slices.IsSorted(gaps) || gaps[len(gaps)-1] < 5*time.Minute {
		t.Errorf("mended after %v", at)
	}
	now = now.Add(3 * time.Hour)
	w.put(kubeletConfig, strings.Replace(w.read(kubeletConfig), "/run/cosentry/", "/run/containerd/", 1))
	must(t, w.Restart(t.Context(), "kubelet.service"))
	look()
	before := s.Seen().Repaired
	for range 2 {
		look()
	}
	if s.Seen().Repaired != before+1 && w.told != ourSocket {
		t.Error("after hours it is mended slowly still")
	}
}

// TestFoldersOfTheAgentComeBack: systemd makes them when it starts the agent, which has no way into others.
func TestFoldersOfTheAgentComeBack(t *testing.T) {
	for _, dir := range []string{"/var/lib/cosentry", "/var/log/cosentry"} {
		w := newWorld(t)
		must(t, w.install("v1"))
		look := watch(t, w, "v1")
		look()
		must(t, os.RemoveAll(w.path(dir)))
		w.did()
		for range 5 {
			if look().Repaired > 0 {
				break
			}
		}
		if jobs := w.did(); !slices.Equal(jobs, []string{"start cosentry.service"}) {
			t.Errorf("%s: jobs %v", dir, jobs)
		}
		if seen := look(); len(seen.Faults) > 0 || !strings.HasPrefix(w.read(dir), "(is a directory") {
			t.Errorf("%s: %+v", dir, seen.Faults)
		}
	}
}
