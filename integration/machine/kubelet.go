package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// Systemctl runs systemctl on the machine.
func (m *Machine) Systemctl(ctx context.Context, args ...string) (string, error) {
	return m.Exec(ctx, append([]string{"systemctl", "--no-pager"}, args...)...)
}

// Show is one property of a unit.
func (m *Machine) Show(ctx context.Context, unit, property string) (string, error) {
	out, err := m.Systemctl(ctx, "show", "--value", "--property", property, unit)
	return strings.TrimSpace(out), err
}

// Journal is what a unit has logged since the machine was made, over reboots.
// With after, a cursor that [Machine.Cursor] returned, only what came later.
func (m *Machine) Journal(ctx context.Context, unit, after string) (string, error) {
	args := []string{"journalctl", "--no-pager", "--quiet", "--output=cat", "--all", "--unit", unit}
	if after != "" {
		args = append(args, "--after-cursor", after)
	}
	return m.Exec(ctx, args...)
}

// Cursor is the end of the journal now.
func (m *Machine) Cursor(ctx context.Context) (string, error) {
	out, err := m.Exec(ctx, "journalctl", "--no-pager", "--quiet", "--lines=1", "--output=cat", "--show-cursor")
	if err != nil {
		return "", err
	}
	_, cursor, ok := strings.Cut(out, "-- cursor: ")
	if !ok {
		return "", fmt.Errorf("journalctl shows no cursor: %s", out)
	}
	return strings.TrimSpace(cursor), nil
}

// Logs are the ends of what the machine's units logged.
func (m *Machine) Logs(ctx context.Context) string {
	text := m.console()
	for _, unit := range []string{"containerd", "cosentry", "cosentry.socket", "kubelet"} {
		out, err := m.Exec(ctx, "journalctl", "--no-pager", "--quiet", "--output=short-precise", "--lines=60", "--unit", unit)
		text += "--- " + unit + "\n" + out
		if err != nil && out == "" {
			text += err.Error() + "\n"
		}
	}
	out, _ := m.Exec(ctx, "systemctl", "--no-pager", "--failed", "--full")
	return text + "--- failed units\n" + out
}

// KubeletPods are the pods with their status, as kubelet itself knows them.
func (m *Machine) KubeletPods(ctx context.Context) ([]corev1.Pod, error) {
	body, err := get(ctx, "http://127.0.0.1:10255/pods")
	if err != nil {
		return nil, fmt.Errorf("asking kubelet for its pods: %w", err)
	}
	var list corev1.PodList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("reading kubelet's pods: %w", err)
	}
	return list.Items, nil
}

// KubeletPod is a static pod by the name in its manifest; nil where kubelet
// does not know it.
func (m *Machine) KubeletPod(ctx context.Context, name string) (*corev1.Pod, error) {
	pods, err := m.KubeletPods(ctx)
	if err != nil {
		return nil, err
	}
	for i := range pods {
		if pods[i].Name == name || pods[i].Name == name+"-"+m.Name {
			return &pods[i], nil
		}
	}
	return nil, nil
}

// StaticPod writes a pod's manifest where kubelet looks for static pods.
func (m *Machine) StaticPod(name, manifest string) error {
	text, err := yaml.YAMLToJSON([]byte(manifest)) // kubelet reads YAML that begins with a brace as JSON
	if err != nil {
		return fmt.Errorf("reading the manifest of static pod %s: %w", name, err)
	}
	// kubelet reads whatever is in the folder: the file appears whole.
	staging := filepath.Join("/etc/kubernetes", "."+name+".yaml")
	if err := os.WriteFile(m.Path(staging), text, 0o600); err != nil {
		return fmt.Errorf("writing static pod %s: %w", name, err)
	}
	return os.Rename(m.Path(staging), m.Path(filepath.Join(Manifests, name+".yaml")))
}

// RemoveStaticPod removes the manifest.
func (m *Machine) RemoveStaticPod(name string) error {
	err := os.Remove(m.Path(filepath.Join(Manifests, name+".yaml")))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
