package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/integration/harness"
	"github.com/cosentry/cosentry/integration/sigstore"
)

// stage is the node that the attempts are made on.
type stage struct {
	node           *harness.Node
	agent          *harness.Cosentry
	kubelet        *harness.Kubelet
	release        *harness.Key
	stranger       *harness.Key
	sigstore       *sigstore.Instance
	runtimeVersion string
	// own is cosentry's own image, ownKey what its makers sign it with, and version what the agent on the node says it is.
	own     v1.ImageIndex
	ownKey  *harness.Key
	version string
	pods    int
}

func newStage(ctx context.Context, tools harness.Tools) (*stage, error) {
	s := &stage{}
	var err error
	if s.own, err = readOwn(tools); err != nil {
		return nil, err
	}
	if s.node, err = harness.NewNode(ctx, tools); err != nil {
		return nil, err
	}
	if s.release, err = harness.NewKey(); err != nil {
		return nil, err
	}
	if s.stranger, err = harness.NewKey(); err != nil {
		return nil, err
	}
	if s.ownKey, err = harness.NewKey(); err != nil {
		return nil, err
	}
	if s.sigstore, err = sigstore.New(); err != nil {
		return nil, err
	}
	_, trustedRoot, err := s.sigstore.Environment(filepath.Join(s.node.Dir, "sigstore"))
	if err != nil {
		return nil, err
	}
	addr := s.node.Registry.Addr
	prod := harness.KeyPolicy("prod-signed", addr+"/*", s.release.PublicPEM)
	attested := harness.KeyPolicy("attested", addr+"/attested/*", s.release.PublicPEM)
	s.agent, s.kubelet, err = s.node.Cosentry(harness.Settings{
		Policies: map[string]string{
			"prod-signed.yaml": prod, "released.yaml": released(addr + "/released/*"), "attested.yaml": attested + provenance,
			"cosentry.yaml": ownPolicy(addr+"/cosentry/*", s.ownKey.PublicPEM),
		},
		Edit: func(config map[string]any) {
			config["trust"].(map[string]any)["roots"] = []any{map[string]any{"name": "demo", "file": trustedRoot}}
		},
	})
	if err != nil {
		return nil, err
	}
	version, err := s.kubelet.Runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking the runtime's version through cosentry: %w", err)
	}
	s.runtimeVersion = version.RuntimeVersion
	said, code, err := s.agent.Command(ctx, "version")
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, fmt.Errorf("cosentry version exited with %d: %s", code, said)
	}
	s.version = strings.TrimSpace(said)
	return s, nil
}

// workflow is the identity that the policy released accepts: what a CI job proves in place of holding a key.
var workflow = sigstore.Identity{
	Issuer: "https://token.actions.githubusercontent.com",
	URI:    "https://github.com/example/app/.github/workflows/release.yaml@refs/tags/v1.0",
}

// released is a policy that asks for the workflow's signature.
func released(glob string) string {
	return fmt.Sprintf(`apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata:
  name: released
spec:
  images:
    - glob: %q
  authorities:
    - name: release-workflow
      keyless:
        trustRootRef: demo
        identities:
          - issuer: %s
            subject: %s
      ctlog:
        trustRootRef: demo
`, glob, workflow.Issuer, workflow.URI)
}

// provenance is what the policy attested asks for beside a key.
const provenance = `      attestations:
        - name: built-by-us
          predicateType: slsaprovenance
`

// form is how an image is signed.
type form int

const (
	unsigned form = iota
	classic
	bundle
	byStranger
)

// image is the full name of path in the registry.
func (s *stage) image(path string) string { return s.node.Registry.Addr + "/" + path }

// push makes an image that prints words, pushes it and signs it.
func (s *stage) push(ctx context.Context, path, words string, f form) (name.Digest, error) {
	img, err := s.node.Images.Saying(words)
	if err != nil {
		return name.Digest{}, err
	}
	return s.pushImage(ctx, path, img, f)
}

func (s *stage) pushImage(ctx context.Context, path string, img v1.Image, f form) (name.Digest, error) {
	digest, err := s.node.Registry.Push(path, img)
	if err != nil {
		return digest, err
	}
	switch f {
	case classic:
		err = s.release.SignClassic(ctx, s.node.Registry, digest)
	case bundle:
		err = s.release.SignBundle(ctx, s.node.Registry, digest)
	case byStranger:
		err = s.stranger.SignClassic(ctx, s.node.Registry, digest)
	case unsigned:
	}
	return digest, err
}

// pushSignedAs pushes an image that who signed without a key.
func (s *stage) pushSignedAs(ctx context.Context, path, words string, who sigstore.Identity) error {
	digest, err := s.push(ctx, path, words, unsigned)
	if err != nil {
		return err
	}
	statement, err := harness.StatementAbout(digest)
	if err != nil {
		return err
	}
	bundle, err := s.sigstore.Bundle(ctx, who, statement)
	if err != nil {
		return err
	}
	return s.node.Registry.AttachSignature(digest, bundle)
}

// pullAround puts an image on the node as someone does who has containerd's own socket.
func (s *stage) pullAround(ctx context.Context, path string) error {
	_, err := s.node.Direct.Pull(ctx, &harness.Pod{}, s.image(path), nil)
	return err
}

// pod starts a sandbox through cosentry, on the pod network.
func (s *stage) pod(ctx context.Context) (*harness.Pod, error) {
	s.pods++
	return s.kubelet.RunPod(ctx, fmt.Sprintf("pod-%d", s.pods), true)
}

// printTimes prints what the decisions on the signed image cost, from the audit log.
func (s *stage) printTimes() error {
	records, err := s.agent.Records()
	if err != nil {
		return err
	}
	signed := s.image("app:1.0")
	var cold, warm time.Duration
	for _, r := range records {
		if r["image"] != signed || r["decision"] != "allow" {
			continue
		}
		us, ok := r["duration_us"].(float64)
		if !ok {
			return errors.New("an audit record has no duration_us")
		}
		took := time.Duration(us) * time.Microsecond
		switch {
		case r["action"] == "pull" && cold == 0:
			cold = took
		case r["action"] == "create" && r["cache_hit"] == true && (warm == 0 || took < warm):
			warm = took
		}
	}
	if cold == 0 || warm == 0 {
		return fmt.Errorf("the audit log has no cold pull and warm create of %s", signed)
	}
	fmt.Printf("The decision on the signed image alone: cold %d us (tag and signature fetched, judged), warm %d us (same digest again, at create).\n",
		cold.Microseconds(), warm.Microseconds())
	return nil
}

// printAudit has cosentry check its own log, which must hold a record of every attempt.
func (s *stage) printAudit(ctx context.Context, tried int) error {
	output, code, err := s.agent.Command(ctx, "audit", "verify", "--dir", s.agent.AuditDir)
	if err != nil {
		return err
	}
	fmt.Printf("\n$ cosentry audit verify\n%s\n", strings.TrimSpace(output))
	if code != 0 {
		return fmt.Errorf("cosentry audit verify exited with %d", code)
	}
	records, err := s.agent.Records()
	if err != nil {
		return err
	}
	if len(records) < tried {
		return fmt.Errorf("the audit log has %d records of %d attempts", len(records), tried)
	}
	return nil
}
