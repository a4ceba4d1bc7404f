package deploy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestRollout is what docs/operations.md says of how cosentry comes to the nodes of a cluster and how it is brought up to
// date: what a mistake reaches.
func TestRollout(t *testing.T) {
	f := newFleet(t, 8)
	f.apply(t, "base", "one")
	steps := []struct {
		name string
		run  func(*fleet, *testing.T)
	}{
		{"a first installation comes to all nodes at once", (*fleet).testFirst},
		{"a bad version stops at the first node, and goes on when that is well", (*fleet).testBad},
		{"nodes that are not ready come first, and hold up the rest", (*fleet).testSick},
		{"a first installation is widened by a label", (*fleet).testWiden},
		{"who gets a pod on GKE", (*fleet).testGKE},
	}
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) { step.run(f, t) }) {
			return
		}
	}
}

// testFirst: none of the pods gets ready, and no node waits for another.
func (f *fleet) testFirst(t *testing.T) {
	f.wantOn(t, "one", f.nodes...)
	if now := f.set(t).Status; now.NumberReady != 0 || now.DesiredNumberScheduled != int32(len(f.nodes)) {
		t.Fatalf("%+v", now)
	}
	f.well = all
	f.wantAvailable(t, int32(len(f.nodes)))
}

func (f *fleet) testBad(t *testing.T) {
	f.well = func(p corev1.Pod) bool { return versionOf(p) != "bad" }
	f.apply(t, "base", "bad")
	first := f.wantCount(t, "bad", 1)
	f.wantHeld(t, "bad", first...)
	if now := f.set(t).Status; now.NumberAvailable != int32(len(f.nodes))-1 {
		t.Errorf("%d nodes are as before", now.NumberAvailable)
	}
	f.well = func(p corev1.Pod) bool { return versionOf(p) != "bad" || slices.Contains(first, p.Spec.NodeName) }
	second := f.wantCount(t, "bad", 2)
	f.wantHeld(t, "bad", second...)
}

// testSick: a pod that is not ready is missed by nobody, so Kubernetes replaces all of those, and at once. While they are not
// ready with the new version either, maxUnavailable is used up.
func (f *fleet) testSick(t *testing.T) {
	f.remove(t)
	sick := []string{"node-3", "node-6"}
	f.well = func(p corev1.Pod) bool { return !slices.Contains(sick, p.Spec.NodeName) }
	f.apply(t, "base", "three")
	f.wantAvailable(t, int32(len(f.nodes)-len(sick)))
	f.apply(t, "base", "four")
	f.wantOn(t, "four", sick...)
	f.wantHeld(t, "four", sick...)
	f.well = all
	f.wantCount(t, "four", len(sick)+1)
}

// testWiden takes the overlay that docs/operations.md shows, with base for what it begins from.
func (f *fleet) testWiden(t *testing.T) {
	f.remove(t)
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, there := strings.Cut(string(text), "`deploy/overlays/mine/kustomization.yaml`:\n\n   ```yaml\n")
	shown, _, ends := strings.Cut(after, "\n   ```\n")
	if !there || !ends || !strings.Contains(shown, "- ../gke ") {
		t.Fatal("docs/operations.md shows no overlay")
	}
	settings, err := os.ReadFile(manifests + "base/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir, base := overlay(t, "base")
	files := map[string]string{"config.yaml": string(settings), "release.yaml": "# a policy",
		"kustomization.yaml": strings.Replace(strings.ReplaceAll("\n"+shown, "\n   ", "\n"), "- ../gke ", "- "+base+" ", 1)}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f.kubectl(t, "", "apply", "-k", dir)
	const (
		image = "registry.example/cosentry/cosentry@sha256:0000000000000000000000000000000000000000000000000000000000000000"
		label = "node-restriction.kubernetes.io/cosentry-install=true"
	)
	f.wantHeld(t, image)
	f.kubectl(t, "", "label", "node", "node-2", label)
	f.wantOn(t, image, "node-2")
	f.wantHeld(t, image, "node-2")
	f.kubectl(t, "", "label", "nodes", "--all", label)
	f.wantOn(t, image, f.nodes...)
}

func (f *fleet) testGKE(t *testing.T) {
	f.remove(t)
	const (
		distribution = "cloud.google.com/gke-os-distribution="
		taken        = "node-restriction.kubernetes.io/cosentry-uninstall=true"
	)
	nodes := []struct {
		name   string
		labels []string
		gets   bool
	}{
		{"Container-Optimized OS", []string{distribution + "cos"}, true},
		{"Ubuntu", []string{distribution + "ubuntu"}, true},
		{"another system", []string{distribution + "other"}, false},
		{"a node without GKE's label", nil, false},
		{"Windows", []string{"kubernetes.io/os=windows", distribution + "windows_ltsc"}, false},
		{"Container-Optimized OS that is being taken off", []string{distribution + "cos", taken}, false},
		{"Ubuntu that is being taken off", []string{distribution + "ubuntu", taken}, false},
		{"a Windows node with the label of another", []string{"kubernetes.io/os=windows", distribution + "cos"}, false},
	}
	for i, n := range nodes {
		if len(n.labels) > 0 {
			f.kubectl(t, "", append([]string{"label", "--overwrite", "node", f.nodes[i]}, n.labels...)...)
		}
	}
	f.apply(t, "overlays/gke", "gke")
	f.settled(t)
	f.wantAvailable(t, f.set(t).Status.DesiredNumberScheduled) // the quota and the scheduler let them
	got := on(f.kubelets(t), "gke")
	for i, n := range nodes {
		t.Run(n.name, func(t *testing.T) {
			if slices.Contains(got, f.nodes[i]) != n.gets {
				t.Errorf("it has a pod: %v", !n.gets)
			}
		})
	}
}
