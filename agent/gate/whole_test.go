package gate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/agent/node/nodetest"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
)

// signatures is a registry that holds signatures by one key, and counts who asks.
type signatures struct {
	key   *ecdsa.PrivateKey
	by    map[digest.Digest][]evidence.Signature
	asked atomic.Int64
}

func (s *signatures) sign(t testing.TB, repository string, d digest.Digest) {
	t.Helper()
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, repository, d)
	hash := sha256.Sum256(payload)
	sig, err := ecdsa.SignASN1(rand.Reader, s.key, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	s.by[d] = append(s.by[d], evidence.Signature{Payload: payload, Base64Signature: base64.StdEncoding.EncodeToString(sig), Source: digest.FromBytes(payload)})
}

func (s *signatures) Fetch(_ context.Context, q evidence.Question) (*evidence.Evidence, error) {
	s.asked.Add(1)
	return &evidence.Evidence{Repository: q.Repository, Digest: q.Digest, Signatures: s.by[q.Digest]}, nil
}

// chain is the gate with everything real behind it but the registry and the runtime's process.
type chain struct {
	*Gate
	runtime    *nodetest.Runtime
	node       *node.Node
	signatures *signatures
	auditDir   string
	created    []*runtimeapi.CreateContainerRequest
}

// newChain has policies that demand a signature for everything but what is pulled from Docker
// Hub, which passes: the hole that every other name must not fall into.
func newChain(t testing.TB) *chain {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &chain{
		runtime:    nodetest.New(t),
		signatures: &signatures{key: key, by: map[digest.Digest][]evidence.Signature{}},
		auditDir:   filepath.Join(t.TempDir(), "audit"),
	}
	c.runtime.Serve(t)
	if c.node, err = node.New(c.runtime.Dial(t), node.Auto, nodetest.Namespace); err != nil {
		t.Fatal(err)
	}
	verifier, err := verify.New(verify.Options{
		Source: c.signatures, NoMatch: verify.NoMatchDeny, CacheSize: 64,
		AllowTTL: time.Hour, DenyTTL: time.Hour, FetchTimeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	verifier.SetPolicies(policies(t, key), nil)
	log, err := audit.Open(audit.Options{Dir: c.auditDir, MaxFileSize: 1 << 30, Required: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	c.Gate, err = New(Options{
		Verifier: verifier, Resolver: newWorld(), Images: c.node, Recorder: log, Node: "node-1",
		Sandboxes: c.node, RefuseSandboxes: true,
		CreateTimeout: 30 * time.Second, PullTimeout: time.Minute, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func policies(t testing.TB, key *ecdsa.PrivateKey) *policy.Set {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := strings.ReplaceAll(strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))), "\n", "\n        ")
	parsed, err := policy.Parse("policies.yaml", fmt.Appendf(nil, `
apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata:
  name: prod-signed
spec:
  images:
  - glob: "*.example/**"
  authorities:
  - name: release-key
    key:
      data: |
        %s
---
apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata:
  name: hub
spec:
  images:
  - glob: "index.docker.io/**"
  authorities:
  - static:
      action: pass
`, public))
	if err != nil {
		t.Fatal(err)
	}
	set, err := policy.NewSet(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// image puts an image on the node, as after a pull by tag.
func (c *chain) image(t testing.TB, repository, words string) (id string, m ocispec.Descriptor) {
	t.Helper()
	m = c.runtime.Manifest(t, c.runtime.Config(t, words), nil)
	return c.runtime.Pulled(t, repository, "1", m), m
}

func (c *chain) forward(_ context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	c.created = append(c.created, req)
	return &runtimeapi.CreateContainerResponse{ContainerId: "c"}, nil
}

func (c *chain) create(t testing.TB, image, userSpecified string) error {
	t.Helper()
	_, err := c.CreateContainer(t.Context(), createRequest(spec(image, userSpecified)), c.forward)
	return err
}

// warm follows the node's image events until an image is answered from memory.
func (c *chain) warm(t testing.TB, id string) {
	t.Helper()
	go c.node.Watch(t.Context())
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, cached, err := c.node.Lookup(t.Context(), spec(id, ""), "", false); err != nil {
			t.Fatal(err)
		} else if cached {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is remembered")
		}
		<-time.After(time.Millisecond)
	}
}

func TestWholeChain(t *testing.T) {
	c := newChain(t)
	signed, manifest := c.image(t, app, "signed")
	c.signatures.sign(t, app, manifest.Digest)
	unsigned, _ := c.image(t, other, "unsigned")
	hub, _ := c.image(t, "docker.io/library/busybox", "hub")

	for name, tc := range map[string]struct {
		image, user string
		refused     string // empty: allowed, as want
		want        string
	}{
		"signed":                                    {image: signed, user: app + ":1", want: signed},
		"signed, by name":                           {image: app + ":1", want: signed},
		"signed, by digest":                         {image: app + "@" + manifest.Digest.String(), want: signed},
		"unsigned":                                  {image: unsigned, user: other + ":1", refused: `policy "prod-signed": no signature by authority "release-key"`},
		"from the hub":                              {image: hub, user: "busybox:1", want: hub},
		"unsigned, called like one from the hub":    {image: unsigned, user: "busybox:1", refused: "does not go by that name"},
		"unsigned, by a truncated ID":               {image: unsigned, user: unsigned[:30], refused: "does not go by that name"},
		"unsigned, by a truncated ID alone":         {image: unsigned[:30], refused: "does not go by that name"},
		"unsigned, by a truncated bare ID alone":    {image: unsigned[7:30], refused: "does not go by that name"},
		"unsigned, by ID alone":                     {image: unsigned, refused: "prod-signed"},
		"unsigned, by bare ID alone":                {image: unsigned[7:], refused: "prod-signed"},
		"unsigned, under the digest of the signed":  {image: unsigned, user: other + "@" + manifest.Digest.String(), refused: "the digest in its name"},
		"unsigned, under the signed one's own name": {image: unsigned, user: app + "@" + manifest.Digest.String(), refused: "does not go by that name"},
	} {
		t.Run(name, func(t *testing.T) {
			c.created = nil
			err := c.create(t, tc.image, tc.user)
			if tc.refused != "" {
				if err == nil || len(c.created) != 0 || !strings.Contains(err.Error(), tc.refused) {
					t.Errorf("got %v, %d forwarded; want %q", err, len(c.created), tc.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.created[0].Config.Image.Image; got != tc.want {
				t.Errorf("forwarded %s", got)
			}
		})
	}
	if report, err := audit.VerifyDir(c.auditDir); err != nil {
		t.Errorf("the log does not verify: %+v, %v", report, err)
	}
}

// Somebody with the runtime's socket lends a signed image's name, digest or ID to other bytes.
func TestRecordsMadeByHand(t *testing.T) {
	for name, forge := range map[string]func(t *testing.T, c *chain, signed string, m ocispec.Descriptor) (image, user string){
		"unsigned bytes under the signed digest's name": func(t *testing.T, c *chain, _ string, m ocispec.Descriptor) (string, string) {
			config := c.runtime.Config(t, "unsigned")
			c.runtime.Untag(app + "@" + m.Digest.String())
			c.runtime.Tag(app+"@"+m.Digest.String(), c.runtime.Manifest(t, config, nil))
			return config.Digest.String(), app + "@" + m.Digest.String()
		},
		"unsigned bytes under the signed tag": func(t *testing.T, c *chain, _ string, _ ocispec.Descriptor) (string, string) {
			config := c.runtime.Config(t, "unsigned")
			c.runtime.Tag(app+":1", c.runtime.Manifest(t, config, nil))
			return config.Digest.String(), app + ":1"
		},
		"the signed ID's own record moved, which image volumes are mounted from": func(t *testing.T, c *chain, signed string, _ ocispec.Descriptor) (string, string) {
			c.runtime.Tag(signed, c.runtime.Manifest(t, c.runtime.Config(t, "unsigned"), nil))
			c.runtime.Lag(true)
			return signed, app + ":1"
		},
		"the tag moved before the CRI plugin knows": func(t *testing.T, c *chain, signed string, _ ocispec.Descriptor) (string, string) {
			c.runtime.Lag(true)
			c.runtime.Tag(app+":1", c.runtime.Manifest(t, c.runtime.Config(t, "unsigned"), nil))
			return signed, app + ":1"
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newChain(t)
			signed, m := c.image(t, app, "signed")
			c.signatures.sign(t, app, m.Digest)
			if err := c.create(t, signed, app+":1"); err != nil {
				t.Fatal(err)
			}
			c.created = nil
			image, user := forge(t, c, signed, m)
			if err := c.create(t, image, user); err == nil || len(c.created) != 0 {
				t.Errorf("got %v, forwarded %v", err, c.created)
			}
		})
	}
}

func TestAWarmCreateAsksNobody(t *testing.T) {
	c := newChain(t)
	signed, m := c.image(t, app, "signed")
	c.signatures.sign(t, app, m.Digest)
	c.warm(t, signed)
	if err := c.create(t, signed, app+":1"); err != nil {
		t.Fatal(err)
	}
	asked, looked := c.signatures.asked.Load(), c.runtime.Calls("ImageStatus")
	for range 3 {
		if err := c.create(t, signed, app+":1"); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.signatures.asked.Load() - asked; got != 0 {
		t.Errorf("the registry was asked %d times", got)
	}
	if got := c.runtime.Calls("ImageStatus") - looked; got != 0 {
		t.Errorf("the runtime was asked %d times", got)
	}
}

// BenchmarkCreateWarm is a whole decision on a CreateContainer for an image that is running on this
// node already: remembered look-up, cached verdict, and the audit record on disk.
func BenchmarkCreateWarm(b *testing.B) {
	c := newChain(b)
	signed, m := c.image(b, app, "signed")
	c.signatures.sign(b, app, m.Digest)
	c.warm(b, signed)
	req := createRequest(spec(signed, app+":1"))
	forward := func(context.Context, *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
		return nil, nil
	}
	call := proto.Clone(req).(*runtimeapi.CreateContainerRequest)
	b.ReportAllocs()
	for b.Loop() {
		call.Config.Image.Image = signed
		if _, err := c.CreateContainer(b.Context(), call, forward); err != nil {
			b.Fatal(err)
		}
	}
}
