package rules_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cosentry/cosentry/verify/rules"
)

// The names are policy-controller's. Rules refer to them.
func TestAResultIsWrittenAsPolicyControllerDoes(t *testing.T) {
	signer := rules.Signature{
		ID: "8ad2", Subject: "https://github.com/o/r/.github/workflows/w.yaml@refs/heads/main", Issuer: "https://token.actions.githubusercontent.com",
		GitHub: rules.GitHub{WorkflowTrigger: "push", WorkflowSHA: "0123", WorkflowName: "release", WorkflowRepo: "o/r", WorkflowRef: "refs/heads/main"},
	}
	config := &v1.ConfigFile{OS: "linux", Architecture: "arm", Variant: "v7", Config: v1.Config{User: "1000"}}
	for name, c := range map[string]struct {
		result rules.Result
		want   string
	}{
		"nothing": {rules.Result{}, `{}`},
		"static":  {rules.Result{AuthorityMatches: map[string]rules.AuthorityMatch{"authority-0": {Static: true}}}, `{"authorityMatches":{"authority-0":{"static":true}}}`},
		"key": {rules.Result{AuthorityMatches: map[string]rules.AuthorityMatch{"k": {Signatures: []rules.Signature{{ID: "1"}, {ID: "2"}}}}},
			`{"authorityMatches":{"k":{"signatures":[{"id":"1"},{"id":"2"}]}}}`},
		"keyless attestation": {rules.Result{AuthorityMatches: map[string]rules.AuthorityMatch{"k": {Attestations: map[string][]rules.Attestation{
			"provenance": {{Signature: signer, PredicateType: "slsaprovenance"}}}}}},
			`{"authorityMatches":{"k":{"attestations":{"provenance":[{"id":"8ad2",
			  "subject":"https://github.com/o/r/.github/workflows/w.yaml@refs/heads/main","issuer":"https://token.actions.githubusercontent.com",
			  "githubWorkflowTrigger":"push","githubWorkflowSha":"0123","githubWorkflowName":"release","githubWorkflowRepo":"o/r",
			  "githubWorkflowRef":"refs/heads/main","predicateType":"slsaprovenance"}]}}}}`},
		"pod": {rules.Result{
			Metadata: &rules.ObjectMeta{Name: "web", Namespace: "shop", UID: "u", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"a": "b"}},
			Type:     rules.Pod()},
			`{"metadata":{"name":"web","namespace":"shop","uid":"u","labels":{"app":"web"},"annotations":{"a":"b"}},"typemeta":{"kind":"Pod","apiVersion":"v1"}}`},
		"config": {rules.Result{Config: map[string]*v1.ConfigFile{"linux/arm/v7": config}},
			`{"config":{"linux/arm/v7":{"architecture":"arm","created":"0001-01-01T00:00:00Z","os":"linux","rootfs":{"type":"","diff_ids":null},"config":{"User":"1000"},"variant":"v7"}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			written, err := c.result.JSON()
			if err != nil {
				t.Fatal(err)
			}
			var got, want any
			if err := json.Unmarshal(written, &got); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
