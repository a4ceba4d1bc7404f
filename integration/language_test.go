package integration

import (
	"crypto/ed25519"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"google.golang.org/grpc/status"

	"github.com/cosentry/cosentry/integration/harness"
	"github.com/cosentry/cosentry/integration/sigstore"
)

// language is a node whose policies are written in the whole language, and what the real cosign command signed for it.
type language struct {
	*world
	*signers
	t       testing.TB
	ed25519 ed25519.PrivateKey
	// stranger is another sigstore, of which the node knows nothing.
	stranger *signers
	signed   map[string]name.Digest // what was signed, by the repository in which it was
	pods     map[string]*harness.Pod
	judged   int
}

// row is one policy, and what becomes of an image under it.
type row struct {
	// rule says what is shown; it names the policy and the repository.
	rule string
	// image is the repository in which the image was signed; the row's gets a copy of it.
	image string
	// spec is the policy's, but for its images.
	spec string
	// also is a second policy about the same images.
	also string
	// pod asks for the image; the zero value is a pod like others.
	pod harness.PodSpec
	// refused is what the pod's owner has to read, all of it; nil: it runs.
	refused []string
	// unavailable says that the refusal is one of a service that cannot be reached.
	unavailable bool
	// warns says that the policy lets through what it would have refused.
	warns bool
}

// slug is the rule as a name of repositories and policies.
func (r row) slug() string {
	return strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(r.rule), "-"), "-")
}

// documents are the policies about the row's repository.
func (r row) documents(registry string) string {
	glob := registry + "/rows/" + r.slug() + "/**"
	text := document(r.slug(), glob, r.spec)
	if r.also != "" {
		text += "---\n" + document(r.slug()+"-too", glob, r.also)
	}
	return text
}

