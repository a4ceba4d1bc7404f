package kubelet

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLayouts goes through every layout: what is found, which bytes are changed for it and that no others are, that
// cosentry's endpoint is then in force, that a second look changes nothing, and that the undoing gives back every byte.
func TestLayouts(t *testing.T) {
	tests := map[string]struct {
		facts  Facts
		layout string
		tree   map[string]string
		found  string // layout
		was    string // endpoint
		now    map[string]string
	}{
		"kubeadm: the flag in kubeadm-flags.env beats the configuration file": {
			facts: kubeadm(), found: Kubeadm, was: "unix:///var/run/containerd/containerd.sock",
			tree: map[string]string{
				"/var/lib/kubelet/kubeadm-flags.env": `KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=unix:///var/run/containerd/containerd.sock --pod-infra-container-image=registry.k8s.io/pause:3.10"` + "\n",
				"/var/lib/kubelet/config.yaml":       head + "containerRuntimeEndpoint: \"\"\ncpuManagerReconcilePeriod: 0s\n",
			},
			now: map[string]string{
				"/var/lib/kubelet/kubeadm-flags.env": `KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=` + ours + ` --pod-infra-container-image=registry.k8s.io/pause:3.10"` + "\n",
			},
		},
		"kubeadm 1.36: the configuration file, and the note from which an upgrade writes it": {
			facts: kubeadm(), layout: Kubeadm, found: Kubeadm, was: plain,
			tree: map[string]string{
				"/var/lib/kubelet/kubeadm-flags.env":    "KUBELET_KUBEADM_ARGS=\"--hostname-override=n1\"\n",
				"/var/lib/kubelet/config.yaml":          "# by the platform team\n" + head + "containerRuntimeEndpoint: unix:///run/containerd/containerd.sock # do not touch\ncgroupDriver: systemd\n",
				"/var/lib/kubelet/instance-config.yaml": "containerRuntimeEndpoint: \"unix:///run/containerd/containerd.sock\"\n",
			},
			now: map[string]string{
				"/var/lib/kubelet/config.yaml":          "# by the platform team\n" + head + "containerRuntimeEndpoint: " + ours + " # do not touch\ncgroupDriver: systemd\n",
				"/var/lib/kubelet/instance-config.yaml": "containerRuntimeEndpoint: \"" + ours + "\"\n",
			},
		},
		"kubeadm: KUBELET_EXTRA_ARGS comes last and wins": {
			facts: kubeadm(), found: Kubeadm, was: "unix:///run/crio/crio.sock",
			tree: map[string]string{
				"/var/lib/kubelet/kubeadm-flags.env": "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/containerd/containerd.sock\"\n",
				"/var/lib/kubelet/config.yaml":       head,
				"/etc/default/kubelet":               "# extra\nKUBELET_EXTRA_ARGS='--container_runtime_endpoint unix:///run/crio/crio.sock --v=4'\n",
			},
			now: map[string]string{
				"/etc/default/kubelet": "# extra\nKUBELET_EXTRA_ARGS='--container_runtime_endpoint " + ours + " --v=4'\n",
			},
		},
		"of a flag that is there twice the last one counts": {
			facts: gke(), found: GKE, was: "unix:///run/b.sock",
			tree: map[string]string{"/etc/default/kubelet": "KUBELET_OPTS=\"--container-runtime-endpoint=/run/a.sock --v=2 --container-runtime-endpoint=/run/b.sock\"\n"},
			now:  map[string]string{"/etc/default/kubelet": "KUBELET_OPTS=\"--container-runtime-endpoint=/run/a.sock --v=2 --container-runtime-endpoint=" + ours + "\"\n"},
		},
		"an endpoint of its own for images is a hole and is changed too": {
			facts: kubeadm(), found: Kubeadm, was: plain,
			tree: map[string]string{
				"/var/lib/kubelet/kubeadm-flags.env": "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/containerd/containerd.sock\"\n",
				"/var/lib/kubelet/config.yaml":       head + "imageServiceEndpoint: 'unix:///run/images.sock'\n",
			},
			now: map[string]string{
				"/var/lib/kubelet/kubeadm-flags.env": "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=" + ours + "\"\n",
				"/var/lib/kubelet/config.yaml":       head + "imageServiceEndpoint: '" + ours + "'\n",
			},
		},
		"both endpoints in one file are one change": {
			facts: kubeadm(), found: Kubeadm, was: plain,
			tree: map[string]string{
				"/var/lib/kubelet/config.yaml": head + "imageServiceEndpoint: unix:///run/images.sock\ncontainerRuntimeEndpoint: \"unix:///run/\\x63ontainerd/containerd.sock\"\n",
			},
			now: map[string]string{
				"/var/lib/kubelet/config.yaml": head + "imageServiceEndpoint: " + ours + "\ncontainerRuntimeEndpoint: \"" + ours + "\"\n",
			},
		},
		"kubelet's default: a field is added, nothing else moves": {
			facts: kubeadm(), found: Kubeadm, was: plain,
			tree: map[string]string{"/var/lib/kubelet/config.yaml": "---\n# first\n" + head + "cgroupDriver: systemd"},
			now:  map[string]string{"/var/lib/kubelet/config.yaml": "---\n# first\ncontainerRuntimeEndpoint: " + ours + "\n" + head + "cgroupDriver: systemd"},
		},
		"kind": {
			facts: Facts{
				Unit: "kubelet.service",
				Exec: []string{"/usr/bin/kubelet", "$KUBELET_KUBECONFIG_ARGS", "$KUBELET_CONFIG_ARGS", "$KUBELET_EXTRA_ARGS", "$KUBELET_KUBEADM_ARGS"},
				Environment: []string{
					"KUBELET_KUBECONFIG_ARGS=--kubeconfig=/etc/kubernetes/kubelet.conf", "KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml",
				},
				EnvironmentFiles: []string{"-/var/lib/kubelet/kubeadm-flags.env", "-/etc/default/kubelet"},
			},
			layout: Kind, found: Kind, was: plain,
			tree: map[string]string{
				"/kind/version":                      "v1.34.0",
				"/etc/default/kubelet":               "KUBELET_EXTRA_ARGS=--runtime-cgroups=/system.slice/containerd.service",
				"/var/lib/kubelet/kubeadm-flags.env": "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/containerd/containerd.sock --node-ip=172.18.0.2 --node-labels= --provider-id=kind://docker/kind/kind-control-plane\"\n",
				"/var/lib/kubelet/config.yaml":       head + "failSwapOn: false\n",
			},
			now: map[string]string{
				"/var/lib/kubelet/kubeadm-flags.env": "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=" + ours + " --node-ip=172.18.0.2 --node-labels= --provider-id=kind://docker/kind/kind-control-plane\"\n",
			},
		},
		"GKE with the flag": {
			facts: gke(), layout: GKE, found: GKE, was: plain,
			tree: map[string]string{
				"/etc/default/kubelet":                 "KUBELET_OPTS=\"--v=2 --cloud-provider=external --container-runtime-endpoint=unix:///run/containerd/containerd.sock --config /home/kubernetes/kubelet-config.yaml --pod-sysctls='net.core.somaxconn=1024,net.ipv4.ip_forward=1'\"\nKUBE_COVERAGE_FILE=\"/var/log/kubelet.cov\"\n",
				"/home/kubernetes/kubelet-config.yaml": head,
			},
			now: map[string]string{
				"/etc/default/kubelet": "KUBELET_OPTS=\"--v=2 --cloud-provider=external --container-runtime-endpoint=" + ours + " --config /home/kubernetes/kubelet-config.yaml --pod-sysctls='net.core.somaxconn=1024,net.ipv4.ip_forward=1'\"\nKUBE_COVERAGE_FILE=\"/var/log/kubelet.cov\"\n",
			},
		},
		"GKE with the configuration file": {
			facts: gke(), found: GKE, was: plain,
			tree: map[string]string{
				"/etc/default/kubelet":                 "KUBELET_OPTS=\"--v=2 --config /home/kubernetes/kubelet-config.yaml\"\n",
				"/home/kubernetes/kubelet-config.yaml": "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nauthentication:\n  anonymous:\n    enabled: false\ncontainerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n",
			},
			now: map[string]string{
				"/home/kubernetes/kubelet-config.yaml": "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nauthentication:\n  anonymous:\n    enabled: false\ncontainerRuntimeEndpoint: " + ours + "\n",
			},
		},
		"EKS: JSON": {
			facts: eks(), layout: EKS, found: EKS, was: plain,
			tree: map[string]string{
				"/etc/eks/kubelet/environment":        "NODEADM_KUBELET_ARGS=--node-ip=10.0.0.1 --config=/etc/kubernetes/kubelet/config.json --hostname-override=ip-10-0-0-1",
				"/etc/kubernetes/kubelet/config.json": "{\n    \"kind\": \"KubeletConfiguration\",\n    \"apiVersion\": \"kubelet.config.k8s.io/v1beta1\",\n    \"containerRuntimeEndpoint\": \"unix:///run/containerd/containerd.sock\",\n    \"evictionHard\": {\n        \"memory.available\": \"100Mi\"\n    }\n}",
			},
			now: map[string]string{
				"/etc/kubernetes/kubelet/config.json": "{\n    \"kind\": \"KubeletConfiguration\",\n    \"apiVersion\": \"kubelet.config.k8s.io/v1beta1\",\n    \"containerRuntimeEndpoint\": \"" + ours + "\",\n    \"evictionHard\": {\n        \"memory.available\": \"100Mi\"\n    }\n}",
			},
		},
		"EKS with a drop-in folder, which outlives nodeadm's run at the next boot": {
			facts: eks(), layout: ConfigDir, found: EKS, was: plain,
			tree: map[string]string{
				"/etc/eks/kubelet/environment":                          "NODEADM_KUBELET_ARGS=--config=/etc/kubernetes/kubelet/config.json --config-dir=/etc/kubernetes/kubelet/config.json.d",
				"/etc/kubernetes/kubelet/config.json":                   "{\"kind\":\"KubeletConfiguration\",\"apiVersion\":\"kubelet.config.k8s.io/v1beta1\"}",
				"/etc/kubernetes/kubelet/config.json.d/40-nodeadm.conf": "{\"kind\":\"KubeletConfiguration\",\"apiVersion\":\"kubelet.config.k8s.io/v1beta1\",\"maxPods\":20}",
			},
			now: map[string]string{
				"/etc/kubernetes/kubelet/config.json.d/99-cosentry.conf": ownHeader + head + "containerRuntimeEndpoint: " + ours + "\n",
			},
		},
		"config-dir: after the owner's last file, whatever its name, and with the endpoint for images": {
			facts: Facts{Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet", "--config=/etc/kubelet.yaml", "--config-dir", "/etc/kubelet.d"}},
			found: ConfigDir, was: "unix:///run/b.sock",
			tree: map[string]string{
				"/etc/kubelet.yaml":         head + "containerRuntimeEndpoint: unix:///run/a.sock\n",
				"/etc/kubelet.d/z.conf":     head + "containerRuntimeEndpoint: unix:///run/b.sock\nimageServiceEndpoint: unix:///run/c.sock\n",
				"/etc/kubelet.d/z.yaml":     "kubelet does not read me",
				"/etc/kubelet.d/5/one.conf": head + "imageServiceEndpoint: unix:///run/d.sock\n",
			},
			now: map[string]string{
				"/etc/kubelet.d/zz-cosentry.conf": ownHeader + head + "containerRuntimeEndpoint: " + ours + "\nimageServiceEndpoint: " + ours + "\n",
			},
		},
		"config-dir: a field that a drop-in empties is kubelet's default": {
			facts: Facts{Unit: "kubelet.service", Exec: []string{"/usr/bin/kubelet", "--config=/etc/kubelet.yaml", "--config-dir=/etc/kubelet.d"}},
			found: ConfigDir, was: plain,
			tree: map[string]string{
				"/etc/kubelet.yaml":     head + "containerRuntimeEndpoint: unix:///run/a.sock\n",
				"/etc/kubelet.d/1.conf": head + "containerRuntimeEndpoint: null\n",
			},
			now: map[string]string{
				"/etc/kubelet.d/99-cosentry.conf": ownHeader + head + "containerRuntimeEndpoint: " + ours + "\n",
			},
		},
		"k3s": {
			facts: Facts{
				Unit: "k3s.service", Exec: []string{"/usr/local/bin/k3s", "server", "--data-dir=/data/k3s", "--kubelet-arg", "v=2"},
				EnvironmentFiles: []string{"-/etc/default/k3s", "-/etc/systemd/system/k3s.service.env"},
			},
			found: K3s, was: "unix:///run/k3s/containerd/containerd.sock",
			tree: map[string]string{
				"/etc/rancher/k3s/config.yaml":                            "kubelet-arg:\n- \"max-pods=200\"\n",
				"/data/k3s/agent/etc/kubelet.conf.d/00-k3s-defaults.conf": head + "containerRuntimeEndpoint: unix:///run/k3s/containerd/containerd.sock\n",
			},
			now: map[string]string{
				"/data/k3s/agent/etc/kubelet.conf.d/99-cosentry.conf": ownHeader + head + "containerRuntimeEndpoint: " + ours + "\n",
			},
		},
		"RKE2": {
			facts: Facts{
				Unit: "rke2-agent.service", Exec: []string{"/usr/local/bin/rke2", "agent"},
				Args: []string{"kubelet", "--config-dir=/var/lib/rancher/rke2/agent/etc/kubelet.conf.d", "--node-ip=10.0.0.1"},
			},
			found: RKE2, was: "unix:///run/k3s/containerd/containerd.sock",
			tree: map[string]string{
				"/var/lib/rancher/rke2/agent/etc/kubelet.conf.d/00-rke2-defaults.conf": head + "containerRuntimeEndpoint: unix:///run/k3s/containerd/containerd.sock\n",
			},
			now: map[string]string{
				"/var/lib/rancher/rke2/agent/etc/kubelet.conf.d/99-cosentry.conf": ownHeader + head + "containerRuntimeEndpoint: " + ours + "\n",
			},
		},
		"a file of the owner's choice": {
			facts:  Facts{Unit: "kubelet.service", Exec: []string{"/usr/local/bin/start-kubelet.sh"}},
			layout: "/opt/kubelet/kubelet.yml", found: "/opt/kubelet/kubelet.yml", was: plain,
			tree: map[string]string{"/opt/kubelet/kubelet.yml": head + "containerRuntimeEndpoint:\n"},
			now:  map[string]string{"/opt/kubelet/kubelet.yml": head + "containerRuntimeEndpoint: " + ours + "\n"},
		},
		"an environment file of the owner's choice": {
			facts:  Facts{Unit: "kubelet.service", Exec: []string{"/usr/local/bin/start-kubelet.sh"}},
			layout: "/etc/kubelet.env", found: "/etc/kubelet.env", was: plain,
			tree: map[string]string{"/etc/kubelet.env": "A=1\nFLAGS=--container-runtime-endpoint=/run/containerd/containerd.sock\n"},
			now:  map[string]string{"/etc/kubelet.env": "A=1\nFLAGS=--container-runtime-endpoint=" + ours + "\n"},
		},
		"a wrapper around kubelet, whose flags say nothing of an endpoint": {
			facts: Facts{
				Unit: "kubelet.service", Exec: []string{"/bin/sh", "-c", "exec kubelet --config /etc/k.yaml"},
				Args: []string{"kubelet", "--config", "/etc/k.yaml"},
			},
			found: "config", was: plain,
			tree: map[string]string{"/etc/k.yaml": head},
			now:  map[string]string{"/etc/k.yaml": "containerRuntimeEndpoint: " + ours + "\n" + head},
		},
		"absolute links are the host's own": {
			facts: kubeadm(), found: Kubeadm, was: plain,
			tree: map[string]string{
				"/var/lib/kubelet":               "-> /mnt/kubelet",
				"/mnt/kubelet/config.yaml":       head,
				"/mnt/kubelet/kubeadm-flags.env": "KUBELET_KUBEADM_ARGS=--container-runtime-endpoint=unix:///run/containerd/containerd.sock\n",
			},
			now: map[string]string{
				"/mnt/kubelet/kubeadm-flags.env": "KUBELET_KUBEADM_ARGS=--container-runtime-endpoint=" + ours + "\n",
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.facts.Root = host(t, test.tree)
			before := snapshot(t, test.facts.Root)
			found, err := Find(test.facts, test.layout)
			if err != nil {
				t.Fatal(err)
			}
			if found.Layout != test.found || found.Runtime != test.was {
				t.Errorf("found %s, %s (%s), want %s, %s", found.Layout, found.Runtime, found.Source, test.found, test.was)
			}
			changes, err := found.Changes("/run/cosentry/containerd.sock")
			if err != nil {
				t.Fatal(err)
			}
			apply(t, test.facts.Root, changes)
			want := map[string]string{}
			for p, content := range before {
				want[p] = content
			}
			for p, content := range test.now {
				want[p] = content
			}
			if diff := cmp.Diff(want, snapshot(t, test.facts.Root)); diff != "" {
				t.Errorf("after the change (-want +got):\n%s", diff)
			}

			again, err := Find(test.facts, test.layout)
			if err != nil {
				t.Fatal(err)
			}
			if !again.Uses(ours) {
				t.Errorf("after the change: %s and %s are in force", again.Runtime, again.Image)
			}
			if more, err := again.Changes(ours); err != nil || len(more) > 0 {
				t.Errorf("done a second time: %v, %v", more, err)
			}
			for i := range changes {
				changes[i] = changes[i].Undo()
			}
			apply(t, test.facts.Root, changes)
			if diff := cmp.Diff(before, snapshot(t, test.facts.Root)); diff != "" {
				t.Errorf("after the undoing (-want +got):\n%s", diff)
			}
		})
	}
}
