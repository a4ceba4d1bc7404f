package integration

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cosentry/cosentry/integration/harness"
)

// sandboxed is a node that makes no sandbox of an image that is not accepted.
func sandboxed(t *testing.T, namespace string) *world {
	return newWorld(t, func(w *world, s *harness.Settings) {
		s.Edit = func(config map[string]any) {
			config["sandbox"] = map[string]any{"refuse": true}
			config["cache"] = map[string]any{"denyTTL": "1s"} // what is signed counts soon
			config["namespaces"] = map[string]any{"exempt": []string{namespace}}
		}
	})
}

// tryPod is the error with which a sandbox was not made, or nil.
func (w *world) tryPod(namespace string) error {
	w.t.Helper()
	w.pods++
	_, err := w.kubelet.RunPodLike(w.t.Context(), harness.PodSpec{Name: fmt.Sprintf("pod%d", w.pods), Namespace: namespace})
	return errors.Unwrap(err) // the harness says which pod
}

// sandboxRow waits until cosentry status has a row with the words.
func (w *world) sandboxRow(t *testing.T, words ...string) {
	t.Helper()
	var output string
	err := harness.Until(20*time.Second, "the status to tell of the image of sandboxes", func() bool {
		output, _, _ = w.agent.Command(t.Context(), "status", "--config", w.agent.Config())
		for _, word := range words {
			if !strings.Contains(output, word) {
				return false
			}
		}
		return true
	})
	if err != nil {
		t.Errorf("%v: %q\n%s", err, words, output)
	}
}

// metric waits until the agent's metrics have the line.
func (w *world) metric(t *testing.T, line string) {
	t.Helper()
	var metrics string
	if err := harness.Until(20*time.Second, "the metrics to say "+line, func() bool {
		metrics, _, _ = w.agent.Get("/metrics")
		return strings.Contains(metrics, "\n"+line+"\n")
	}); err != nil {
		t.Error(err)
	}
}

// TestImageOfSandboxes: the image that no call names is found on a real containerd, judged, and, replaced under its name, keeps every
// pod from starting.
func TestImageOfSandboxes(t *testing.T) {
	w := sandboxed(t, "kube-system")
	pause := w.image("pause:3.10")
	allowed := func(n int) string { return fmt.Sprintf("cosentry_sandbox_image_allowed{image=%q} %d", pause, n) }

	wantRefused(t, w.tryPod("shop"), "this node's image for sandboxes", "no signature")
	w.sandboxRow(t, "NO POD STARTS", pause)
	w.metric(t, allowed(0))
	if record := w.lastRecord(t, pause); record["action"] != "sandbox" || record["decision"] != "deny" {
		t.Errorf("the audit log says %v", record)
	}
	if err := w.tryPod("kube-system"); err != nil {
		t.Errorf("in an exempt namespace: %v", err)
	}

	signed, err := w.Images.Pause()
	must(t, err)
	digest, err := w.Registry.Push("pause:3.10", signed)
	must(t, err)
	must(t, w.release.SignClassic(t.Context(), w.Registry, digest))
	must(t, harness.Until(20*time.Second, "the signature to count", func() bool { return w.tryPod("shop") == nil }))

	evil, err := w.Images.Saying("evil")
	must(t, err)
	must(t, w.Import(t.Context(), evil, pause))
	wantRefused(t, w.tryPod("shop"), "this node's image for sandboxes", pause[:strings.LastIndexByte(pause, ':')])
	w.sandboxRow(t, "NO POD STARTS", pause)
	w.metric(t, allowed(0))

	// The glass is for nights like this one.
	output, code, err := w.agent.Command(t.Context(), "break-glass", "--config", w.agent.Config(), "--reason", "INC-4711", "--for", "1h")
	if err != nil || code != 0 {
		t.Fatalf("break-glass: exit %d, %v\n%s", code, err, output)
	}
	if err := w.tryPod("shop"); err != nil {
		t.Errorf("with a broken glass: %v", err)
	}
	output, code, err = w.agent.Command(t.Context(), "break-glass", "--config", w.agent.Config(), "--end")
	if err != nil || code != 0 {
		t.Fatalf("break-glass --end: exit %d, %v\n%s", code, err, output)
	}
	wantRefused(t, w.tryPod("shop"))

	must(t, w.Import(t.Context(), signed, pause))
	must(t, harness.Until(20*time.Second, "pods to start again", func() bool { return w.tryPod("shop") == nil }))
	w.metric(t, allowed(1))
	w.sandboxRow(t, pause, "is accepted")
}
