package integration

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/integration/harness"
)

// TestRegistryGone: what was verified starts again, also after cosentry was
// killed; what was not does not.
func TestRegistryGone(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "signed")
	w.pushSigned("later:1", "signed and never verified")
	w.push("evil:1", "evil")
	w.wantRun(t, w.image("app:1"), "signed")
	w.pullAround(w.image("later:1"))
	w.pullAround(w.image("evil:1"))
	w.Registry.Stop()

	for _, restarted := range []bool{false, true} {
		if restarted {
			w.waitKept(t, 1)
			w.agent.Kill()
			must(t, w.agent.Start())
		}
		w.wantRun(t, w.image("app:1"), "signed")
		for _, image := range []string{"later:1", "evil:1", "never-seen:1"} {
			_, err := w.run(harness.Container{Image: w.image(image)})
			wantUnavailable(t, err, image[:4])
		}
		_, err := w.run(harness.Container{Image: w.image("app:1"), Policy: "Always"})
		wantUnavailable(t, err)
	}
}

// TestPrivateAfterRestart: credentials came with the pull only.
func TestPrivateAfterRestart(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "private")
	w.Registry.Username, w.Registry.Password = "reader", "open-sesame"
	auth := &runtimeapi.AuthConfig{Username: "reader", Password: "open-sesame"}
	_, err := w.run(harness.Container{Image: w.image("app:1"), Auth: auth})
	must(t, err)
	w.waitKept(t, 1)
	w.agent.Kill()
	must(t, w.agent.Start())
	w.wantRun(t, w.image("app:1"), "private")
}

// TestStoppedWhileTheRegistryIsGone: an agent that is told to stop writes down what it has just accepted.
func TestStoppedWhileTheRegistryIsGone(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "signed")
	w.wantRun(t, w.image("app:1"), "signed")
	_, err := w.agent.Stop(20 * time.Second)
	must(t, err)
	w.Registry.Stop()
	must(t, w.agent.Start())
	w.wantRun(t, w.image("app:1"), "signed")
}

// waitKept waits until so many images' evidence is on disk. It is written after the pod was let through, and a
// killed process writes nothing more.
func (w *world) waitKept(t *testing.T, images int) {
	t.Helper()
	must(t, harness.Until(10*time.Second, "evidence to be on disk", func() bool {
		kept, err := filepath.Glob(filepath.Join(w.agent.EvidenceDir, "*", "index.json"))
		must(t, err)
		whole := slices.DeleteFunc(kept, func(path string) bool { return strings.HasPrefix(filepath.Base(filepath.Dir(path)), ".") })
		return len(whole) == images
	}))
}

// TestTamperedEvidence: evidence on disk is judged like evidence from a
// registry, so whoever writes to the folder gains nothing.
func TestTamperedEvidence(t *testing.T) {
	w := newWorld(t, nil)
	good := w.pushSigned("app:1", "signed")
	w.wantRun(t, w.image("app:1"), "signed")
	evil := w.push("app:2", "evil")
	w.pullAround(w.image("app:2"))
	w.Registry.Stop()
	w.waitKept(t, 1)
	w.agent.Kill()

	// Every file now speaks of the other digest where it spoke of the signed one.
	changed := 0
	must(t, filepath.WalkDir(w.agent.EvidenceDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		from, to := []byte(good.DigestStr()[len("sha256:"):]), []byte(evil.DigestStr()[len("sha256:"):])
		if !bytes.Contains(data, from) {
			return nil
		}
		changed++
		return os.WriteFile(path, bytes.ReplaceAll(data, from, to), 0o600)
	}))
	if changed == 0 {
		t.Fatal("no evidence about the signed digest is on disk")
	}
	must(t, w.agent.Start())
	_, err := w.run(harness.Container{Image: w.image("app:2")})
	if err == nil {
		t.Fatal("an unsigned image ran on forged evidence")
	}
	if record := w.lastRecord(t, w.image("app:2")); record["decision"] == "allow" {
		t.Errorf("the audit log says %v", record)
	}
	_, err = w.run(harness.Container{Image: w.image("app:1")})
	if err == nil {
		t.Fatal("the signed image ran on evidence that no longer is about it")
	}
}

// TestSwappedEvidence puts the evidence about a signed image in the place of
// another's, which an earlier policy accepted.
func TestSwappedEvidence(t *testing.T) {
	w := newWorld(t, nil)
	stranger, err := harness.NewKey()
	must(t, err)
	w.pushSigned("app:1", "signed")
	evil := w.push("app:2", "by a stranger")
	must(t, stranger.SignClassic(t.Context(), w.Registry, evil))
	w.wantRun(t, w.image("app:1"), "signed")
	must(t, w.agent.WritePolicy("signed.yaml", w.policy("strangers", stranger)))
	must(t, w.agent.Signal(syscall.SIGHUP))
	must(t, harness.Until(10*time.Second, "the stranger's key to be accepted", func() bool {
		_, err := w.kubelet.Pull(t.Context(), w.pod(), w.image("app:2"), nil)
		return err == nil
	}))
	w.Registry.Stop()
	w.waitKept(t, 2)
	w.agent.Kill()
	must(t, w.agent.WritePolicy("signed.yaml", w.policy("signed", w.release)))
	dirs, err := filepath.Glob(filepath.Join(w.agent.EvidenceDir, "*", "index.json"))
	must(t, err)
	if len(dirs) != 2 {
		t.Fatalf("evidence is kept at %v, want two places", dirs)
	}
	one, two, aside := filepath.Dir(dirs[0]), filepath.Dir(dirs[1]), filepath.Join(w.Dir, "aside")
	for _, move := range [][2]string{{one, aside}, {two, one}, {aside, two}} {
		must(t, os.Rename(move[0], move[1]))
	}
	must(t, w.agent.Start())
	for _, image := range []string{"app:2", "app:1"} {
		if _, err := w.run(harness.Container{Image: w.image(image)}); err == nil {
			t.Errorf("%s ran on evidence about something else", image)
		}
	}
}
