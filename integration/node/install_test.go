package node

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/integration/machine"
)

// TestLife is the life of cosentry on a node, from its installation to the
// node as it was, on kubelets of two versions and with three layouts.
func TestLife(t *testing.T) {
	for _, o := range []machine.Options{
		{Kubelet: "1.36", Layout: machine.Kubeadm},
		{Kubelet: "1.34", Layout: machine.KubeadmFlags},
		{Kubelet: "1.36", Layout: machine.GKE},
	} {
		t.Run(o.Kubelet+" "+string(o.Layout), func(t *testing.T) { life(t, o) })
	}
}

func life(t *testing.T, o machine.Options) {
	s := newSite(t, o)
	s.push(t, "old:1")
	s.push(t, "evil:1")
	for _, path := range []string{"app:1", "app:2", "data:1"} {
		s.pushSigned(t, path)
	}
	s.sleeper(t, "old", "old:1")
	old := s.wantRunning(t, "old")
	before := s.snapshot(t)

	s.step("dry run changes nothing", func(t *testing.T) {
		plan := s.install(t, "--dry-run")
		for _, word := range []string{"+", ours, "cosentry.socket", "cosentry.service"} {
			if !strings.Contains(plan, word) {
				t.Errorf("the plan does not say %q:\n%s", word, plan)
			}
		}
		s.wantDiff(t, before)
	})
	s.step("install", func(t *testing.T) {
		t.Log(s.install(t))
		s.wantThroughUs(t)
		s.unchanged(t, "old", old)
	})
	s.step("installing again restarts nothing", func(t *testing.T) {
		was := s.processes(t)
		t.Log(s.install(t))
		if is := s.processes(t); is != was {
			t.Errorf("the processes of containerd, cosentry and kubelet were %s and are %s", was, is)
		}
	})
	s.step("units", s.units)
	s.step("observe lets run and records", func(t *testing.T) {
		s.sleeper(t, "evil", "evil:1")
		s.wantRunning(t, "evil")
		if !s.recorded(t, s.image("evil:1"), "deny") {
			t.Error("the audit log does not say that evil:1 would have been refused")
		}
		s.sleeper(t, "app", "app:1")
		s.wantRunning(t, "app")
	})
	s.step("enforce while pods run restarts none", func(t *testing.T) {
		evil, app := s.wantRunning(t, "evil"), s.wantRunning(t, "app")
		s.setMode(t, "enforce")
		// A pod that is started through the agent as it is now shows that it has begun.
		s.sleeper(t, "after", "app:2")
		s.wantRunning(t, "after")
		s.unchanged(t, "evil", evil)
		s.unchanged(t, "app", app)
		s.unchanged(t, "old", old)
	})
	s.step("what is signed runs, what is not is refused", s.refusals)
	s.step("after a reboot as before", func(t *testing.T) {
		must(t, s.Reboot(t.Context(), false))
		must(t, s.WaitKubelet(t.Context()))
		if o.Layout == machine.GKE {
			// Its boot writes kubelet's settings anew, and until cosentry is installed
			// again kubelet starts what it likes. What it started runs on.
			s.wantRunning(t, "evil")
			t.Log(s.install(t))
			s.wantThroughUs(t)
			s.wantRunning(t, "app")
			s.sleeper(t, "later", "evil:1")
			s.wantRefused(t, "later", "main", "CreateContainerError", "no signatures found")
			s.remove(t, "later")
			return
		}
		s.wantThroughUs(t)
		s.wantRunning(t, "app")
		for _, pod := range []string{"evil", "old"} { // whose containers are created anew
			s.wantRefused(t, pod, "main", "CreateContainerError", "no signatures found")
		}
	})
	s.step("uninstall", func(t *testing.T) { s.goes(t, before) })
}

// refusals: every way by which a static pod's images come to the node.
func (s *site) refusals(t *testing.T) {
	good, evil, volume := s.image("app:1"), s.image("evil:1"), s.image("data:1")
	s.push(t, "evil:2")
	fresh := s.image("evil:2") // not on the node yet
	const sleep = "command: [sleep, '2147483647']"
	s.pod(t, "init", "initContainers: [{name: first, image: '"+good+"', command: ['true']}]\n"+
		"containers: [{name: main, image: '"+good+"', "+sleep+", volumeMounts: [{name: data, mountPath: /data}]}]\n"+
		"volumes: [{name: data, image: {reference: '"+volume+"'}}]")
	s.pod(t, "evil-main", "containers: [{name: main, image: '"+fresh+"', "+sleep+"}]")
	s.pod(t, "evil-init", "initContainers: [{name: first, image: '"+fresh+"', command: ['true']}]\n"+
		"containers: [{name: main, image: '"+good+"', "+sleep+"}]")
	s.pod(t, "evil-volume", "containers: [{name: main, image: '"+good+"', "+sleep+", volumeMounts: [{name: data, mountPath: /data}]}]\n"+
		"volumes: [{name: data, image: {reference: '"+fresh+"'}}]")
	// Present since observe mode: kubelet makes no PullImage for it.
	s.pod(t, "evil-present", "containers: [{name: main, image: '"+evil+"', imagePullPolicy: IfNotPresent, "+sleep+"}]")
	s.wantRunning(t, "init")
	s.wantRefused(t, "evil-main", "main", "SignatureValidationFailed", "no signatures found", fresh, "because the signature validation failed", "release-key")
	s.wantRefused(t, "evil-init", "first", "SignatureValidationFailed", "no signatures found", fresh)
	s.wantRefused(t, "evil-volume", "main", "SignatureValidationFailed", "no signatures found")
	s.wantRefused(t, "evil-present", "main", "CreateContainerError", "no signatures found")
	s.remove(t, "init", "evil-main", "evil-init", "evil-volume", "evil-present")
}

