package cluster

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/cosentry/cosentry/integration/harness"
)

// require has the cluster ask for key's signature on everything that the glob matches. The policy goes with the test.
func (s *stage) require(t *testing.T, name, glob string, key *harness.Key) {
	t.Helper()
	s.applyPolicy(t, name, harness.KeyPolicy(name, glob, key.PublicPEM))
}

// admit has the cluster let everything through that the glob matches.
func (s *stage) admit(t *testing.T, name, glob string) {
	t.Helper()
	s.applyPolicy(t, name, fmt.Sprintf(`apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata: {name: %s}
spec:
  images: [{glob: %q}]
  authorities: [{static: {action: pass}}]
`, name, glob))
}

func (s *stage) applyPolicy(t *testing.T, name, text string) {
	t.Helper()
	_, err := s.plane.Kubectl(t.Context(), text, "apply", "-f", "-")
	must(t, err)
	t.Cleanup(func() { s.removePolicy(t, name) })
}

// wantArrival waits until the agent has another set of the cluster's documents than before the change.
func (s *stage) wantArrival(t *testing.T, what string, change func()) {
	t.Helper()
	before, err := status(t.Context())
	must(t, err)
	change()
	must(t, eventually(t.Context(), patience, what+" to arrive", func(ctx context.Context) error {
		now, err := status(ctx)
		if err == nil && now.ClusterPolicies.Set == before.ClusterPolicies.Set {
			err = errors.New("the set is the same")
		}
		return err
	}))
}

// deadWebhook is an admission webhook like policy-controller's that nobody serves and that lets through what it cannot
// judge: the cluster's own check of images is absent.
const deadWebhook = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: policy.sigstore.dev}
webhooks:
  - name: policy.sigstore.dev
    failurePolicy: Ignore
    sideEffects: None
    timeoutSeconds: 1
    admissionReviewVersions: [v1]
    clientConfig: {service: {namespace: cosign-system, name: webhook, path: /validations}}
    rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
`

// barePod is one that no controller makes: as file for kubelet it is a static pod.
func barePod(namespace, name, image string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: %[2]s}}
spec:
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  containers:
    - {name: main, image: %[3]q, command: [/bin/sleep, "2147483647"]}
`, namespace, name, image)
}

// removePolicy removes a policy from the cluster, where it is there.
func (s *stage) removePolicy(t *testing.T, name string) {
	t.Helper()
	s.remove(t, "clusterimagepolicy", name)
}

// remove removes a policy, or what policies refer to, where it is there.
func (s *stage) remove(t *testing.T, kind, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := s.plane.Kubectl(ctx, "", "-n", "cosign-system", "delete", kind, name, "--ignore-not-found"); err != nil {
		t.Error(err)
	}
}
