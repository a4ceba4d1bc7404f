package node

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/integration/machine"
)

// inFlight are kubelet's lines about a call that was under way when the agent
// was killed. A call made later is none of them: it waits in the socket.
var inFlight = regexp.MustCompile(`error reading from server: (EOF|read unix @->` + ourSocket + `: read: connection reset by peer)`)

// TestKilledAndUpgraded: on one node, in enforce mode, with pods being started all the time.
func TestKilledAndUpgraded(t *testing.T) {
	s := newSite(t, machine.Options{})
	s.pushSigned(t, "app:1")
	s.push(t, "evil:1")
	s.install(t, "--mode", "enforce")
	s.wantThroughUs(t)
	s.sleeper(t, "app", "app:1")
	app := s.wantRunning(t, "app")

	s.step("killed twenty times", func(t *testing.T) {
		cursor, err := s.Cursor(t.Context())
		must(t, err)
		s.stream(t, "k", 20, true, func(int) { s.kill(t) })
		lines, broken := s.trouble(t, cursor, inFlight)
		for _, line := range lines {
			t.Errorf("kubelet: %s", line)
		}
		t.Logf("%d of kubelet's lines are about calls under way at one of 20 kills", len(broken))
		s.unchanged(t, "app", app)
	})
	s.step("upgraded ten times", func(t *testing.T) {
		cursor, err := s.Cursor(t.Context())
		must(t, err)
		was := strings.Fields(s.processes(t))
		s.stream(t, "u", 10, false, func(i int) {
			s.upgrade(t, s.otherBinary(t, fmt.Sprintf("next%d", i)))
		})
		lines, _ := s.trouble(t, cursor, nil)
		for _, line := range lines {
			t.Errorf("kubelet: %s", line)
		}
		is := strings.Fields(s.processes(t))
		if is[2] != was[2] || is[0] != was[0] || is[1] == was[1] {
			t.Errorf("the processes of containerd, cosentry and kubelet were %s and are %s", was, is)
		}
		s.unchanged(t, "app", app)
		s.wantThroughUs(t)
	})
	for _, b := range []struct{ name, run string }{
		{"a binary that ends at once", "exit 1"},
		{"a binary that never answers", "exec sleep 1000"},
	} {
		s.step(b.name+" is rolled back", func(t *testing.T) { s.brokenUpgrade(t, b.run) })
	}
	s.unchanged(t, "app", app)
	s.sleeper(t, "evil", "evil:1")
	s.wantRefused(t, "evil", "main", "SignatureValidationFailed", "no signatures found")
}

// otherBinary is the program under test as a file with another hash, as a new version is.
func (s *site) otherBinary(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(s.Tools.Cosentry)
	must(t, err)
	at := "/root/" + name
	must(t, s.WriteFile(at, string(data)+name))
	must(t, os.Chmod(s.Path(at), 0o755))
	return at
}

func (s *site) upgrade(t testing.TB, binary string) {
	t.Helper()
	_, err := s.Exec(t.Context(), binary, "install")
	must(t, err)
	must(t, os.Remove(s.Path(binary)))
}

// broken writes a binary that answers as one to install should, and then does something else than run.
func (s *site) broken(t testing.TB, run string) {
	t.Helper()
	must(t, s.WriteFile("/root/broken", "#!/bin/sh\ncase \"$1\" in\nversion) echo cosentry v9.9.9; exit 0;;\nconfig) exit 0;;\nesac\n"+run+"\n"))
	must(t, os.Chmod(s.Path("/root/broken"), 0o755))
}

// brokenUpgrade installs a binary whose run does something else, and expects
// the one before to be in force again, by itself and without a touch to kubelet.
func (s *site) brokenUpgrade(t *testing.T, run string) {
	s.broken(t, run)
	good, err := os.Readlink(s.Path(ourBinary))
	must(t, err)
	before := s.snapshot(t)
	was := strings.Fields(s.processes(t))
	cursor, err := s.Cursor(t.Context())
	must(t, err)

	out, err := s.Exec(t.Context(), machine.Cosentry, "install", "--binary", "/root/broken")
	if err == nil {
		t.Fatalf("a broken binary was installed:\n%s", out)
	}
	t.Log(out)
	if !strings.Contains(out, "cosentry.service") {
		t.Errorf("it was never started:\n%s", out)
	}
	if now, err := os.Readlink(s.Path(ourBinary)); err != nil || now != good {
		t.Errorf("%s leads to %s (%v), want %s as before", ourBinary, now, err, good)
	}
	s.wantThroughUs(t)
	is := strings.Fields(s.processes(t))
	if is[2] != was[2] {
		t.Errorf("kubelet was restarted: it was process %s and is %s", was[2], is[2])
	}
	for _, change := range s.diff(t, before) {
		if !strings.HasPrefix(change, ourAudit) && !strings.HasPrefix(change, "/var/lib/cosentry/") {
			t.Errorf("changed: %s", change)
		}
	}
	lines, _ := s.trouble(t, cursor, inFlight)
	for _, line := range lines {
		if strings.Contains(line, "dial") || strings.Contains(line, "refused") {
			t.Errorf("kubelet: %s", line)
		}
	}
}