// units: what systemd itself says of the units as they were installed.
func (s *site) units(t *testing.T) {
	ctx := t.Context()
	out, err := s.Exec(ctx, "systemd-analyze", "verify", "cosentry.service", "cosentry.socket", "kubelet.service")
	must(t, err)
	if out != "" {
		t.Errorf("systemd-analyze verify has words about the units:\n%s", out)
	}
	text, err := s.Exec(ctx, "systemd-analyze", "security", "--threshold=25", "cosentry.service")
	if err != nil { // the exit code says that the exposure is over 2.5
		t.Errorf("the sandbox is too open: %v", err)
	}
	_, exposure, _ := strings.Cut(text, "Overall exposure level for ")
	t.Log(strings.TrimSpace(exposure))
	for _, unit := range []string{"cosentry.service", "cosentry.socket"} {
		state, err := s.Show(ctx, unit, "UnitFileState")
		must(t, err)
		if state != "enabled" {
			t.Errorf("%s is %s, want it enabled", unit, state)
		}
	}
}

// wantThroughUs expects the kubelet to be healthy and connected to the agent,
// and to nothing of the runtime's.
func (s *site) wantThroughUs(t testing.TB) {
	t.Helper()
	must(t, s.WaitKubelet(t.Context()))
	pid, err := s.Show(t.Context(), "kubelet", "MainPID")
	must(t, err)
	must(t, until(podTimeout, "kubelet to be connected through us", func() bool {
		// It exits with 1 where something is to be told, such as policies that warn.
		out, _ := s.Exec(t.Context(), ourBinaryIn(s.Layout), "status", "-o", "json")
		var status struct {
			Peers struct {
				Kubelet bool
				Clients []struct{ PID int }
			}
		}
		if json.Unmarshal([]byte(out), &status) != nil || !status.Peers.Kubelet {
			return false
		}
		return slices.ContainsFunc(status.Peers.Clients, func(c struct{ PID int }) bool { return itoa(c.PID) == pid })
	}))
}

// takenOff keeps a pod from installing again what a person took off.
const takenOff = "/var/lib/cosentry-uninstalled"

// goes takes cosentry off and expects the node as it was: without --purge all
// but what is the owner's, with it file by file.
func (s *site) goes(t *testing.T, before machine.Snapshot) {
	ctx := t.Context()
	app := s.wantRunning(t, "app")
	out, err := s.Exec(ctx, ourBinaryIn(s.Layout), "uninstall")
	must(t, err)
	t.Log(out)
	s.wantGone(t)
	s.unchanged(t, "app", app)
	if text, err := s.ReadFile(ourPolicy); err != nil || !strings.Contains(text, "release-key") {
		t.Errorf("the owner's policy did not stay: %v", err)
	}
	changes := s.diff(t, before)
	for _, change := range changes {
		if !strings.HasPrefix(change, "/etc/cosentry") && !strings.HasPrefix(change, ourAudit) && !strings.HasPrefix(change, takenOff) && !copied(change) {
			t.Errorf("left behind or changed: %s", change)
		}
	}
	if len(changes) == 0 {
		t.Error("settings and audit log are gone, which only --purge takes")
	}
	s.wantRunning(t, "evil") // nobody judges it any more

	t.Log(s.cosentry(t, "uninstall")) // of nothing
	t.Log(s.install(t))
	s.wantThroughUs(t)
	t.Log(s.cosentry(t, "uninstall", "--purge"))
	s.wantGone(t)
	s.wantDiff(t, before)
	s.unchanged(t, "app", app)
}

// copied says whether a change is the copy of the owner's settings, which outlives an uninstallation where /etc is in memory.
func copied(change string) bool {
	name, _, _ := strings.Cut(change, ":")
	return name == "/var/lib/cosentry" || name == "/var/lib/cosentry/install" || strings.HasPrefix(name, "/var/lib/cosentry/install/etc")
}

// wantGone expects the runtime's own endpoint and nothing of ours.
func (s *site) wantGone(t testing.TB) {
	t.Helper()
	must(t, s.WaitKubelet(t.Context()))
	for _, unit := range []string{"cosentry.service", "cosentry.socket"} {
		state, err := s.Show(t.Context(), unit, "LoadState")
		must(t, err)
		if state != "not-found" {
			t.Errorf("%s is %s, want systemd not to know it", unit, state)
		}
	}
	for _, file := range []string{"/run/cosentry", "/opt/cosentry", "/var/lib/cosentry/install/state.json", "/var/lib/cosentry/evidence", "/usr/local/bin/cosentry", ourBinaryIn(s.Layout)} {
		if s.there(file) {
			t.Errorf("%s is still there", file)
		}
	}
}
