package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/integration/harness"
)

// testAccount: the account of the pods reads policies and namespaces, and nothing else that matters.
func (s *stage) testAccount(t *testing.T) {
	const account = "system:serviceaccount:" + namespace + ":cosentry"
	for question, want := range map[string]string{
		"list clusterimagepolicies.policy.sigstore.dev":   "yes",
		"watch trustroots.policy.sigstore.dev":            "yes",
		"watch namespaces":                                "yes",
		"create clusterimagepolicies.policy.sigstore.dev": "no",
		"delete clusterimagepolicies.policy.sigstore.dev": "no",
		"list secrets -A":                                 "no",
		"get secrets -n " + namespace:                     "no",
		"list configmaps -A":                              "no",
		"list pods -A":                                    "no",
		"create pods -A":                                  "no",
		"patch nodes":                                     "no",
		"update customresourcedefinitions":                "no",
		"create serviceaccounts/token -n " + namespace:    "no",
	} {
		// The exit code says no as well.
		answer, _ := s.plane.Kubectl(t.Context(), "", append([]string{"auth", "can-i", "--as=" + account}, strings.Fields(question)...)...)
		if strings.TrimSpace(answer) != want {
			t.Errorf("may the account %s? The API server says %q, want %q", question, answer, want)
		}
	}
}

// testNodeCredential: a credential that was stolen from a node changes labels of that node, and not the one that takes cosentry
// off: neither by labelling the node nor by making it anew.
func (s *stage) testNodeCredential(t *testing.T) {
	text, err := s.plane.Kubeconfig("system:node:"+nodeName, "system:nodes")
	must(t, err)
	file := filepath.Join(s.dir, "stolen.kubeconfig")
	must(t, os.WriteFile(file, text, 0o600))
	as := func(input string, args ...string) error {
		_, err := s.plane.Kubectl(t.Context(), input, append([]string{"--kubeconfig", file}, args...)...)
		return err
	}
	must(t, as("", "label", "node", nodeName, "example.com/mine=true"))
	const node = "apiVersion: v1\nkind: Node\nmetadata:\n  name: " + nodeName + "\n  labels: {" + uninstallLabel + ": \"true\"}\n"
	for how, err := range map[string]error{
		"labelled its node":       as("", "label", "node", nodeName, uninstallLabel+"=true"),
		"made its node anew":      as(node, "create", "-f", "-"),
		"replaced its own object": as("", "patch", "node", nodeName, "--type=json", "-p", `[{"op": "replace", "path": "/metadata/labels", "value": {"`+uninstallLabel+`": "true"}}]`),
	} {
		if err == nil || !strings.Contains(err.Error(), "is not allowed to") || !strings.Contains(err.Error(), uninstallLabel) {
			t.Errorf("the node %s, and the API server says: %v", how, err)
		}
	}
}

// testReferences: a key that is in a Secret of the cluster arrives where its name is granted, and its rotation too.
func (s *stage) testReferences(t *testing.T) {
	ctx := t.Context()
	_, err := s.plane.Kubectl(ctx, "", "create", "namespace", "cosign-system")
	must(t, err)
	_, err = s.plane.Kubectl(ctx, "", "apply", "-k", manifests+"/references")
	must(t, err)
	s.secret(t, s.team)
	s.applyPolicy(t, "by-secret", fmt.Sprintf(`apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata: {name: by-secret}
spec:
  images: [{glob: %q}]
  authorities: [{name: team, key: {secretRef: {name: cosign-key}}}]
`, s.image("apps/secret**")))
	s.wantAgent(t, "by-secret")
	s.deploy(t, "default", "secret-one", s.push(t, "apps/secret-one:1", s.release))
	s.deploy(t, "default", "secret-two", s.push(t, "apps/secret-two:1", s.release, s.team))
	s.wantRuns(t, "default", "secret-two")
	s.wantRefused(t, "default", "secret-one", `cluster policy "by-secret"`)

	other, err := harness.NewKey()
	must(t, err)
	s.wantArrival(t, "the other key", func() { s.secret(t, other) })
	s.deploy(t, "default", "secret-late", s.push(t, "apps/secret-late:1", s.release, s.team))
	s.wantRefused(t, "default", "secret-late", `cluster policy "by-secret"`)
}

func (s *stage) secret(t *testing.T, key *harness.Key) {
	t.Helper()
	text := "apiVersion: v1\nkind: Secret\nmetadata: {name: cosign-key, namespace: cosign-system}\nstringData:\n  cosign.pub: |\n" + indent(key.PublicPEM, "    ")
	_, err := s.plane.Kubectl(t.Context(), text, "apply", "-f", "-")
	must(t, err)
}

