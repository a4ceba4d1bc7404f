package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// withDaemonSets are the folders that bring one.
var withDaemonSets = []string{"base", "uninstall", "overlays/kind", "overlays/gke"}

// TestPrivileges: each container has what its work needs and no more. A capability that somebody adds has to be added
// here too, and be thought about twice.
func TestPrivileges(t *testing.T) {
	want := map[string]string{
		"install": "CHOWN DAC_OVERRIDE FOWNER SYS_PTRACE", "supervise": "CHOWN DAC_OVERRIDE FOWNER SYS_PTRACE",
		"uninstall": "CHOWN DAC_OVERRIDE FOWNER SYS_PTRACE", "folder": "CHOWN DAC_READ_SEARCH", "sync": "", "done": "",
	}
	root := []string{"install", "supervise", "uninstall"} // who sees the host's files
	for _, folder := range withDaemonSets {
		d, _ := daemonSet(t, folder)
		spec := d.Spec.Template.Spec
		if spec.HostPID || spec.HostIPC || spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken {
			t.Errorf("%s: the pod shares the host's processes, or every container gets a token", folder)
		}
		for _, c := range containers(d) {
			s := c.SecurityContext
			name := folder + ": " + c.Name
			if s == nil || s.Privileged == nil || *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem ||
				s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%s: privileged, or its root can be written, or no seccomp profile: %+v", name, s)
				continue
			}
			if words(s.Capabilities.Drop) != "ALL" || words(s.Capabilities.Add) != want[c.Name] {
				t.Errorf("%s: drops %v, adds %v, want %q", name, s.Capabilities.Drop, s.Capabilities.Add, want[c.Name])
			}
			if want[c.Name] == "" && (s.RunAsNonRoot == nil || !*s.RunAsNonRoot || *s.RunAsUser == 0) {
				t.Errorf("%s runs as root", name)
			}
			for _, m := range c.VolumeMounts {
				volume := spec.Volumes[slices.IndexFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })]
				if volume.HostPath != nil && volume.HostPath.Path == "/" {
					if !slices.Contains(root, c.Name) {
						t.Errorf("%s sees the host's files", name)
					}
					if m.MountPropagation == nil || *m.MountPropagation != corev1.MountPropagationHostToContainer {
						t.Errorf("%s holds on to the host's mounts", name)
					}
				}
				if volume.Projected != nil && c.Name != "sync" {
					t.Errorf("%s gets a token of the API server", name)
				}
			}
			if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
				t.Errorf("%s has no bound on memory, or asks for no time", name)
			}
		}
	}
}

// TestEveryNode: cosentry is on every node, before anything else, and goes by nobody's mistake. Where it is taken off, it
// is not put on again.
func TestEveryNode(t *testing.T) {
	for _, folder := range withDaemonSets {
		d, _ := daemonSet(t, folder)
		spec := d.Spec.Template.Spec
		if spec.PriorityClassName != "system-node-critical" || !spec.HostNetwork {
			t.Errorf("%s: priority %q, host network %v", folder, spec.PriorityClassName, spec.HostNetwork)
		}
		if !slices.ContainsFunc(spec.Tolerations, func(o corev1.Toleration) bool {
			return o.Operator == corev1.TolerationOpExists && o.Key == "" && o.Effect == ""
		}) {
			t.Errorf("%s tolerates %v", folder, spec.Tolerations)
		}
		if d.Spec.UpdateStrategy.RollingUpdate == nil || d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.String() == "100%" {
			t.Errorf("%s is rolled out to all nodes at once", folder)
		}
		for _, c := range containers(d) {
			if c.Lifecycle != nil {
				t.Errorf("%s: %s does something when it is stopped: a rollout would take cosentry off", folder, c.Name)
			}
		}
		if folder == "uninstall" {
			if spec.NodeSelector["node-restriction.kubernetes.io/cosentry-uninstall"] != "true" {
				t.Errorf("uninstall comes to nodes with %v", spec.NodeSelector)
			}
			if spec.Affinity == nil || spec.Affinity.PodAntiAffinity == nil {
				t.Error("uninstall does not wait until supervise is gone")
			}
			continue
		}
		for _, term := range spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			if !slices.ContainsFunc(term.MatchExpressions, func(r corev1.NodeSelectorRequirement) bool {
				return r.Key == "node-restriction.kubernetes.io/cosentry-uninstall" && r.Operator == corev1.NodeSelectorOpNotIn && slices.Equal(r.Values, []string{"true"})
			}) {
				t.Errorf("%s comes to nodes that are being taken off", folder)
			}
		}
	}
}

