package deploy

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestOverlayOfTheDocsGoesToNodesWithTheLabelAlone: who copies the overlay of docs/operations.md gets what its comments promise. Without
// the patch in it, a first apply goes to all nodes at once.
func TestOverlayOfTheDocsGoesToNodesWithTheLabelAlone(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## On a cluster\n")
	block := regexp.MustCompile("(?m)^   ```yaml\n((?:   .*\n|\n)*?)   ```$").FindStringSubmatch(section)
	if block == nil {
		t.Fatal("the section on the cluster has no overlay")
	}
	kustomization := regexp.MustCompile("(?m)^   ").ReplaceAllString(block[1], "")

	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(manifests)); err != nil {
		t.Fatal(err)
	}
	mine := filepath.Join(dir, "overlays", "mine") // where the docs have it
	if err := os.Mkdir(mine, 0o755); err != nil {
		t.Fatal(err)
	}
	const config, policy = "mode: observe # mine\n", "kind: ClusterImagePolicy # mine\n"
	for name, text := range map[string]string{"kustomization.yaml": kustomization, "config.yaml": config, "release.yaml": policy} {
		if err := os.WriteFile(filepath.Join(mine, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d, maps := daemonSetAt(t, mine)
	spec := d.Spec.Template.Spec
	if label := spec.NodeSelector["node-restriction.kubernetes.io/cosentry-install"]; label != "true" {
		t.Errorf("it goes to nodes with %v", spec.NodeSelector)
	}
	if spec.NodeSelector["kubernetes.io/os"] != "linux" {
		t.Errorf("the base's own selector is lost: %v", spec.NodeSelector)
	}
	for _, c := range append(append([]corev1.Container{}, spec.InitContainers...), spec.Containers...) {
		if !strings.HasPrefix(c.Image, "registry.example/cosentry/cosentry@sha256:") {
			t.Errorf("container %s has the image %s", c.Name, c.Image)
		}
	}
	for name, c := range maps {
		if c.Immutable == nil || !*c.Immutable {
			t.Errorf("ConfigMap %s can be changed", name)
		}
	}
	if maps["settings"].Data["config.yaml"] != config || maps["policies"].Data["release.yaml"] != policy {
		t.Errorf("the owner's files are not in it: %v", maps)
	}
}
