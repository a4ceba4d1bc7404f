package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/integration/harness"
)

// TestNamespaces: the same unsigned image is refused where policy is enforced and runs where it is not; a signed one
// runs everywhere.
func TestNamespaces(t *testing.T) {
	w := newWorld(t, func(_ *world, s *harness.Settings) {
		s.Edit = func(config map[string]any) {
			namespaces := config["namespaces"].(map[string]any)
			namespaces["enforce"] = []any{"prod", "team-*"}
			namespaces["exempt"] = []any{"team-exempt"}
		}
	})
	w.pushSigned("app:1", "signed")
	for _, c := range []struct {
		namespace string
		enforced  bool
	}{
		{"prod", true}, {"team-a", true}, {"team-exempt", false}, {"dev", false},
		{"prod-2", false}, {"a-team-a", false}, {"PROD", false},
	} {
		t.Run(c.namespace, func(t *testing.T) { w.wantEnforced(t, w.kubelet, c.namespace, c.enforced) })
	}
}

// wantEnforced runs a signed and an unsigned image in a pod of the namespace.
func (w *world) wantEnforced(t *testing.T, kubelet *harness.Kubelet, namespace string, enforced bool) {
	t.Helper()
	w.pods++
	pod, err := kubelet.RunPodLike(t.Context(), harness.PodSpec{Name: fmt.Sprintf("pod%d", w.pods), Namespace: namespace})
	must(t, err)
	if _, err := kubelet.Run(t.Context(), pod, harness.Container{Name: "signed", Image: w.image("app:1")}); err != nil {
		t.Errorf("the signed image should run: %v", err)
	}
	// Each time it is an image that the node does not have.
	unsigned := fmt.Sprintf("evil:%d", w.pods)
	w.push(unsigned, unsigned)
	c := harness.Container{Name: "unsigned", Image: w.image(unsigned)}
	_, err = kubelet.Run(t.Context(), pod, c)
	if !enforced {
		if err != nil {
			t.Errorf("the unsigned image should run: %v", err)
		}
		return
	}
	wantRefused(t, err, "no signatures found")
	ref := w.pullAround(c.Image)
	_, err = kubelet.Create(t.Context(), pod, c, ref, nil)
	wantRefused(t, err, "no signatures found")
}

// namespaceList is what kubectl prints for namespaces, by name, and whether they have policy-controller's label.
func namespaceList(labelled map[string]bool) string {
	var text strings.Builder
	text.WriteString("apiVersion: v1\nitems:\n")
	for name, included := range labelled {
		fmt.Fprintf(&text, "- apiVersion: v1\n  kind: Namespace\n  metadata:\n    labels:\n      kubernetes.io/metadata.name: %s\n", name)
		if included {
			text.WriteString("      policy.sigstore.dev/include: \"true\"\n")
		}
		fmt.Fprintf(&text, "    name: %s\n", name)
	}
	return text.String() + "kind: List\n"
}

// TestNamespacesByLabel follows the file that tells the labels.
func TestNamespacesByLabel(t *testing.T) {
	w := newWorld(t, func(_ *world, s *harness.Settings) {
		s.Edit = func(config map[string]any) { config["namespaces"].(map[string]any)["enforce"] = "labelled" }
	})
	w.pushSigned("app:1", "signed")
	w.wantEnforced(t, w.kubelet, "dev", true) // nobody has told yet

	must(t, w.agent.WriteNamespaces(namespaceList(map[string]bool{"prod": true, "dev": false})))
	w.push("probe:1", "probe")
	must(t, harness.Until(time.Minute, "the namespaces to be read", func() bool {
		pod := &harness.Pod{Config: namespacePod("dev")}
		_, err := w.kubelet.Pull(t.Context(), pod, w.image("probe:1"), nil)
		return err == nil
	}))
	w.wantEnforced(t, w.kubelet, "prod", true)
	w.wantEnforced(t, w.kubelet, "dev", false)
	w.wantEnforced(t, w.kubelet, "new", true) // younger than the file
}

// namespacePod is as much of a pod as a pull tells.
func namespacePod(namespace string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "probe", Uid: "probe", Namespace: namespace}}
}