// TestProbes: kubelet asks on the node's loopback address. On the ports that the network reaches there are metrics alone,
// so that nobody there can have a container killed.
func TestProbes(t *testing.T) {
	for _, folder := range []string{"base", "overlays/kind", "overlays/gke"} {
		d, _ := daemonSet(t, folder)
		for _, c := range d.Spec.Template.Spec.Containers {
			for kind, probe := range map[string]*corev1.Probe{"readiness": c.ReadinessProbe, "liveness": c.LivenessProbe} {
				if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Host != "127.0.0.1" {
					t.Errorf("%s: %s has the %s probe %+v", folder, c.Name, kind, probe)
					continue
				}
				for _, port := range c.Ports {
					if probe.HTTPGet.Port.String() == port.Name || probe.HTTPGet.Port.IntVal == port.ContainerPort {
						t.Errorf("%s: the %s probe of %s is on %s, which the network reaches", folder, kind, c.Name, port.Name)
					}
				}
				// The probe is where the command listens unless it is told otherwise, and it is not.
				help, err := exec.CommandContext(t.Context(), tools(t).Cosentry, c.Args[0], "--help").CombinedOutput()
				if err != nil || !strings.Contains(string(help), "127.0.0.1:"+probe.HTTPGet.Port.String()) {
					t.Errorf("%s: cosentry %s does not listen on port %s (%v):\n%s", folder, c.Args[0], probe.HTTPGet.Port.String(), err, help)
				}
			}
		}
	}
}

// TestCommands: what the containers run are commands and flags of this cosentry.
func TestCommands(t *testing.T) {
	for _, folder := range withDaemonSets {
		d, _ := daemonSet(t, folder)
		images := map[string]bool{}
		for _, c := range containers(d) {
			images[c.Image] = true
			if len(c.Command) > 0 {
				t.Errorf("%s: %s is no container of cosentry's image", folder, c.Name)
			}
			out, err := exec.CommandContext(t.Context(), tools(t).Cosentry, append(slices.Clone(c.Args), "--help")...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "cosentry "+c.Args[0]) {
				t.Errorf("%s: %s: cosentry %s: %v\n%s", folder, c.Name, strings.Join(c.Args, " "), err, out)
			}
		}
		if len(images) != 1 {
			t.Errorf("%s has the images %v: a digest would be set for some of them only", folder, images)
		}
	}
}

// TestSettings: an agent starts with the settings and loads the policies, and begins by observing.
func TestSettings(t *testing.T) {
	for _, folder := range []string{"base", "overlays/kind", "overlays/gke"} {
		_, maps := daemonSet(t, folder)
		dir := t.TempDir()
		config := filepath.Join(dir, "config.yaml")
		text := maps["settings"].Data["config.yaml"]
		if !strings.Contains(text, "\nmode: observe\n") {
			t.Errorf("%s: a first installation would refuse images", folder)
		}
		policies := filepath.Join(dir, "policies")
		if err := os.Mkdir(policies, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, content := range maps["policies"].Data {
			if err := os.WriteFile(filepath.Join(policies, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"config", "check", "--config", config}, {"policy", "check", "--config", config, policies}} {
			if out, err := exec.CommandContext(t.Context(), tools(t).Cosentry, args...).CombinedOutput(); err != nil {
				t.Errorf("%s: cosentry %s: %v\n%s", folder, strings.Join(args, " "), err, out)
			}
		}
	}
}

// TestNobodyEditsAConfigMapInPlace: kubelets would bring an edit to all nodes at once, and no rollout would stop it at the first. An
// overlay of an owner's does not inherit it for what he replaces or merges, and has it as the kustomization of base tells him.
func TestNobodyEditsAConfigMapInPlace(t *testing.T) {
	for _, folder := range []string{"base", "overlays/kind", "overlays/gke"} {
		dir := t.TempDir()
		base, err := filepath.Abs(filepath.Join(manifests, folder))
		if err != nil {
			t.Fatal(err)
		}
		there, err := filepath.Rel(dir, base)
		if err != nil {
			t.Fatal(err)
		}
		back, err := filepath.Rel(filepath.Dir(base), dir)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(manifests, folder, "kustomization.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		options := strings.Contains(string(text), "\ngeneratorOptions:\n  immutable: true\n")
		if !options {
			t.Errorf("%s has no generatorOptions to copy", folder)
		}
		owners := "resources: [" + there + "]\ngeneratorOptions:\n  immutable: true\nconfigMapGenerator:\n" +
			"  - {name: settings, behavior: replace, literals: [config.yaml=x]}\n  - {name: policies, behavior: merge, literals: [mine.yaml=x]}\n"
		if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(owners), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, rendered := range []string{folder, filepath.Join(filepath.Dir(folder), back)} {
			_, maps := daemonSet(t, rendered)
			for name, m := range maps {
				if m.Immutable == nil || !*m.Immutable {
					t.Errorf("%s: the ConfigMap %s can be edited", rendered, name)
				}
			}
			if len(maps) != 2 {
				t.Errorf("%s has the ConfigMaps %v", rendered, maps)
			}
		}
	}
}