// document is a policy about images that the glob matches.
func document(name, glob, spec string) string {
	return fmt.Sprintf(`apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata:
  name: %s
spec:
  images:
  - glob: %q
  %s
`, name, glob, strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n  "))
}

// judge pulls and runs a row's image, and, if it is refused, brings it to the node around cosentry and has it refused again.
func (l *language) judge(t *testing.T, r row) {
	t.Helper()
	l.judged++
	repository := fmt.Sprintf("rows/%s/app%d", r.slug(), l.judged)
	digest := l.signed[r.image]
	must(t, l.Registry.Copy(r.image, repository, digest.DigestStr()))
	image, pod := l.image(repository+":1"), l.podLike(r.pod)
	c := harness.Container{Name: fmt.Sprintf("row%d", l.judged), Image: image}
	out, err := l.kubelet.Run(t.Context(), pod, c)
	if r.refused == nil {
		if err != nil {
			t.Fatalf("should run: %v", err)
		}
		if out.Output != r.image {
			t.Errorf("printed %q, want %q", out.Output, r.image)
		}
		if r.warns {
			l.wantRecord(t, image, "create", "warn")
		}
		return
	}
	begins := harness.Refused
	if r.unavailable {
		begins = harness.Unavailable
	}
	// The rule's own words stand in the policy's name, and say nothing about the reason.
	reason := func(err error) error {
		s := status.Convert(err)
		return status.Error(s.Code(), strings.ReplaceAll(s.Message(), r.slug(), "…"))
	}
	wantError(t, reason(err), begins, r.refused...)
	l.wantAbsent(t, image)
	ref := l.pullAround(image)
	_, err = l.kubelet.Create(t.Context(), pod, c, ref, nil)
	wantError(t, reason(err), begins, r.refused...)
}

// wantSoon waits until an image is accepted under the policy of a rule.
func (l *language) wantSoon(what, rule, signed string) {
	l.t.Helper()
	repository := "rows/" + row{rule: rule}.slug() + "/soon"
	must(l.t, l.Registry.Copy(signed, repository, l.signed[signed].DigestStr()))
	must(l.t, harness.Until(time.Minute, what, func() bool {
		_, err := l.kubelet.Pull(l.t.Context(), l.podLike(harness.PodSpec{}), l.image(repository+":1"), nil)
		return err == nil
	}))
}

// podLike is a running pod of the given namespace and labels, which rows share.
func (l *language) podLike(spec harness.PodSpec) *harness.Pod {
	l.t.Helper()
	key := fmt.Sprint(spec.Namespace, spec.Labels)
	if l.pods[key] == nil {
		spec.Name = fmt.Sprintf("rows%d", len(l.pods))
		pod, err := l.kubelet.RunPodLike(l.t.Context(), spec)
		must(l.t, err)
		l.pods[key] = pod
	}
	return l.pods[key]
}

// ready makes an image that says its repository, and has it signed.
func (l *language) ready(repository string, sign func(name.Digest)) {
	l.t.Helper()
	digest := l.push(repository+":1", repository)
	sign(digest)
	l.signed[repository] = digest
}

// TestPolicyLanguage takes images that the real cosign command signed through policies of every kind, on a real containerd.
func TestPolicyLanguage(t *testing.T) {
	tools, err := harness.FindTools("cosign")
	must(t, err)
	l := &language{t: t, signed: map[string]name.Digest{}, pods: map[string]*harness.Pod{}}
	private := harness.NewRegistry("127.0.0.1:6200", true)
	private.Username, private.Password = "reader", "open-sesame"
	must(t, private.Start())
	t.Cleanup(private.Stop)
	vault, err := sigstore.NewVault()
	must(t, err)
	t.Cleanup(vault.Stop)

	var rows, away []row
	var release string
	l.world = newWorld(t, func(w *world, s *harness.Settings) {
		l.world = w
		l.signers = newSigners(t, tools, filepath.Join(w.Dir, "signers"))
		l.stranger = newSigners(t, tools, filepath.Join(w.Dir, "stranger"))
		keys := l.keys()
		l.signAll(keys)
		l.attestAll(keys["release"])
		l.signElsewhere(keys["release"], private)
		l.signAtVault(vault)

		rows = slices.Concat(l.keylessRows(), l.keyRows(keys), l.attestationRows(keys["release"]), l.wholeRows(keys),
			l.sourceRows(keys["release"], private.Addr))
		written, err := l.sigstore.SigstoreKeys("written-out")
		must(t, err)
		s.Policies = map[string]string{"written-out.yaml": written}
		away = l.awayRows(keys)
		for _, r := range slices.Concat(rows, away) {
			if s.Policies[r.slug()+".yaml"] != "" {
				t.Fatalf("two rows are called %q", r.rule)
			}
			s.Policies[r.slug()+".yaml"] = r.documents(w.Registry.Addr)
		}
		release = keys["release"].public
		s.Env = vault.Environment()
		s.Edit = func(config map[string]any) {
			trust := config["trust"].(map[string]any)
			trust["roots"] = []any{map[string]any{"name": "test", "file": l.trustedRoot}}
		}
		s.Trust = map[string]string{
			"secrets/cosign-system/release/cosign.pub": keys["release"].public,
			"secrets/team-a/reader/.dockerconfigjson":  dockerConfig(private),
			"configmaps/cosign-system/rules/scan.cue":  strings.TrimPrefix(demands["vuln"], "cue:"),
		}
	})
	l.wantSoon("the key management service's key to be fetched", "a key that a key management service holds", "signed/vault")
	for _, r := range rows {
		t.Run(r.rule, func(t *testing.T) { l.judge(t, r) })
	}
	t.Run("a secret that arrives", func(t *testing.T) {
		must(t, l.agent.WriteTrust("secrets/cosign-system/missing/cosign.pub", release))
		l.wantSoon("the secret to count", "a key in a secret that is not here", "signed/release")
	})

	all := l.save(t, rows)

	// What follows needs none of them, or cannot be known without.
	for _, service := range []*sigstore.Service{l.sigstore.Fulcio, l.sigstore.Rekor, l.sigstore.TSA, vault.Service} {
		service.Stop()
	}
	for _, restarted := range []bool{false, true} {
		if restarted {
			l.agent.Kill()
			must(t, l.agent.Start())
		}
		for _, r := range away {
			t.Run(fmt.Sprintf("%s, restarted %t", r.rule, restarted), func(t *testing.T) { l.judge(t, r) })
		}
	}
	for _, registry := range []*harness.Registry{l.Registry, private} {
		registry.Stop()
	}
	l.testSaved(t, all)
}
