package node

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cosentry/cosentry/integration/machine"
)

// agentAddress is where an agent shows things to people.
const agentAddress = "127.0.0.1:9477"

// TestStrangersDecideNothing: a user of the node holds the agent's address before there ever was an agent, and takes kubelet's when that is
// restarted. The node is guarded all the same, can be repaired, and cosentry can be taken off again.
func TestStrangersDecideNothing(t *testing.T) {
	s := newSite(t, machine.Options{})
	s.pushSigned(t, "app:1")
	s.push(t, "evil:1")
	health := fmt.Sprintf("127.0.0.1:%d", machine.HealthzPort)
	squats(t, agentAddress)
	squats(t, health)
	untold := func(t *testing.T, out string) {
		t.Helper()
		if !strings.Contains(out, "warning: whether kubelet is well cannot be told") || !strings.Contains(out, "user 65534") {
			t.Errorf("no warning that kubelet cannot be heard:\n%s", out)
		}
	}

	s.step("installed", func(t *testing.T) {
		untold(t, s.cosentry(t, "install", "--policies", "/root/policies", "--mode", "enforce"))
		taken(t, agentAddress)
		taken(t, health)
		s.wantThroughUs(t)
		s.sleeper(t, "app", "app:1")
		s.wantRunning(t, "app")
		s.sleeper(t, "evil", "evil:1")
		s.wantRefused(t, "evil", "main", "SignatureValidationFailed", "no signatures found")
	})
	s.step("asked", func(t *testing.T) {
		out := s.cosentry(t, "status", "-o", "json")
		if !strings.Contains(out, `"mode": "enforce"`) || strings.Contains(out, "forged") {
			t.Errorf("by the word of a stranger:\n%s", out)
		}
		fi, err := os.Lstat(s.Path("/run/cosentry/agent.sock"))
		must(t, err)
		if st := fi.Sys().(*syscall.Stat_t); fi.Mode() != os.ModeSocket|0o600 || st.Uid != 0 {
			t.Errorf("others than root can ask: %v of user %d", fi.Mode(), st.Uid)
		}
	})
	s.step("asked while the agent is down", func(t *testing.T) {
		_, err := s.Systemctl(t.Context(), "stop", "cosentry.service")
		must(t, err)
		if out, err := s.Exec(t.Context(), machine.Cosentry, "status"); err == nil || strings.Contains(out, "forged") {
			t.Errorf("it is believed who is not the agent: %v\n%s", err, out)
		}
		s.cosentry(t, "install")
		s.cosentry(t, "status")
	})
	s.step("killed", func(t *testing.T) {
		s.kill(t)
		s.cosentry(t, "install")
		s.cosentry(t, "status")
	})
	s.step("taken off", func(t *testing.T) {
		untold(t, s.cosentry(t, "uninstall", "--purge"))
		s.wantGone(t)
	})
}

// squats has a user without rights take an address whenever it is free, and say there what would be good for him.
func squats(t *testing.T, address string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHelperSquats$") // another user cannot come by its path
	cmd.Env = append(os.Environ(), "SQUAT="+address)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// TestHelperSquats is that user's process.
func TestHelperSquats(t *testing.T) {
	address := os.Getenv("SQUAT")
	if address == "" {
		return
	}
	forged := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, `{"mode": "forged"}`) })
	go func() {
		for {
			if l, err := net.Listen("tcp", address); err == nil {
				_ = http.Serve(l, forged)
			}
			time.Sleep(time.Millisecond) // until whoever has it lets go
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// taken fails if the stranger has not got an address: then nothing was tried.
func taken(t *testing.T, address string) {
	t.Helper()
	resp, err := http.Get("http://" + address)
	must(t, err)
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), "forged") {
		t.Fatalf("%s is not the stranger's: %q, %v", address, text, err)
	}
}
