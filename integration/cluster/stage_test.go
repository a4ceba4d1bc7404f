package cluster

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/cosentry/cosentry/integration/harness"
)

// stage is a cluster with one node, a registry, and the keys of those who sign.
type stage struct {
	tools    harness.Tools
	plane    *ControlPlane
	registry *harness.Registry
	images   *harness.Images
	release  *harness.Key // signs what the cluster's owner runs
	team     *harness.Key // signs what a policy from the cluster asks for besides
}

const stageDir = "/run/cluster"

// newStage starts everything but cosentry. It goes with the test.
func newStage(t *testing.T) *stage {
	t.Helper()
	tools, err := harness.FindTools("cosign", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet")
	must(t, err)
	must(t, os.MkdirAll(stageDir, 0o755))
	t.Setenv("HOME", stageDir) // nobody's docker config
	s := &stage{tools: tools, registry: harness.NewRegistry("127.0.0.1:5001", true)}
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
	s.plane, err = StartControlPlane(t.Context(), tools, filepath.Join(stageDir, "plane"))
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.plane.Logs())
		}
		if err := s.plane.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// image is path in the registry.
func (s *stage) image(path string) string { return s.registry.Addr + "/" + path }

// push makes and pushes an image, signed by every one of the keys.
func (s *stage) push(t *testing.T, path string, keys ...*harness.Key) string {
	t.Helper()
	img, err := s.images.Saying(path)
	must(t, err)
	digest, err := s.registry.Push(path, img)
	must(t, err)
	for _, key := range keys {
		must(t, key.SignClassic(t.Context(), s.registry, digest))
	}
	return s.image(path)
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

