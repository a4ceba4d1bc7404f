package node

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/integration/machine"
)

// finding is what `cosentry doctor -o json` says of one check.
type finding struct{ ID, Level, Saw, Do string }

// doctor runs cosentry doctor on the machine and returns its findings by name.
func (s *site) doctor(t testing.TB, args ...string) map[string]finding {
	t.Helper()
	out, err := s.Exec(t.Context(), append([]string{ourBinaryIn(s.Layout), "doctor", "-o", "json"}, args...)...)
	var report struct{ Findings []finding }
	if jerr := json.Unmarshal([]byte(out), &report); jerr != nil {
		t.Fatalf("%v, %v\n%s", jerr, err, out)
	}
	found := map[string]finding{}
	for _, f := range report.Findings {
		found[f.ID] = f
	}
	return found
}

func (s *site) wantFinding(t testing.TB, id, level, says string) {
	t.Helper()
	var last finding
	err := until(podTimeout, "doctor to say "+level+" of "+id, func() bool {
		last = s.doctor(t)[id]
		return last.Level == level && strings.Contains(last.Saw, says)
	})
	if err != nil {
		t.Errorf("%v: it says %s: %s; want … %s …", err, last.Level, last.Saw, says)
	}
}

// TestDoctor: nothing is wrong with a node that is well, and what goes wrong is named, on a real kubelet.
func TestDoctor(t *testing.T) {
	s := newSite(t, machine.Options{})
	s.pushSigned(t, "app:1")
	s.install(t, "--mode", "enforce")
	s.wantThroughUs(t)
	s.sleeper(t, "app", "app:1")
	s.wantRunning(t, "app")

	s.step("a node that is well", func(t *testing.T) {
		for id, f := range s.doctor(t, "--canary") {
			switch {
			case id == "clock": // nobody keeps this machine's
			case id == "sandbox": // is found out of pods where a runtime does not tell it, within a minute
			case f.Level != "ok":
				t.Errorf("%s: %s: %s", id, f.Level, f.Saw)
			}
			t.Logf("%s: %s: %s", f.Level, id, f.Saw)
		}
	})
	s.step("canaries are no refusals", s.testCanaryIsNoRefusal)
	s.step("a typo in the settings, and a restart", s.testTypo)
	s.step("a stranger by kubelet's name on the runtime's socket", func(t *testing.T) {
		s.stranger(t, machine.RuntimeSocket)
		s.wantFinding(t, "runtime-clients", "warn", `"kubelet" (process `)
		if f := s.doctor(t)["kubelet"]; f.Level != "ok" {
			t.Errorf("the stranger is taken for kubelet: %+v", f)
		}
		s.noStranger(t)
		s.wantFinding(t, "runtime-clients", "ok", "nobody but")
	})
	s.step("kubelet past the agent, and a stranger by its name there", func(t *testing.T) {
		s.stranger(t, ourSocket)
		text, err := s.ReadFile("/var/lib/kubelet/config.yaml")
		must(t, err)
		must(t, s.WriteFile("/var/lib/kubelet/config.yaml", strings.ReplaceAll(text, ours, theirs)))
		s.wantFinding(t, "kubelet-endpoint", "fail", theirs)
		_, err = s.Systemctl(t.Context(), "restart", "kubelet")
		must(t, err)
		must(t, s.WaitKubelet(t.Context()))
		s.wantFinding(t, "kubelet", "fail", "BYPASSES")
		out, _ := s.Exec(t.Context(), ourBinaryIn(s.Layout), "status")
		if !strings.Contains(out, "IS NOT CONNECTED") || !strings.Contains(out, "which looks like kubelet") {
			t.Errorf("cosentry status:\n%s", out)
		}
		s.noStranger(t)
		t.Log(s.install(t))
		s.wantThroughUs(t)
		s.wantFinding(t, "kubelet", "ok", "connected")
	})
	s.step("what a reboot took away", func(t *testing.T) {
		_, err := s.Exec(t.Context(), "rm", "/etc/systemd/system/kubelet.service.d/10-cosentry.conf")
		must(t, err)
		s.wantFinding(t, "drop-in", "fail", "is gone")
		s.wantFinding(t, "files", "fail", "10-cosentry.conf")
		t.Log(s.install(t))
		s.wantFinding(t, "drop-in", "ok", "in force")
	})
	s.step("a socket that was stopped", func(t *testing.T) {
		_, err := s.Systemctl(t.Context(), "stop", "cosentry.socket", "cosentry.service")
		must(t, err)
		s.wantFinding(t, "units", "fail", "cosentry.socket is inactive")
		s.wantFinding(t, "agent", "fail", "no agent answers")
		if f := s.doctor(t, "--canary")["canary"]; f.Level != "fail" {
			t.Errorf("a canary without a socket: %+v", f)
		}
	})
}

// stranger is a process that calls itself kubelet, by its program's name and its own, and is connected to socket all the
// time: another agent before it.
func (s *site) stranger(t *testing.T, socket string) {
	t.Helper()
	must(t, s.WriteFile("/root/stranger.yaml", `apiVersion: cosentry.dev/v1alpha1
kind: NodeConfig
listen: /run/stranger/containerd.sock
runtime: {endpoint: `+socket+`}
http: {address: ""}
audit: {dir: /run/stranger/audit}
evidence: {dir: /run/stranger/evidence}
trust: {cacheDir: /run/stranger/trust, updatePublicGood: false}
`))
	_, err := s.Exec(t.Context(), "cp", machine.Cosentry, "/run/kubelet")
	must(t, err)
	_, err = s.Exec(t.Context(), "systemd-run", "--unit=stranger", "--property=RuntimeDirectory=stranger", "/run/kubelet", "run", "--config", "/root/stranger.yaml")
	must(t, err)
}

func (s *site) noStranger(t *testing.T) {
	t.Helper()
	_, err := s.Systemctl(t.Context(), "stop", "stranger")
	must(t, err)
}
