package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
)

const (
	// manifests are the project's own.
	manifests = "../../deploy"
	// namespace is where they put everything, and daemonSet what they call it.
	namespace = "cosentry-system"
	daemonSet = "cosentry"
	// placeholder is what they have for the image.
	placeholder = "cosentry.invalid/cosentry"
	// command is cosentry on the node, and settingsFile what it goes by.
	command      = "/opt/cosentry/bin/cosentry"
	settingsFile = "/etc/cosentry/config.yaml"
)

// apply applies the stage's folder of the manifests, with this cluster's image, settings and policies by an overlay.
func (s *stage) apply(t *testing.T) {
	t.Helper()
	settings, err := os.ReadFile(filepath.Join(manifests, "base", "config.yaml"))
	must(t, err)
	files := s.floor()
	files["config.yaml"] = strings.Replace(string(settings), "\nmode: observe\n", "\nmode: "+s.mode+"\n", 1) + s.settings
	var policies []string
	for name := range s.floor() {
		policies = append(policies, name)
	}
	slices.Sort(policies)
	s.kustomize(t, s.folder, files, fmt.Sprintf(`generatorOptions: {immutable: true}
configMapGenerator:
  - {name: settings, behavior: replace, files: [config.yaml]}
  - {name: policies, behavior: replace, files: [%s]}
`, strings.Join(policies, ", ")))
}

// kustomize applies a folder of the manifests by an overlay as an owner has one.
func (s *stage) kustomize(t *testing.T, folder string, files map[string]string, more string) {
	t.Helper()
	dir := filepath.Join(s.dir, "overlay", folder)
	must(t, os.MkdirAll(dir, 0o755))
	base, err := filepath.Abs(filepath.Join(manifests, folder))
	must(t, err)
	resource, err := filepath.Rel(dir, base)
	must(t, err)
	files["kustomization.yaml"] = fmt.Sprintf(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: %s
resources: [%s]
images: [{name: %s, newName: %s, digest: %q}]
%s`, namespace, resource, placeholder, s.product.image.Repository.Name(), s.product.image.DigestStr(), more)
	for name, text := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	_, err = s.plane.Kubectl(t.Context(), "", "apply", "-k", dir)
	must(t, err)
}

// wantRollout waits until the node has a pod of the DaemonSet as it was applied last, and that is ready.
func (s *stage) wantRollout(t *testing.T, name string) {
	t.Helper()
	err := eventually(t.Context(), 2*patience, "DaemonSet "+name+" to roll out", func(ctx context.Context) error {
		var set appsv1.DaemonSet
		if err := s.plane.Get(ctx, "/apis/apps/v1/namespaces/"+namespace+"/daemonsets/"+name, &set); err != nil {
			return err
		}
		now := set.Status
		if now.ObservedGeneration != set.Generation || now.DesiredNumberScheduled != 1 || now.UpdatedNumberScheduled != 1 || now.NumberReady != 1 {
			return fmt.Errorf("generation %d of %d: %d of %d updated, %d ready", now.ObservedGeneration, set.Generation,
				now.UpdatedNumberScheduled, now.DesiredNumberScheduled, now.NumberReady)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, s.tellPods())
	}
}

// tellPods is what can be read of cosentry's pods.
func (s *stage) tellPods() string {
	var text strings.Builder
	for _, args := range [][]string{
		{"describe", "pods"},
		{"logs", "-l", "app.kubernetes.io/name=cosentry", "--all-containers", "--prefix", "--tail=40", "--ignore-errors"},
	} {
		out, err := s.plane.Kubectl(context.Background(), "", append([]string{"-n", namespace}, args...)...)
		text.WriteString(out)
		if err != nil {
			text.WriteString(err.Error())
		}
	}
	return text.String()
}

// wantEndpoint expects that kubelet's settings name the socket and no other.
func (s *stage) wantEndpoint(t *testing.T, socket string) {
	t.Helper()
	text, err := s.machine.ReadFile(s.layout.ConfigFile())
	must(t, err)
	if !strings.Contains(text, "containerRuntimeEndpoint: unix://"+socket+"\n") {
		t.Errorf("kubelet's settings do not name %s:\n%s", socket, text)
	}
}

// process is the main process of a unit on the node.
func (s *stage) process(t *testing.T, unit string) string {
	t.Helper()
	pid, err := s.machine.Show(t.Context(), unit, "MainPID")
	must(t, err)
	if pid == "0" {
		t.Fatalf("%s does not run", unit)
	}
	return pid
}
