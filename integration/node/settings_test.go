package node

import (
	"strings"
	"testing"
	"time"
)

// testCanaryIsNoRefusal: the canaries of an installation and of doctor are no images that would be refused, so that a new node's report can be
// empty.
func (s *site) testCanaryIsNoRefusal(t *testing.T) {
	report := s.cosentry(t, "report")
	if !strings.Contains(report, "not counted: canaries") || strings.Contains(report, "cosentry-canary") {
		t.Errorf("cosentry report says:\n%s", report)
	}
	if status := s.cosentry(t, "status"); strings.Contains(status, "cosentry-canary") {
		t.Errorf("cosentry status says:\n%s", status)
	}
}

// testTypo: settings that are faulty, and then gone, take the runtime from nobody, and loosen nothing.
func (s *site) testTypo(t *testing.T) {
	ctx := t.Context()
	good, err := s.ReadFile(ourConfig)
	must(t, err)
	restart := func() {
		_, err := s.Systemctl(ctx, "restart", "cosentry.service")
		must(t, err)
		s.wantFinding(t, "kubelet", "ok", "")
	}
	// The copy is there a moment after the start.
	must(t, until(time.Minute, "doctor to find the settings good", func() bool { return s.doctor(t)["settings"].Level == "ok" }))
	must(t, s.WriteFile(ourConfig, good+"polices: {dir: /etc/cosentry/policies}\n"))
	restart()
	s.wantFinding(t, "settings", "fail", "NOT IN FORCE")
	must(t, until(time.Minute, "systemctl to show the fault", func() bool {
		text, err := s.Show(ctx, "cosentry.service", "StatusText")
		return err == nil && strings.Contains(text, "SETTINGS BROKEN")
	}))
	if f := s.doctor(t, "--canary")["canary"]; f.Level != "ok" {
		t.Errorf("the canary: %+v", f)
	}
	_, err = s.Exec(ctx, "rm", ourConfig)
	must(t, err)
	restart()
	if f := s.doctor(t, "--canary")["canary"]; f.Level != "ok" {
		t.Errorf("the canary, without a settings file: %+v", f)
	}
	must(t, s.WriteFile(ourConfig, good))
	s.wantFinding(t, "settings", "warn", "not in force yet")
	restart()
	s.wantFinding(t, "settings", "ok", "")
	if n, err := s.Show(ctx, "cosentry.service", "NRestarts"); err != nil || n != "0" {
		t.Errorf("the service was started again %s times by itself (%v)", n, err)
	}
	_, err = s.Systemctl(ctx, "reload", "cosentry.service")
	must(t, err)
	s.wantThroughUs(t)
}
