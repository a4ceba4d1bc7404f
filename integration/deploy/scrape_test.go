package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// podMonitor is as much of the Prometheus operator's kind as deploy/monitoring uses. A field that is not here is a mistake of
// spelling, which the operator would drop without a word, or has to be added here.
type podMonitor struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Spec struct {
		Selector struct {
			MatchLabels map[string]string `json:"matchLabels"`
		} `json:"selector"`
		PodMetricsEndpoints []endpoint `json:"podMetricsEndpoints"`
	} `json:"spec"`
}

// endpoint has no path: the operator's is /metrics.
type endpoint struct {
	Port        string    `json:"port"`
	Relabelings []relabel `json:"relabelings"`
}

type relabel struct {
	SourceLabels []string `json:"sourceLabels"`
	TargetLabel  string   `json:"targetLabel"`
}

// TestScrape: whoever goes by annotations and whoever goes by the PodMonitor finds supervise's port, and that alone: a node that is
// scraped twice has each of its alerts twice, and one that is not scraped has none.
func TestScrape(t *testing.T) {
	var monitor podMonitor
	readStrict(t, "monitoring/podmonitor.yaml", &monitor)
	if got := monitor.APIVersion + " " + monitor.Kind; got != "monitoring.coreos.com/v1 PodMonitor" {
		t.Errorf("podmonitor.yaml is a %s", got)
	}
	// CosentryNodeUnwatched goes by node.
	want := []endpoint{{Port: "metrics", Relabelings: []relabel{{SourceLabels: []string{"__meta_kubernetes_pod_node_name"}, TargetLabel: "node"}}}}
	if diff := cmp.Diff(want, monitor.Spec.PodMetricsEndpoints); diff != "" {
		t.Errorf("podmonitor.yaml scrapes something else: %s", diff)
	}
	for _, folder := range []string{"base", "overlays/kind", "overlays/gke"} {
		d, _ := daemonSet(t, folder)
		if monitor.Metadata.Namespace != d.Namespace {
			t.Errorf("%s: the pods are in %s, and podmonitor.yaml looks in %s", folder, d.Namespace, monitor.Metadata.Namespace)
		}
		if diff := cmp.Diff(d.Spec.Selector.MatchLabels, monitor.Spec.Selector.MatchLabels); diff != "" {
			t.Errorf("%s: podmonitor.yaml selects other pods: %s", folder, diff)
		}
		var ports []corev1.ContainerPort
		var args []string
		for _, c := range containers(d) {
			for _, p := range c.Ports {
				if p.Name == "metrics" {
					ports, args = append(ports, p), c.Args
				}
			}
		}
		if len(ports) != 1 {
			t.Errorf("%s: %d ports are called metrics", folder, len(ports))
			continue
		}
		number := strconv.Itoa(int(ports[0].ContainerPort))
		annotations := map[string]string{}
		for key, value := range d.Spec.Template.Annotations {
			if strings.HasPrefix(key, "prometheus.io/") {
				annotations[key] = value
			}
		}
		if diff := cmp.Diff(map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": number, "prometheus.io/path": "/metrics"}, annotations); diff != "" {
			t.Errorf("%s: the annotations: %s", folder, diff)
		}
		// The port is where supervise listens unless it is told otherwise, and it is not.
		help, err := exec.CommandContext(t.Context(), tools(t).Cosentry, args[0], "--help").CombinedOutput()
		if err != nil || args[0] != "supervise" || !strings.Contains(string(help), `":`+number+`"`) ||
			slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--listen") }) {
			t.Errorf("%s: cosentry %v does not listen on port %s (%v):\n%s", folder, args, number, err, help)
		}
	}
}

// kindCluster is as much of kind's v1alpha4 as the overlay uses. kind refuses fields that it does not know.
type kindCluster struct {
	Kind       string     `json:"kind"`
	APIVersion string     `json:"apiVersion"`
	Name       string     `json:"name"`
	Nodes      []kindNode `json:"nodes"`
}

type kindNode struct {
	Role string `json:"role"`
}

// TestKind: the cluster of kind is what the overlay's commands and words take it for.
func TestKind(t *testing.T) {
	var c kindCluster
	readStrict(t, "overlays/kind/cluster.yaml", &c)
	want := kindCluster{Kind: "Cluster", APIVersion: "kind.x-k8s.io/v1alpha4", Name: "cosentry", Nodes: []kindNode{{"control-plane"}, {"worker"}}}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("cluster.yaml: %s", diff)
	}
	told, err := os.ReadFile(filepath.Join(manifests, "overlays/kind/kustomization.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{
		"kind create cluster --config deploy/overlays/kind/cluster.yaml\n",
		" --name " + c.Name + "\n", // without it the image is loaded into a cluster that is called kind
		"kubectl create -k deploy/crds\n",
		"kubectl apply -k deploy/overlays/kind\n",
	} {
		if !strings.Contains(string(told), words) {
			t.Errorf("the overlay does not say %q", words)
		}
	}
	// The image is loaded and not pulled, and called as `make image` calls what is no release.
	d, _ := daemonSet(t, "overlays/kind")
	for _, c := range containers(d) {
		if c.ImagePullPolicy != corev1.PullNever || c.Image != "cosentry.invalid/cosentry:devel" {
			t.Errorf("%s: %s, pulled %s", c.Name, c.Image, c.ImagePullPolicy)
		}
	}
}

// readStrict reads a file of deploy/, in which every field has to be known.
func readStrict(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(manifests, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, into); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}
