package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"

	"github.com/cosentry/cosentry/integration/harness"
	"github.com/cosentry/cosentry/integration/machine"
)

// stage is a cluster with one node, a registry, and the keys of those who sign.
type stage struct {
	tools    harness.Tools
	dir      string // of its own
	plane    *ControlPlane
	machine  *machine.Machine
	registry *harness.Registry
	images   *harness.Images
	release  *harness.Key // signs what the cluster's owner runs
	team     *harness.Key // signs what a policy from the cluster asks for besides
	layout   machine.Layout
	folder   string // of the manifests, which is applied

	// What ran before cosentry came, and the node's disk then.
	before    []corev1.Pod
	delivered machine.Snapshot
	// What is applied: cosentry's image, its mode, and more of the node's settings in YAML.
	product  product
	mode     string
	settings string
}

const nodeName = "node"

// newStage starts everything but cosentry, with a node on which kubelet's settings are where layout says. It goes with
// the test.
func newStage(t *testing.T, layout machine.Layout, folder string) *stage {
	t.Helper()
	tools, err := harness.FindTools("cosign", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet")
	must(t, err)
	s := &stage{tools: tools, registry: harness.NewRegistry("127.0.0.1:5001", true), layout: layout, folder: folder}
	s.dir, err = os.MkdirTemp("/run", "cluster")
	must(t, err)
	t.Setenv("HOME", s.dir) // nobody's docker config
	must(t, s.registry.Start())
	t.Cleanup(s.registry.Stop)
	s.images, err = harness.NewImages(tools)
	must(t, err)
	pause, err := s.images.Pause()
	must(t, err)
	_, err = s.registry.Push("pause:3.10", pause)
	must(t, err)
	s.release, err = harness.NewKey()
	must(t, err)
	s.team, err = harness.NewKey()
	must(t, err)
	s.plane, err = StartControlPlane(t.Context(), tools, filepath.Join(s.dir, "plane"))
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.plane.Logs())
		}
		if err := s.plane.Close(); err != nil {
			t.Error(err)
		}
	})
	s.startMachine(t)
	return s
}

// startMachine starts the node as kubeadm would have joined it, and waits until it is ready for pods.
func (s *stage) startMachine(t *testing.T) {
	t.Helper()
	kubeconfig, err := s.plane.Kubeconfig("system:node:"+nodeName, "system:nodes")
	must(t, err)
	ca, err := os.ReadFile(s.plane.CA())
	must(t, err)
	const caFile = "/etc/kubernetes/pki/ca.crt"
	s.machine, err = machine.Start(t.Context(), machine.Options{
		Tools: s.tools, Pause: s.image("pause:3.10"), Name: nodeName, NodeIP: nodeAddress, Kubeconfig: kubeconfig, Layout: s.layout,
		Files: map[string]machine.File{caFile: {Text: string(ca)}},
		KubeletConfig: map[string]any{
			"authentication": map[string]any{
				"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true}, "x509": map[string]any{"clientCAFile": caFile},
			},
			"authorization": map[string]any{"mode": "Webhook"},
		},
	})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.machine.Logs(context.Background()))
		}
		if err := s.machine.Close(); err != nil {
			t.Error(err)
		}
	})
	s.wantReady(t)
}

// wantReady waits until the cluster counts on the node.
func (s *stage) wantReady(t *testing.T) {
	t.Helper()
	err := eventually(t.Context(), patience, "the node to be ready", func(ctx context.Context) error {
		var node corev1.Node
		if err := s.plane.Get(ctx, "/api/v1/nodes/"+nodeName, &node); err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && len(node.Spec.Taints) == 0 {
				return nil
			}
		}
		return fmt.Errorf("conditions %v, taints %v", node.Status.Conditions, node.Spec.Taints)
	})
	must(t, err)
}

// image is path in the registry.
func (s *stage) image(path string) string { return s.registry.Addr + "/" + path }

// push makes and pushes an image, signed by every one of the keys.
func (s *stage) push(t *testing.T, path string, keys ...*harness.Key) string {
	t.Helper()
	s.pushed(t, path, keys...)
	return s.image(path)
}

// pushed is push for who signs more: it returns the image by its digest.
func (s *stage) pushed(t *testing.T, path string, keys ...*harness.Key) name.Digest {
	t.Helper()
	img, err := s.images.Saying(path)
	must(t, err)
	digest, err := s.registry.Push(path, img)
	must(t, err)
	for _, key := range keys {
		must(t, key.SignClassic(t.Context(), s.registry, digest))
	}
	return digest
}

// withoutAPI ends the API server for as long as during runs.
func (s *stage) withoutAPI(t *testing.T, during func()) {
	t.Helper()
	s.plane.StopAPI()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		must(t, s.plane.StartAPI(ctx))
	}()
	during()
}