func indent(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by) + "\n"
}

// testKindRemoved: while a definition is deleted its objects vanish one by one, and then there is no such kind. None of that
// is somebody's saying that there shall be no policies.
func (s *stage) testKindRemoved(t *testing.T) {
	s.require(t, "two-keys", s.registry.Addr+"/apps/**", s.team)
	s.wantAgent(t, "two-keys")
	_, err := s.plane.Kubectl(t.Context(), "", "delete", "crd", "clusterimagepolicies.policy.sigstore.dev")
	must(t, err)
	must(t, eventually(t.Context(), patience, "sync to know that the kind is gone", func(ctx context.Context) error {
		return wantMetric(ctx, 9479, `cosentry_sync_source{resource="clusterimagepolicies",state="absent"} 1`)
	}))
	s.deploy(t, "default", "removed", s.push(t, "apps/removed:1", s.release))
	s.wantRefused(t, "default", "removed", `cluster policy "two-keys"`)
	_, err = s.plane.Kubectl(t.Context(), "", "create", "-f", manifests+"/crds/clusterimagepolicies.yaml")
	must(t, err)
	s.wantAgent(t)
}

// wantMetric returns nil if a page of metrics on the node has the line.
func wantMetric(ctx context.Context, port int, line string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", port), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return err
	}
	if !strings.Contains("\n"+string(page), "\n"+line+"\n") {
		return fmt.Errorf("the metrics on port %d do not say %s:\n%s", port, line, page)
	}
	return nil
}

// testSigned: with the owner's key in the settings, the API server's word is no policy. What the owner has signed is, and
// nothing of the object around it counts.
func (s *stage) testSigned(t *testing.T) {
	ctx := t.Context()
	owner, err := harness.NewCosign(s.tools, filepath.Join(s.dir, "owner"))
	must(t, err)
	_, err = owner.Run(ctx, "generate-key-pair")
	must(t, err)
	public, err := os.ReadFile(filepath.Join(owner.Dir, "cosign.pub"))
	must(t, err)
	s.settings = "  publicKey: |\n" + indent(string(public), "    ")
	s.apply(t)
	s.wantRollout(t, daemonSet)

	s.require(t, "unsigned", s.registry.Addr+"/apps/**", s.team)
	object := s.sign(t, owner, "by-the-owner", harness.KeyPolicy("by-the-owner", s.image("apps/owner**"), s.team.PublicPEM))
	s.applyPolicy(t, "by-the-owner", object)
	s.wantAgent(t, "by-the-owner")
	s.deploy(t, "default", "owner-one", s.push(t, "apps/owner-one:1", s.release))
	s.wantRefused(t, "default", "owner-one", `cluster policy "by-the-owner"`)
	s.deploy(t, "default", "other-one", s.push(t, "apps/other-one:1", s.release))
	s.wantRuns(t, "default", "other-one")

	before, err := status(ctx)
	must(t, err)
	_, err = s.plane.Kubectl(ctx, "", "patch", "clusterimagepolicy", "by-the-owner", "--type=merge", "-p",
		`{"spec": {"images": [{"glob": "nowhere.example/**"}], "authorities": [{"static": {"action": "pass"}}]}}`)
	must(t, err)
	s.require(t, "marker", "nowhere.example/**", s.team)
	must(t, eventually(ctx, patience, "what came after the change to arrive", func(ctx context.Context) error {
		now, err := status(ctx)
		if err == nil && now.ClusterPolicies.SkippedCount == before.ClusterPolicies.SkippedCount {
			err = errors.New("as many documents are skipped as before")
		}
		return err
	}))
	s.deploy(t, "default", "owner-two", s.push(t, "apps/owner-two:1", s.release))
	s.wantRefused(t, "default", "owner-two", `cluster policy "by-the-owner"`)
}

// sign is a policy as the object that carries it, signed.
func (s *stage) sign(t *testing.T, by *harness.Cosign, name, text string) string {
	t.Helper()
	file, signature := filepath.Join(by.Dir, name+".yaml"), filepath.Join(by.Dir, name+".sig")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	_, err := by.Run(t.Context(), "sign-blob", "--key", "cosign.key", "--tlog-upload=false", "--output-signature", signature, file)
	must(t, err)
	object, err := s.command(t.Context(), "policy", "signed", "--key", filepath.Join(by.Dir, "cosign.pub"), file, signature)
	must(t, err)
	return object
}
