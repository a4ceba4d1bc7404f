package cluster

import (
	"testing"

	"github.com/cosentry/cosentry/integration/machine"
)

// TestCluster is the life of cosentry in one cluster, from `kubectl apply` to a clean uninstall. A step begins with what
// the step before has left, so they are one test: a step that fails ends it.
func TestCluster(t *testing.T) {
	s := newStage(t, machine.Kubeadm, "base")
	steps := []struct {
		name string
		run  func(*stage, *testing.T)
	}{
		{"without cosentry everything runs", (*stage).testBefore},
		{"kubectl apply installs it in observe mode and restarts nothing", (*stage).testInstall},
		{"observe mode lets through and records", (*stage).testObserve},
		{"enforce mode comes by the ConfigMap and restarts nothing", (*stage).testEnforce},
		{"a Deployment runs if it is signed and tells its reason if not", (*stage).testDeployments},
		{"a static pod and a pod that no webhook saw are refused alike", (*stage).testPaths},
		{"an ephemeral container is judged as any other", (*stage).testEphemeral},
		{"cosentry admits itself by policy", (*stage).testItself},
		{"another image is an upgrade that touches nothing else", (*stage).testUpgrade},
		{"a broken image goes back by itself and stops the rollout", (*stage).testBrokenUpgrade},
		{"the account of the pods can read policies and no more", (*stage).testAccount},
		{"a node's own credential does not take cosentry off it", (*stage).testNodeCredential},
		{"the network reaches metrics alone and keeps kubelet from no probe", (*stage).testPorts},
		{"supervise puts back what somebody took away", (*stage).testMends},
		{"policies by CRD arrive and bind", (*stage).testPolicies},
		{"keys in Secrets of the cluster, where they are granted", (*stage).testReferences},
		{"a TrustRoot and a rule in a ConfigMap arrive and bind", (*stage).testTrustRoots},
		{"a kind that is removed frees nothing", (*stage).testKindRemoved},
		{"a cluster policy that passes everything opens nothing", (*stage).testPass},
		{"enforcement goes on without the API server", (*stage).testWithoutAPI},
		{"with the owner's key, only what he signed is a policy", (*stage).testSigned},
		{"a ConfigMap loosens no node that enforces", (*stage).testLoosened},
		{"namespaces by their label", (*stage).testNamespaces},
		{"a DaemonSet that is deleted leaves the node enforcing", (*stage).testDeleted},
		{"settings that the node's owner wrote are not the cluster's to change", (*stage).testOwner},
		{"uninstall leaves the node as it was", (*stage).testUninstall},
	}
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) { step.run(s, t) }) {
			return
		}
	}
}

// testBefore: an unsigned Deployment that is there before cosentry, and a signed one. Both stay.
func (s *stage) testBefore(t *testing.T) {
	for name, image := range map[string]string{"old": s.push(t, "apps/old:1"), "old-signed": s.push(t, "apps/old-signed:1", s.release)} {
		_, err := s.plane.Kubectl(t.Context(), deployment("default", name, image), "apply", "-f", "-")
		must(t, err)
		s.before = append(s.before, s.wantRuns(t, "default", name))
	}
	var err error
	s.delivered, err = s.machine.Snapshot(volatile...)
	must(t, err)
}

// wantUntouched expects that what ran before cosentry still does, and was not started again.
func (s *stage) wantUntouched(t *testing.T) {
	t.Helper()
	for _, pod := range s.before {
		s.unchanged(t, pod)
	}
}
