package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/integration/cluster"
)

// TestAPIServer hands every manifest to a real API server, which refuses a field that it does not know, and then asks it
// what the service account may do.
func TestAPIServer(t *testing.T) {
	plane, err := cluster.StartControlPlane(t.Context(), tools(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Close(); err != nil {
			t.Error(err)
		}
	})
	kubectl := func(input string, args ...string) string {
		t.Helper()
		out, err := plane.Kubectl(t.Context(), input, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	kubectl("", "create", "namespace", "cosign-system")
	kubectl("", "create", "-k", manifests+"crds", "--validate=strict")
	kubectl("", "wait", "--for=condition=Established", "--timeout=60s", "crd/clusterimagepolicies.policy.sigstore.dev", "crd/trustroots.policy.sigstore.dev")
	for _, folder := range []string{"base", "uninstall", "references", "overlays/kind", "overlays/gke"} {
		kubectl("", "apply", "-k", manifests+folder, "--validate=strict")
	}

	t.Run("definitions that are there are not overwritten", func(t *testing.T) {
		const crd = "crd/clusterimagepolicies.policy.sigstore.dev"
		kubectl("", "annotate", crd, "owner=policy-controller")
		before := kubectl("", "get", crd, "-o", "jsonpath={.metadata.resourceVersion}")
		if out, err := plane.Kubectl(t.Context(), "", "create", "-k", manifests+"crds"); err == nil {
			t.Errorf("created a second time: %s", out)
		}
		if after := kubectl("", "get", crd, "-o", "jsonpath={.metadata.resourceVersion}"); after != before {
			t.Errorf("changed from %s to %s", before, after)
		}
	})

	t.Run("every field of a policy stays", func(t *testing.T) {
		policy, err := os.ReadFile(filepath.Join(manifests, "base/policies/kubernetes.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		kubectl(string(policy), "apply", "--validate=strict", "-f", "-")
		for _, version := range []string{"v1alpha1", "v1beta1"} {
			got := kubectl("", "get", "clusterimagepolicies."+version+".policy.sigstore.dev/kubernetes", "-o", "jsonpath={.apiVersion} {.spec.authorities[0].keyless.identities[0].issuer}")
			if want := "policy.sigstore.dev/" + version + " https://accounts.google.com"; got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		const odd = `{"apiVersion": "policy.sigstore.dev/v1beta1", "kind": "ClusterImagePolicy", "metadata": {"name": "odd"},
			"spec": {"images": [{"glob": "**"}], "of": {"tomorrow": true}}}`
		kubectl(odd, "apply", "-f", "-")
		if got := kubectl("", "get", "cip/odd", "-o", "jsonpath={.spec.of.tomorrow}"); got != "true" {
			t.Errorf("a field that this schema does not know is gone: %q", got)
		}
		const none = `{"apiVersion": "policy.sigstore.dev/v1beta1", "kind": "ClusterImagePolicy", "metadata": {"name": "none"}, "spec": {"images": []}}`
		if out, err := plane.Kubectl(t.Context(), none, "apply", "-f", "-"); err == nil {
			t.Errorf("a policy about no image was taken: %s", out)
		}
	})

	t.Run("the account reads what it needs and nothing else", func(t *testing.T) {
		const account = "--as=system:serviceaccount:cosentry-system:cosentry"
		can := func(args ...string) bool {
			t.Helper()
			out, _ := plane.Kubectl(t.Context(), "", append([]string{"auth", "can-i", account}, args...)...)
			return strings.HasPrefix(out, "yes")
		}
		for _, yes := range []string{
			"list clusterimagepolicies.policy.sigstore.dev", "watch trustroots.policy.sigstore.dev", "list namespaces", "watch namespaces",
			"get customresourcedefinitions.apiextensions.k8s.io/trustroots.policy.sigstore.dev",
			"list secrets/cosign-key -n cosign-system", "watch configmaps/cosign-rules -n cosign-system", "list secrets/signatures-pull-secret -A",
		} {
			if !can(strings.Fields(yes)...) {
				t.Errorf("may not %s", yes)
			}
		}
		for _, no := range []string{
			"list secrets -A", "list secrets -n cosign-system", "get secrets/webhook-certs -n cosign-system", "list secrets -n cosentry-system",
			"create pods -A", "patch nodes", "update clusterimagepolicies.policy.sigstore.dev", "delete namespaces", "get nodes", "list pods -A",
			"list customresourcedefinitions.apiextensions.k8s.io", "escalate clusterroles.rbac.authorization.k8s.io", "impersonate users",
		} {
			if can(strings.Fields(no)...) {
				t.Errorf("may %s", no)
			}
		}
	})
}