// spoilt is where a test has kubelet not start with our socket.
const spoilt = "/etc/systemd/system/kubelet.service.d"

// TestInstallationThatFails: what does not prove itself is put back, file by
// file, and kubelet never loses its runtime.
func TestInstallationThatFails(t *testing.T) {
	s := newSite(t, machine.Options{})
	s.push(t, "old:1")
	s.sleeper(t, "old", "old:1")
	old := s.wantRunning(t, "old")
	before := s.snapshot(t)
	fails := func(t *testing.T, words string, args ...string) {
		t.Helper()
		out, err := s.Exec(t.Context(), append([]string{machine.Cosentry, "install", "--policies", "/root/policies"}, args...)...)
		if err == nil {
			t.Fatalf("it was installed:\n%s", out)
		}
		if !strings.Contains(out, words) {
			t.Errorf("it does not say %q:\n%s", words, out)
		}
		must(t, s.WaitKubelet(t.Context()))
		s.wantGone(t)
		for _, change := range s.diff(t, before) {
			if !strings.HasPrefix(change, ourAudit) && !strings.HasPrefix(change, spoilt+":") && !strings.HasPrefix(change, spoilt+"/99-test.conf") { // what was decided stays on record
				t.Errorf("changed: %s", change)
			}
		}
		s.unchanged(t, "old", old)
	}
	s.step("kubelet that is not well on the new socket", func(t *testing.T) {
		must(t, s.WriteFile(spoilt+"/99-test.conf", "[Service]\nExecStartPre=/bin/sh -c '! grep -q "+ourSocket+" /var/lib/kubelet/config.yaml'\n"))
		_, err := s.Systemctl(t.Context(), "daemon-reload")
		must(t, err)
		fails(t, "kubelet")
		must(t, os.RemoveAll(s.Path(spoilt)))
		_, err = s.Systemctl(t.Context(), "daemon-reload")
		must(t, err)
	})
	s.step("a binary that ends at once", func(t *testing.T) {
		s.broken(t, "exit 1")
		fails(t, "cosentry.service", "--binary", "/root/broken")
	})
	s.step("a layout that this host has not", func(t *testing.T) { fails(t, "eks", "--kubelet", "eks") })
	s.step("another runtime", func(t *testing.T) { fails(t, "crio", "--runtime", "crio") })
	s.step("a runtime that does not run", func(t *testing.T) {
		_, err := s.Systemctl(t.Context(), "stop", "containerd")
		must(t, err)
		out, err := s.Exec(t.Context(), machine.Cosentry, "install")
		if err == nil || !strings.Contains(out, machine.RuntimeSocket) {
			t.Errorf("install without a runtime: %v", err)
		}
		if s.there("/etc/cosentry") || s.there("/opt/cosentry") {
			t.Error("something was written before the host was looked at")
		}
		_, err = s.Systemctl(t.Context(), "start", "containerd")
		must(t, err)
	})
}

// TestRebootThatLosesEtc: as on a node whose /etc is a tmpfs. The owner's
// settings come back, and what would have been refused is.
func TestRebootThatLosesEtc(t *testing.T) {
	s := newSite(t, machine.Options{Layout: machine.GKE})
	s.pushSigned(t, "app:1")
	s.push(t, "evil:1")
	s.install(t, "--mode", "enforce")
	s.wantThroughUs(t)
	policy, err := s.ReadFile(ourPolicy)
	must(t, err)
	must(t, s.Reboot(t.Context(), true))
	must(t, s.WaitKubelet(t.Context()))
	if s.there("/etc/cosentry") || s.there("/etc/systemd/system/cosentry.socket") {
		t.Fatal("/etc was not lost")
	}
	out, err := s.Exec(t.Context(), ourBinaryIn(s.Layout), "install")
	must(t, err)
	t.Log(out)
	s.wantThroughUs(t)
	again, err := s.ReadFile(ourPolicy)
	if err != nil || again != policy {
		t.Errorf("the owner's policy is not what it was: %v", err)
	}
	s.sleeper(t, "app", "app:1")
	s.sleeper(t, "evil", "evil:1")
	s.wantRunning(t, "app")
	s.wantRefused(t, "evil", "main", "SignatureValidationFailed", "no signatures found")
}
