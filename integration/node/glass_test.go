package node

import (
	"strings"
	"testing"
	"time"

	"github.com/cosentry/cosentry/integration/machine"
)

// TestHangAndBrokenGlass: an agent that hangs is found by systemd and started anew while kubelet waits, and an owner who has to
// run something tonight can, for as long as he said and with his name on it.
func TestHangAndBrokenGlass(t *testing.T) {
	s := newSite(t, machine.Options{})
	s.pushSigned(t, "app:1")
	s.push(t, "evil:1")
	s.install(t, "--mode", "enforce")
	s.wantThroughUs(t)
	s.sleeper(t, "app", "app:1")
	app := s.wantRunning(t, "app")

	s.step("an agent that hangs", func(t *testing.T) {
		must(t, s.WriteFile("/etc/systemd/system/cosentry.service.d/50-soon.conf", "[Service]\nWatchdogSec=20s\n"))
		_, err := s.Systemctl(t.Context(), "daemon-reload")
		must(t, err)
		_, err = s.Systemctl(t.Context(), "restart", "cosentry.service")
		must(t, err)
		s.wantThroughUs(t)
		kubelet, err := s.Show(t.Context(), "kubelet.service", "MainPID")
		must(t, err)
		agent, err := s.Show(t.Context(), "cosentry.service", "MainPID")
		must(t, err)
		_, err = s.Systemctl(t.Context(), "kill", "--signal=STOP", "cosentry.service")
		must(t, err)
		must(t, until(2*time.Minute, "systemd to start another agent", func() bool {
			now, err := s.Show(t.Context(), "cosentry.service", "MainPID")
			return err == nil && now != agent && now != "0"
		}))
		for _, word := range []string{"Watchdog timeout", "Failed with result 'watchdog'", "goroutine 1 "} {
			must(t, until(time.Minute, "the journal to say "+word, func() bool {
				journal, err := s.Journal(t.Context(), "cosentry.service", "")
				return err == nil && strings.Contains(journal, word)
			}))
		}
		s.wantThroughUs(t)
		if now, err := s.Show(t.Context(), "kubelet.service", "MainPID"); err != nil || now != kubelet {
			t.Errorf("kubelet was process %s and is %s (%v)", kubelet, now, err)
		}
		s.unchanged(t, "app", app)
	})
	s.step("a runtime that is away is no reason to end the agent", func(t *testing.T) {
		agent, err := s.Show(t.Context(), "cosentry.service", "MainPID")
		must(t, err)
		_, err = s.Systemctl(t.Context(), "stop", "containerd.service")
		must(t, err)
		must(t, until(time.Minute, "systemctl to show that the runtime is away", func() bool {
			text, err := s.Show(t.Context(), "cosentry.service", "StatusText")
			return err == nil && strings.Contains(text, "NOT READY: the runtime cannot be reached")
		}))
		// Longer than the watchdog waits, by its own clock.
		fed, err := s.Show(t.Context(), "cosentry.service", "WatchdogTimestampMonotonic")
		must(t, err)
		for range 4 { // it is fed three times in the time that it waits, and the first may come at once
			must(t, until(time.Minute, "the watchdog to be fed", func() bool {
				now, err := s.Show(t.Context(), "cosentry.service", "WatchdogTimestampMonotonic")
				was := fed
				fed = now
				return err == nil && now != was
			}))
		}
		if now, err := s.Show(t.Context(), "cosentry.service", "MainPID"); err != nil || now != agent {
			t.Errorf("the agent was process %s and is %s (%v)", agent, now, err)
		}
		_, err = s.Systemctl(t.Context(), "start", "containerd.service")
		must(t, err)
		s.wantThroughUs(t)
		s.unchanged(t, "app", app)
	})
	s.step("the glass", func(t *testing.T) {
		s.sleeper(t, "evil", "evil:1")
		s.wantRefused(t, "evil", "main", "SignatureValidationFailed", "no signatures found")
		out := s.cosentry(t, "break-glass", "--reason", "INC-4711", "--for", "1h")
		if !strings.Contains(out, "everything is let through until") {
			t.Errorf("break-glass says: %s", out)
		}
		evil := s.wantRunningWithin(t, "evil", triedAgain)
		for where, text := range map[string]string{
			"cosentry status":  s.cosentry(t, "status"),
			"systemctl status": s.statusText(t),
			"the audit log":    s.cosentry(t, "audit", "tail", "-n", "200"),
		} {
			if !strings.Contains(text, "INC-4711") && !strings.Contains(text, "BREAK-GLASS until") {
				t.Errorf("%s does not tell of it:\n%s", where, text)
			}
		}
		s.cosentry(t, "break-glass", "--end")
		s.unchanged(t, "evil", evil) // what runs goes on running
		s.sleeper(t, "evil2", "evil:1")
		s.wantRefused(t, "evil2", "main", "CreateContainerError", "no signatures found")
	})
	s.step("is whole after a boot", func(t *testing.T) {
		s.cosentry(t, "break-glass", "--reason", "INC-4712", "--for", "24h")
		must(t, s.Reboot(t.Context(), false))
		s.wantThroughUs(t)
		s.wantRefused(t, "evil2", "main", "CreateContainerError", "no signatures found")
		if out := s.cosentry(t, "status"); strings.Contains(out, "BREAK-GLASS") {
			t.Errorf("cosentry status says:\n%s", out)
		}
	})
}

// statusText is what the agent says of itself to systemd, once that is of a broken glass.
func (s *site) statusText(t *testing.T) (text string) {
	t.Helper()
	must(t, until(time.Minute, "systemctl to show the broken glass", func() bool {
		var err error
		text, err = s.Show(t.Context(), "cosentry.service", "StatusText")
		return err == nil && strings.Contains(text, "BREAK-GLASS until")
	}))
	return text
}
