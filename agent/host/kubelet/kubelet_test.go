package kubelet

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cosentry/cosentry/agent/host/files"
)

const (
	ours  = "unix:///run/cosentry/containerd.sock"
	plain = "unix:///run/containerd/containerd.sock"
	head  = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
)

// host writes a file tree and returns its root.
func host(t *testing.T, tree map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for p, content := range tree {
		at := filepath.Join(root, p)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			if err := os.Symlink(target, at); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(at, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func apply(t *testing.T, root string, changes []files.Change) {
	t.Helper()
	tree, err := files.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	for _, c := range changes {
		if err := tree.Apply(c); err != nil {
			t.Fatal(err)
		}
	}
}

func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		if d.Type() == os.ModeSymlink {
			to, err := os.Readlink(p)
			out["/"+rel] = "-> " + to
			return err
		}
		data, err := os.ReadFile(p)
		out["/"+rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// kubeadm is a node as kubeadm and its packages make it.
func kubeadm() Facts {
	return Facts{
		Unit: "kubelet.service",
		Exec: []string{"/usr/bin/kubelet", "$KUBELET_KUBECONFIG_ARGS", "$KUBELET_CONFIG_ARGS", "$KUBELET_KUBEADM_ARGS", "$KUBELET_EXTRA_ARGS"},
		Environment: []string{
			"KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf",
			"KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml",
		},
		EnvironmentFiles: []string{"-/var/lib/kubelet/kubeadm-flags.env", "-/etc/default/kubelet"},
	}
}

func gke() Facts {
	return Facts{
		Unit: "kubelet.service", Exec: []string{"/home/kubernetes/bin/kubelet", "$KUBELET_OPTS"},
		EnvironmentFiles: []string{"/etc/default/kubelet"},
	}
}

func eks() Facts {
	return Facts{
		Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet", "$NODEADM_KUBELET_ARGS"},
		EnvironmentFiles: []string{"/etc/eks/kubelet/environment"},
	}
}

// TestBackWithoutBackup takes cosentry off where nothing remembers how the files were: kubelet uses the runtime again,
// and a drop-in goes.
func TestBackWithoutBackup(t *testing.T) {
	facts := Facts{Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet", "--config=/etc/kubelet.yaml", "--config-dir=/etc/kubelet.d"}}
	tree := map[string]string{"/etc/kubelet.yaml": head, "/etc/kubelet.d/1.conf": head + "maxPods: 3\n"}
	facts.Root = host(t, tree)
	for _, to := range []string{ours, plain} {
		found, err := Find(facts, Auto)
		if err != nil {
			t.Fatal(err)
		}
		changes, err := found.Changes(to)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, facts.Root, changes)
		if found, err = Find(facts, Auto); err != nil || !found.Uses(to) {
			t.Fatalf("%s is in force, want %s (%v)", found.Runtime, to, err)
		}
	}
	if diff := cmp.Diff(tree, snapshot(t, facts.Root)); diff != "" {
		t.Errorf("not as it was (-want +got):\n%s", diff)
	}
}

// TestLateDropin: an owner's file that came after ours took kubelet away from cosentry. It is seen, and beaten.
func TestLateDropin(t *testing.T) {
	facts := Facts{Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet", "--config=/etc/kubelet.yaml", "--config-dir=/etc/kubelet.d"}}
	facts.Root = host(t, map[string]string{
		"/etc/kubelet.yaml":               head,
		"/etc/kubelet.d/99-cosentry.conf": ownHeader + head + "containerRuntimeEndpoint: " + ours + "\n",
		"/etc/kubelet.d/99-z.conf":        head + "containerRuntimeEndpoint: " + plain + "\n",
	})
	found, err := Find(facts, Auto)
	if err != nil || found.Uses(ours) {
		t.Fatalf("%s is said to be in force (%v)", found.Runtime, err)
	}
	changes, err := found.Changes(ours)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, facts.Root, changes)
	if found, err = Find(facts, Auto); err != nil || !found.Uses(ours) {
		t.Errorf("%s is in force (%v)", found.Runtime, err)
	}
	if _, err := os.Stat(filepath.Join(facts.Root, "/etc/kubelet.d/99-cosentry.conf")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the drop-in that no longer counts is still there (%v)", err)
	}
}
