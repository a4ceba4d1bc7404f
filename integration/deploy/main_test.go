// Package deploy tests the manifests in deploy/ without a node: each of them renders, an API server takes it as strictly
// as it can, and it promises no more than it should.
package deploy

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/cosentry/cosentry/integration/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Isolated(m.Run)) }

// manifests is where deploy/ is from here.
const manifests = "../../deploy/"

// tools finds what the tests run.
func tools(t *testing.T) harness.Tools {
	t.Helper()
	found, err := harness.FindTools("kubectl", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// renderAt is what `kubectl kustomize` makes of a folder, one object each.
func renderAt(t *testing.T, name string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tools(t).Path("kubectl"), "kustomize", name)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("rendering %s: %v\n%s", name, err, stderr.Bytes())
	}
	if stderr.Len() > 0 {
		t.Errorf("rendering %s: %s", name, stderr.Bytes()) // a field that kustomize gave up, for one
	}
	return strings.Split(string(out), "\n---\n")
}

// daemonSet is the one of a folder, and settings what its ConfigMaps hold, by their names without the hash.
func daemonSet(t *testing.T, name string) (d appsv1.DaemonSet, settings map[string]corev1.ConfigMap) {
	t.Helper()
	return daemonSetAt(t, manifests+name)
}

func daemonSetAt(t *testing.T, name string) (d appsv1.DaemonSet, settings map[string]corev1.ConfigMap) {
	t.Helper()
	settings = map[string]corev1.ConfigMap{}
	found := 0
	for _, text := range renderAt(t, name) {
		var meta struct{ Kind string }
		if err := yaml.Unmarshal([]byte(text), &meta); err != nil {
			t.Fatal(err)
		}
		var err error
		switch meta.Kind {
		case "DaemonSet":
			found++
			err = yaml.UnmarshalStrict([]byte(text), &d)
		case "ConfigMap":
			var c corev1.ConfigMap
			err = yaml.UnmarshalStrict([]byte(text), &c)
			short, _, _ := strings.Cut(c.Name, "-")
			settings[short] = c
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
	}
	if found != 1 {
		t.Fatalf("%s has %d DaemonSets", name, found)
	}
	return d, settings
}

// containers are all of a pod.
func containers(d appsv1.DaemonSet) []corev1.Container {
	spec := d.Spec.Template.Spec
	return append(append([]corev1.Container{}, spec.InitContainers...), spec.Containers...)
}

func words(list []corev1.Capability) string { return strings.Trim(fmt.Sprint(list), "[]") }
