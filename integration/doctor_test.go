package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/integration/harness"
)

func wantFinding(t *testing.T, found map[string]finding, id, level, says string) {
	t.Helper()
	f := found[id]
	if f.Level != level || !strings.Contains(f.Saw, says) {
		t.Errorf("%s: %s: %s; want %s: … %s …", id, f.Level, f.Saw, level, says)
	}
	if (f.Level == "fail") && f.Do == "" {
		t.Errorf("%s: nothing is said to be done about: %s", id, f.Saw)
	}
}

// TestDoctorOnARunningNode: what is well is well, and who is on the runtime's own socket is named by his process.
func TestDoctorOnARunningNode(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "signed")
	w.wantRun(t, w.image("app:1"), "signed")
	found, _ := w.doctor(t, w.agent.Config())
	for id, says := range map[string]string{
		"settings": "good", "mode": "enforce", "agent": "ready", "runtime": "containerd", "socket": "answers for containerd",
		"policies": "1 policies", "references": "", "namespaces": "all", "registries": "1 registries answer", "audit": "chain whole",
	} {
		wantFinding(t, found, id, "ok", says)
	}
	// This test's process is connected to containerd itself, as somebody with crictl would be.
	wantFinding(t, found, "runtime-clients", "warn", fmt.Sprintf("process %d of user 0", os.Getpid()))
	if strings.Contains(found["runtime-clients"].Saw, fmt.Sprintf("process %d ", w.agent.PID())) {
		t.Errorf("the agent is told as a stranger: %s", found["runtime-clients"].Saw)
	}
	// There is no kubelet here, and no systemd to ask for one.
	wantFinding(t, found, "kubelet", "warn", "no kubelet is connected")
	wantFinding(t, found, "units", "warn", "systemd cannot be asked")

	output, code := w.command(t, "status")
	if code != 0 || !strings.Contains(output, "IS NOT CONNECTED") || !strings.Contains(output, fmt.Sprintf("process %d of user 0", os.Getpid())) {
		t.Errorf("cosentry status: exit code %d\n%s", code, output)
	}
}

// TestDoctorWhereTheAgentIsDead: it is most needed there.
func TestDoctorWhereTheAgentIsDead(t *testing.T) {
	w := newWorld(t, nil)
	w.push("evil:1", "evil")
	_, err := w.kubelet.Pull(t.Context(), w.pod(), w.image("evil:1"), nil)
	wantRefused(t, err, "no signatures found")
	output, _ := w.command(t, "status")
	if !strings.Contains(output, "last refusal") || !strings.Contains(output, w.image("evil:1")) {
		t.Errorf("cosentry status does not tell the last refusal:\n%s", output)
	}
	w.agent.Kill()
	found, code := w.doctor(t, w.agent.Config(), "--canary")
	if code != 2 {
		t.Errorf("exit code %d", code)
	}
	for id, says := range map[string]string{"agent": "does not answer", "socket": "nobody is listening", "canary": "does not answer"} {
		wantFinding(t, found, id, "fail", says)
	}
	for id, says := range map[string]string{"settings": "good", "runtime": "containerd", "policies": "1 policies", "references": "", "audit": "chain whole", "registries": "1 registries answer"} {
		wantFinding(t, found, id, "ok", says)
	}
	must(t, w.agent.Start())
	// The agent that came after tells what its forerunner refused.
	must(t, harness.Until(10*time.Second, "the last refusal to be told again", func() bool {
		output, _ := w.command(t, "status")
		return strings.Contains(output, w.image("evil:1"))
	}))
}

// TestDoctorNamesWhatIsBroken: each fault alone, on a node that was well before.
func TestDoctorNamesWhatIsBroken(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "signed")
	w.wantRun(t, w.image("app:1"), "signed")

	must(t, w.agent.WritePolicy("broken.yaml", "kind: ["))
	must(t, harness.Until(10*time.Second, "the broken file to be told", func() bool {
		found, _ := w.doctor(t, w.agent.Config())
		return found["policies"].Level == "fail" && strings.Contains(found["policies"].Saw, "broken.yaml") && strings.Contains(found["policies"].Saw, "stay in force")
	}))
	must(t, w.agent.WritePolicy("broken.yaml", ""))

	w.Registry.Stop()
	found, _ := w.doctor(t, w.agent.Config())
	wantFinding(t, found, "registries", "fail", w.Registry.Addr)
	must(t, w.Registry.Start())

	must(t, os.Chmod(w.agent.PolicyDir, 0o777))
	found, _ = w.doctor(t, w.agent.Config())
	wantFinding(t, found, "permissions", "fail", w.agent.PolicyDir+" can be written to by everybody")
	must(t, os.Chmod(w.agent.PolicyDir, 0o755))

	// Somebody else's socket in the agent's place: all is answered, and nothing is judged.
	must(t, os.Rename(w.agent.Socket, w.agent.Socket+".away"))
	must(t, os.Symlink(w.Containerd.Socket, w.agent.Socket))
	found, _ = w.doctor(t, w.agent.Config(), "--canary")
	wantFinding(t, found, "socket", "fail", "the runtime itself")
	wantFinding(t, found, "canary", "fail", "NOBODY JUDGED IT")
	must(t, os.Remove(w.agent.Socket))
	must(t, os.Rename(w.agent.Socket+".away", w.agent.Socket))
	if left := w.canaries(t); len(left) > 0 {
		t.Errorf("left on the node: %v", left)
	}

	_, err := w.Containerd.Stop(20 * time.Second)
	must(t, err)
	found, _ = w.doctor(t, w.agent.Config())
	wantFinding(t, found, "runtime", "fail", "does not answer")
	wantFinding(t, found, "agent", "fail", "cannot judge")
	must(t, w.Containerd.Start(t.Context()))
	must(t, harness.Until(10*time.Second, "the runtime to be back", func() bool {
		_, err := w.kubelet.Runtime.Version(t.Context(), &runtimeapi.VersionRequest{})
		return err == nil
	}))
	w.wantRun(t, w.image("app:1"), "signed")
}
