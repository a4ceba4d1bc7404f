package cluster

import (
	"testing"

	"github.com/cosentry/cosentry/integration/machine"
)

// TestGKE is a node that forgets /etc at every boot and whose kubelet's settings are then written anew: nobody is there
// but the DaemonSet to put cosentry back.
func TestGKE(t *testing.T) {
	s := newStage(t, machine.GKE, "overlays/gke")
	_, err := s.plane.Kubectl(t.Context(), "", "label", "node", nodeName, "cloud.google.com/gke-os-distribution=cos")
	must(t, err)
	s.product = s.publish(t)
	_, err = s.plane.Kubectl(t.Context(), "", "create", "-k", manifests+"/crds")
	must(t, err)
	s.mode = "enforce"
	s.apply(t)
	s.wantRollout(t, daemonSet)
	s.wantEndpoint(t, "/run/cosentry/containerd.sock")
	s.wantAgent(t)
	s.require(t, "two-keys", s.registry.Addr+"/apps/twice*", s.team)
	s.wantAgent(t, "two-keys")
	s.deploy(t, "default", "stays", s.push(t, "apps/stays:1", s.release))
	s.wantRuns(t, "default", "stays")

	must(t, s.machine.Reboot(t.Context(), true))
	s.wantAgent(t, "two-keys")
	s.wantEndpoint(t, "/run/cosentry/containerd.sock")
	s.wantReady(t)
	s.wantRollout(t, daemonSet)
	s.wantRuns(t, "default", "stays")
	s.deploy(t, "default", "unsigned", s.push(t, "apps/unsigned:1"))
	s.deploy(t, "default", "twice", s.push(t, "apps/twice:1", s.release))
	s.wantRefused(t, "default", "unsigned", "no signatures found", `"floor"`)
	s.wantRefused(t, "default", "twice", "cluster policy", `"two-keys"`)
}
