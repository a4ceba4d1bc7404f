package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/cosentry/cosentry/integration/harness"
	"github.com/cosentry/cosentry/integration/sigstore"
)

// signers are a sigstore, and the cosign command that knows no other.
type signers struct {
	instance *sigstore.Instance
	cosign   *harness.Cosign
}

func (s *stage) newSigners(t *testing.T, dir string) *signers {
	t.Helper()
	instance, err := sigstore.New()
	must(t, err)
	t.Cleanup(instance.Stop)
	dir = filepath.Join(s.dir, dir)
	env, _, err := instance.Environment(filepath.Join(dir, "trust"))
	must(t, err)
	cosign, err := harness.NewCosign(s.tools, dir, env...)
	must(t, err)
	return &signers{instance: instance, cosign: cosign}
}

var releaser = sigstore.Identity{Issuer: "https://issuer.test", Email: "releaser@example.test"}

// sign has the command sign an image as releaser, without a key.
func (by *signers) sign(t *testing.T, image name.Digest) {
	t.Helper()
	token, err := by.instance.Token(releaser)
	must(t, err)
	file := filepath.Join(by.cosign.Dir, "token")
	must(t, os.WriteFile(file, []byte(token), 0o600))
	_, err = by.cosign.Run(t.Context(), "sign", "--fulcio-url", by.instance.Fulcio.URL, "--identity-token", file,
		"--rekor-url", by.instance.Rekor.URL, image.String())
	must(t, err)
}

// scanned has the command attest, by its key, that a scan of the image found so many critical things.
func (by *signers) scanned(t *testing.T, image name.Digest, critical int) {
	t.Helper()
	file := filepath.Join(by.cosign.Dir, "scan.json")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `{"invocation": {"uri": "", "event_id": "", "builder.id": ""},
  "scanner": {"uri": "https://scanner.test", "version": "1.0", "db": {"uri": "", "version": ""}, "result": {"critical": %d}},
  "metadata": {"scanStartedOn": "2026-01-01T00:00:00Z", "scanFinishedOn": "2026-01-01T00:01:00Z"}}`, critical), 0o600))
	_, err := by.cosign.Run(t.Context(), "attest", "--key", "cosign.key", "--tlog-upload=false", "--type", "vuln", "--predicate", file, image.String())
	must(t, err)
}

// testTrustRoots: what a policy refers to comes from the cluster as well, a sigstore by its TrustRoot and a rule by its ConfigMap. Each
// binds, and so does what takes its place.
func (s *stage) testTrustRoots(t *testing.T) {
	own, stranger := s.newSigners(t, "own"), s.newSigners(t, "stranger")
	_, err := own.cosign.Run(t.Context(), "generate-key-pair")
	must(t, err)
	public, err := os.ReadFile(filepath.Join(own.cosign.Dir, "cosign.pub"))
	must(t, err)
	signed := func(path string, by *signers) string {
		by.sign(t, s.pushed(t, path, s.release))
		return s.image(path)
	}
	scanned := func(path string, critical int) string {
		own.scanned(t, s.pushed(t, path, s.release), critical)
		return s.image(path)
	}
	t.Cleanup(func() { // after the policies that refer to them
		s.remove(t, "trustroot", "own")
		s.remove(t, "configmap", "cosign-rules")
	})
	s.trustRoot(t, own)
	s.rule(t, "<2")
	s.applyPolicy(t, "by-identity", s.identityPolicy("by-identity", "apps/identity**"))
	s.applyPolicy(t, "by-rule", harness.KeyPolicy("by-rule", s.image("apps/scanned**"), string(public))+
		"      attestations: [{name: scan, predicateType: vuln, policy: {type: cue, configMapRef: {name: cosign-rules, key: scan.cue}}}]\n")
	s.wantAgent(t, "by-identity", "by-rule")
	t.Run("as they came first", func(t *testing.T) {
		s.deploy(t, "default", "identity-own", signed("apps/identity-own:1", own))
		s.deploy(t, "default", "identity-stranger", signed("apps/identity-stranger:1", stranger))
		s.deploy(t, "default", "scanned-clean", scanned("apps/scanned-clean:1", 1))
		s.deploy(t, "default", "scanned-bad", scanned("apps/scanned-bad:1", 2))
		s.wantRuns(t, "default", "identity-own")
		s.wantRuns(t, "default", "scanned-clean")
		s.wantRefused(t, "default", "identity-stranger", `cluster policy "by-identity"`, "none with a certificate from a trusted authority")
		s.wantRefused(t, "default", "scanned-bad", `cluster policy "by-rule"`, `attestation "scan"`)
	})
	t.Run("as others took their place", func(t *testing.T) {
		s.wantArrival(t, "another TrustRoot of the same name", func() { s.trustRoot(t, stranger) })
		s.wantArrival(t, "another rule", func() { s.rule(t, "<1") })
		s.deploy(t, "default", "identity-late", signed("apps/identity-late:1", own))
		s.deploy(t, "default", "identity-now", signed("apps/identity-now:1", stranger))
		s.deploy(t, "default", "scanned-late", scanned("apps/scanned-late:1", 1))
		s.wantRuns(t, "default", "identity-now")
		s.wantRefused(t, "default", "identity-late", `cluster policy "by-identity"`)
		s.wantRefused(t, "default", "scanned-late", `cluster policy "by-rule"`, `attestation "scan"`)
	})
	t.Run("as they are gone", func(t *testing.T) {
		s.wantArrival(t, "that there is no TrustRoot", func() { s.remove(t, "trustroot", "own") })
		s.wantArrival(t, "that there is no rule", func() { s.remove(t, "configmap", "cosign-rules") })
		s.deploy(t, "default", "identity-gone", signed("apps/identity-gone:1", stranger))
		s.deploy(t, "default", "scanned-gone", scanned("apps/scanned-gone:1", 0))
		s.wantRefused(t, "default", "identity-gone", `cluster policy "by-identity"`, "trust root", "no TrustRoot document")
		s.wantRefused(t, "default", "scanned-gone", `cluster policy "by-rule"`)
	})
}

// identityPolicy asks for a signature by releaser, as the sigstore of TrustRoot own knows him.
func (s *stage) identityPolicy(name, glob string) string {
	return fmt.Sprintf(`apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata: {name: %s}
spec:
  images: [{glob: %q}]
  authorities:
    - name: release
      keyless: {trustRootRef: own, identities: [{issuer: %q, subject: %q}]}
      ctlog: {trustRootRef: own}
`, name, s.image(glob), releaser.Issuer, releaser.Email)
}

// trustRoot has the cluster call a sigstore its own.
func (s *stage) trustRoot(t *testing.T, by *signers) {
	t.Helper()
	text, err := by.instance.SigstoreKeys("own")
	must(t, err)
	_, err = s.plane.Kubectl(t.Context(), text, "apply", "-f", "-")
	must(t, err)
}

// rule has the ConfigMap say how many critical things a scan may have found.
func (s *stage) rule(t *testing.T, critical string) {
	t.Helper()
	_, err := s.plane.Kubectl(t.Context(), `apiVersion: v1
kind: ConfigMap
metadata: {name: cosign-rules, namespace: cosign-system}
data:
  scan.cue: |
    predicate: scanner: result: critical: `+critical+"\n", "apply", "-f", "-")
	must(t, err)
}
