package gate

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/status"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/sigstore"
)

// judged is a verdict by one policy with one authority.
func judged(passed bool, reason string, a ...verify.AuthorityResult) verify.Verdict {
	return verify.Verdict{Allowed: passed, Policies: []verify.PolicyResult{{Policy: "released", Mode: "enforce", Passed: passed, Reason: reason, Authorities: a}}}
}

var byCI = verify.AuthorityResult{Authority: "ci", Kind: "keyless", Passed: true, Signers: []sigstore.Signer{
	{ID: "1", Form: "bundle", Issuer: "https://issuer.example", Subject: "https://git.example/app@refs/tags/v1"}, {ID: "2", Issuer: "other"},
}}

func TestRecordSaysWhoSigned(t *testing.T) {
	failed := byCI
	failed.Passed = false
	for name, tc := range map[string]struct {
		verdict verify.Verdict
		want    audit.PolicyResult
	}{
		"keyless": {judged(true, "", byCI), audit.PolicyResult{
			Policy: "released", Mode: "enforce", Result: "pass", Authority: "ci", Issuer: "https://issuer.example", Subject: "https://git.example/app@refs/tags/v1"}},
		"by key": {judged(true, "", verify.AuthorityResult{Authority: "k", Passed: true, KeyFingerprint: "SHA256:ab", Signers: []sigstore.Signer{{KeyFingerprint: "SHA256:ab"}}}), audit.PolicyResult{
			Policy: "released", Mode: "enforce", Result: "pass", Authority: "k", KeyFingerprint: "SHA256:ab"}},
		"an authority failed": {judged(false, "no", failed), audit.PolicyResult{Policy: "released", Mode: "enforce", Result: "fail", Reason: "no"}},
		// The authority is content, the policy is not: that is no pass.
		"the policy's own rule failed": {judged(false, "the rule says no", byCI), audit.PolicyResult{Policy: "released", Mode: "enforce", Result: "fail", Reason: "the rule says no"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.verdicts[manifest("good")] = tc.verdict
			_, err := w.pull(t, app+":1")
			if (err == nil) != tc.verdict.Allowed {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff([]audit.PolicyResult{tc.want}, w.records[0].Policies); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestWhatWouldHelp(t *testing.T) {
	key := verify.AuthorityResult{Authority: "k", Kind: "key"}
	attested := verify.AuthorityResult{Authority: "a", Kind: "key", Attestations: []verify.AttestationResult{{Name: "scan"}}}
	refuser := verify.AuthorityResult{Authority: "s", Kind: "static"}
	for name, tc := range map[string]struct {
		verdict verify.Verdict
		want    string
	}{
		"a signature":                {judged(false, "x", key), "Sign it, or see"},
		"a signature or a statement": {judged(false, "x", key, attested), "Sign it, or see"},
		"a statement":                {judged(false, "x", attested), "Attach the attestations that are asked for, or see"},
		"nothing but the owner":      {judged(false, "x", refuser), "Ask the node's owner for a policy that accepts it, or see"},
		"what the rule asks for":     {judged(false, "x", byCI), "It is signed; see to what the policy's own rule asks for, or see"},
		"no authority at all":        {judged(false, "x"), "Sign it, or see"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.verdicts[manifest("good")] = tc.verdict
			_, err := w.pull(t, app+":1")
			if text := status.Convert(err).Message(); !strings.Contains(text, ". "+tc.want) {
				t.Errorf("%q is not said: %s", tc.want, text)
			}
		})
	}
}
