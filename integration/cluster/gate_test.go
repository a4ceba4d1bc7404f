package cluster

import (
	"context"
	"fmt"
	"testing"
)

// testDeployments: the same Deployment, once signed and once not.
func (s *stage) testDeployments(t *testing.T) {
	s.deploy(t, "default", "signed", s.push(t, "apps/signed:1", s.release))
	s.deploy(t, "default", "unsigned", s.push(t, "apps/unsigned:1"))
	s.deploy(t, "default", "foreign", s.push(t, "apps/foreign:1", s.team))
	s.wantRuns(t, "default", "signed")
	s.wantRefused(t, "default", "unsigned", s.image("apps/unsigned"), "no signatures found", `"floor"`)
	s.wantRefused(t, "default", "foreign", s.image("apps/foreign"), `"floor"`)
}

// testPaths: what reaches kubelet without the API server's asking anybody, or without the API server, is refused with the
// same words.
func (s *stage) testPaths(t *testing.T) {
	ctx := t.Context()
	image := s.push(t, "apps/paths:1")
	_, err := s.plane.Kubectl(ctx, deadWebhook, "apply", "-f", "-")
	must(t, err)
	s.pod(t, "default", "unwatched", image)
	_, err = s.plane.Kubectl(ctx, deadWebhook, "delete", "-f", "-")
	must(t, err)
	s.pod(t, "default", "bare", image)
	s.staticPod(t, "static", image)
	s.staticPod(t, "static-signed", s.push(t, "apps/paths-signed:1", s.release))

	s.wantRuns(t, "default", "static-signed")
	for _, name := range []string{"unwatched", "bare", "static"} {
		s.wantRefused(t, "default", name, s.image("apps/paths"), "no signatures found")
	}
}

// testPolicies: what the cluster asks for is asked for besides what the node asks for, and no longer once it is removed.
func (s *stage) testPolicies(t *testing.T) {
	one := s.push(t, "apps/once:1", s.release)
	two := s.push(t, "apps/twice:1", s.release, s.team)
	other := s.push(t, "apps/team-only:1", s.team)
	t.Run("while it is there", func(t *testing.T) {
		s.require(t, "two-keys", s.registry.Addr+"/apps/**", s.team)
		s.wantAgent(t, "two-keys")
		s.deploy(t, "default", "once", one)
		s.deploy(t, "default", "twice", two)
		s.deploy(t, "default", "team-only", other)
		s.wantRuns(t, "default", "twice")
		s.wantRefused(t, "default", "once", "cluster policy", `"two-keys"`)
		s.wantRefused(t, "default", "team-only", `"floor"`)
	})
	s.wantAgent(t)
	s.deploy(t, "default", "once", one)
	s.wantRuns(t, "default", "once")
}

// testPass: whoever may write policies in the cluster may ask for more, and cannot ask for less.
func (s *stage) testPass(t *testing.T) {
	s.admit(t, "everything", "**")
	s.wantAgent(t, "everything")
	s.deploy(t, "default", "passed", s.push(t, "apps/passed:1"))
	s.deploy(t, "default", "elsewhere", s.push(t, "elsewhere/passed:1", s.release))
	s.wantRefused(t, "default", "passed", "no signatures found", `"floor"`)
	s.wantRefused(t, "default", "elsewhere", "no policy matches")
}

// testWithoutAPI: the API server is gone, and what it said last holds, also for an agent that starts meanwhile.
func (s *stage) testWithoutAPI(t *testing.T) {
	s.require(t, "two-keys", s.registry.Addr+"/apps/**", s.team)
	s.wantAgent(t, "two-keys")
	good := s.push(t, "apps/alone-good:1", s.release, s.team)
	half := s.push(t, "apps/alone-half:1", s.release)
	bad := s.push(t, "apps/alone-bad:1", s.team)
	s.withoutAPI(t, func() {
		_, err := s.machine.Exec(t.Context(), "systemctl", "restart", "cosentry.service")
		must(t, err)
		s.staticPod(t, "alone-good", good)
		s.staticPod(t, "alone-half", half)
		s.staticPod(t, "alone-bad", bad)
		s.wantNodeRuns(t, "alone-good")
		s.wantNodeRefused(t, "alone-half", "cluster policy", `"two-keys"`)
		s.wantNodeRefused(t, "alone-bad", `"floor"`)
	})
	s.wantReady(t)
	s.wantRefused(t, "default", "alone-half", "cluster policy", `"two-keys"`)
}

// testNamespaces: with policy-controller's label, a namespace is under the cluster's policies, and no namespace is ever
// free of the node's own. The ConfigMap alone does not bring it: the cluster's policies hold in fewer namespaces then.
func (s *stage) testNamespaces(t *testing.T) {
	ctx := t.Context()
	s.settings = "namespaces:\n  enforce: labelled\n  file: /var/lib/cosentry/cluster/current/namespaces.yaml\n"
	s.apply(t)
	s.wantNotTaken(t, "namespaces.enforce: all here, labelled offered")
	s.weaken(t)
	s.wantRollout(t, daemonSet)
	s.require(t, "two-keys", s.registry.Addr+"/apps/**", s.team)
	s.wantAgent(t, "two-keys")
	for _, name := range []string{"plain", "labelled"} {
		_, err := s.plane.Kubectl(ctx, "", "create", "namespace", name)
		must(t, err)
	}
	_, err := s.plane.Kubectl(ctx, "", "label", "namespace", "labelled", "policy.sigstore.dev/include=true")
	must(t, err)
	must(t, eventually(ctx, patience, "the agent to know of one labelled namespace", func(ctx context.Context) error {
		now, err := status(ctx)
		if err == nil && now.Namespaces.Labelled != 1 {
			err = fmt.Errorf("it knows of %d", now.Namespaces.Labelled)
		}
		return err
	}))
	once, none := s.push(t, "apps/labels-once:1", s.release), s.push(t, "apps/labels-none:1")
	s.deploy(t, "plain", "once", once)
	s.deploy(t, "plain", "none", none)
	s.deploy(t, "labelled", "once", once)
	s.wantRuns(t, "plain", "once")
	s.wantRefused(t, "plain", "none", `"floor"`)
	s.wantRefused(t, "labelled", "once", "cluster policy", `"two-keys"`)
}
