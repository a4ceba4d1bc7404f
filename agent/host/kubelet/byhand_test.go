package kubelet

import (
	"errors"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/agent/host/files"
)

// TestByHand is what must not be edited: the edit would change nothing, and the node would look guarded.
func TestByHand(t *testing.T) {
	tests := map[string]struct {
		facts  Facts
		layout string
		tree   map[string]string
		says   string
	}{
		"a flag in the unit itself": {
			facts: Facts{Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet", "--config=/etc/k.yaml", "--container-runtime-endpoint", plain}},
			tree:  map[string]string{"/etc/k.yaml": head},
			says:  "set --container-runtime-endpoint=" + ours,
		},
		"a flag in the unit's Environment=": {
			facts: Facts{Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet", "$A"}, Environment: []string{"A=--container-runtime-endpoint=" + plain}},
			says:  "unit kubelet.service",
		},
		"a flag for images in the unit": {
			facts: Facts{Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet", "--config=/etc/k.yaml", "--image-service-endpoint=" + plain}},
			tree:  map[string]string{"/etc/k.yaml": head},
			says:  "--image-service-endpoint",
		},
		"a flag that comes from nobody knows where": {
			facts: Facts{
				Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet", "--config=/etc/k.yaml", "$FROM_THE_MANAGER"},
				Args: []string{"/usr/bin/kubelet", "--config=/etc/k.yaml", "--container-runtime-endpoint=" + plain},
			},
			tree: map[string]string{"/etc/k.yaml": head},
			says: "comes neither from unit",
		},
		"a script that is not running": {
			facts: Facts{Unit: "kubelet.service", Exec: []string{"/opt/start-kubelet"}},
			says:  "no kubelet is running",
		},
		"nothing known": {says: "neither a unit"},
		"neither flag nor file": {
			facts: Facts{Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet"}},
			says:  "--config",
		},
		"a layout that is not the host's": {
			facts: kubeadm(), layout: GKE, tree: map[string]string{"/var/lib/kubelet/config.yaml": head},
			says: "set up as kubeadm, not as gke",
		},
		"config-dir without one": {
			facts: kubeadm(), layout: ConfigDir, tree: map[string]string{"/var/lib/kubelet/config.yaml": head},
			says: "not as config-dir",
		},
		"a configuration that is not there": {facts: kubeadm(), says: "/var/lib/kubelet/config.yaml"},
		"an environment file that is not there": {
			facts: gke(), says: "/etc/default/kubelet",
		},
		"a comment that continues for some versions of systemd": {
			facts: gke(),
			tree: map[string]string{
				"/etc/default/kubelet": "# off \\\nKUBELET_OPTS=--container-runtime-endpoint=/run/containerd/containerd.sock\n",
			},
			says: "backslash",
		},
		"two documents": {
			facts: kubeadm(), tree: map[string]string{"/var/lib/kubelet/config.yaml": head + "---\n" + head},
			says: "more than one",
		},
		"a field that is there twice": {
			facts: kubeadm(),
			tree:  map[string]string{"/var/lib/kubelet/config.yaml": head + "containerRuntimeEndpoint: a\ncontainerRuntimeEndpoint: b\n"},
			says:  "twice",
		},
		"a merge key": {
			facts: kubeadm(),
			tree:  map[string]string{"/var/lib/kubelet/config.yaml": head + "logging: &a\n  x: 1\n<<: *a\n"},
			says:  "merge key",
		},
		"an alias": {
			facts: kubeadm(),
			tree:  map[string]string{"/var/lib/kubelet/config.yaml": head + "providerID: &a unix:///x\ncontainerRuntimeEndpoint: *a\n"},
			says:  "no plain text",
		},
		"a folded text": {
			facts: kubeadm(),
			tree:  map[string]string{"/var/lib/kubelet/config.yaml": head + "containerRuntimeEndpoint: >-\n  unix:///x\n"},
			says:  "not edited",
		},
		"no kubelet configuration": {
			facts: kubeadm(), tree: map[string]string{"/var/lib/kubelet/config.yaml": "kind: Config\napiVersion: v1\n"},
			says: "KubeletConfiguration",
		},
		"a drop-in by our name that is not ours": {
			facts: Facts{Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet", "--config-dir=/etc/kubelet.d"}},
			tree:  map[string]string{"/etc/kubelet.d/99-cosentry.conf": head},
			says:  "rename it",
		},
		"a broken drop-in, with which kubelet would not start": {
			facts: Facts{Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet", "--config-dir=/etc/kubelet.d"}},
			tree:  map[string]string{"/etc/kubelet.d/1.conf": "containerRuntimeEndpoint: /x\n"},
			says:  "kind",
		},
		"k3s before 1.32": {
			facts: Facts{Unit: "k3s.service", Exec: []string{"/usr/local/bin/k3s", "server"}},
			says:  "1.32",
		},
		"k3s with the flag in its settings": {
			facts: Facts{Unit: "k3s.service", Exec: []string{"/usr/local/bin/k3s", "server"}},
			tree: map[string]string{
				"/var/lib/rancher/k3s/agent/etc/kubelet.conf.d/00-k3s-defaults.conf": head + "containerRuntimeEndpoint: unix:///run/k3s/containerd/containerd.sock\n",
				"/etc/rancher/k3s/config.yaml.d/10.yaml":                             "kubelet-arg+: container-runtime-endpoint=unix:///run/x.sock\n",
			},
			says: "kubelet-arg",
		},
		"RKE2 whose kubelet has the flag": {
			facts: Facts{
				Unit: "rke2-server.service", Exec: []string{"/usr/local/bin/rke2", "server"},
				Args: []string{"kubelet", "--container-runtime-endpoint=unix:///run/k3s/containerd/containerd.sock"},
			},
			tree: map[string]string{
				"/var/lib/rancher/rke2/agent/etc/kubelet.conf.d/00-rke2-defaults.conf": head + "containerRuntimeEndpoint: unix:///run/k3s/containerd/containerd.sock\n",
			},
			says: "--container-runtime-endpoint",
		},
		"a chosen file that a flag beats": {
			facts:  Facts{Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet", "--config=/etc/k.yaml", "--container-runtime-endpoint=" + plain}},
			layout: "/etc/k.yaml", tree: map[string]string{"/etc/k.yaml": head},
			says: "beats",
		},
		"a chosen file that a folder beats": {
			facts:  Facts{Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet", "--config=/etc/k.yaml", "--config-dir=/etc/k.d"}},
			layout: "/etc/k.yaml", tree: map[string]string{"/etc/k.yaml": head},
			says: "--config-dir",
		},
		"a chosen file of another kind": {
			layout: "/etc/passwd", tree: map[string]string{"/etc/passwd": "root:x:0:0::/:/bin/sh\n"},
			says: "has no flag",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.facts.Root = host(t, test.tree)
			found, err := Find(test.facts, test.layout)
			if err == nil {
				var changes []files.Change
				if changes, err = found.Changes(ours); err == nil {
					t.Fatalf("changed by %v", changes)
				}
			}
			if !errors.Is(err, ErrByHand) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v: does not say %q, or not that it is to be done by hand", err, test.says)
			}
		})
	}
}

// TestDoneByHand: once a person has done what a refusal asked for, there is nothing left to do.
func TestDoneByHand(t *testing.T) {
	facts := Facts{Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet", "--container-runtime-endpoint=" + ours}, Root: t.TempDir()}
	found, err := Find(facts, Auto)
	if err != nil || !found.Uses(ours) {
		t.Fatalf("%s is in force, want ours (%v)", found.Runtime, err)
	}
	if changes, err := found.Changes(ours); err != nil || len(changes) > 0 {
		t.Errorf("%v, %v", changes, err)
	}
}

// TestEndpointIsPlain: what is written into a file that root's programs read has no room for anything but a path.
func TestEndpointIsPlain(t *testing.T) {
	facts := kubeadm()
	facts.Root = host(t, map[string]string{"/var/lib/kubelet/config.yaml": head})
	found, err := Find(facts, Auto)
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"", "tcp://10.0.0.1:1", "run/x.sock", "/run/x.sock --v=9", "/run/x\n--v=9", "/run/$X", "unix:///", "/" + strings.Repeat("x", 300)} {
		if changes, err := found.Changes(to); err == nil {
			t.Errorf("%q was written: %v", to, changes)
		}
	}
}
