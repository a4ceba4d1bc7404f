package canary

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/criproxy/critest"
)

// node is a CRI socket on which pull decides. What it pulls it really pulls, and lists until it is removed.
type node struct {
	*critest.Runtime
	t      *testing.T
	pull   func(n *node, image string) error
	stuck  bool // RemoveImage has no effect
	socket string
	audit  string
	log    *audit.Log
	// sandbox is the pod that the last pull was for.
	sandbox *runtimeapi.PodSandboxMetadata

	mu      sync.Mutex
	images  map[string][]string // ID to names
	removed []string
}

func newNode(t *testing.T, pull func(n *node, image string) error) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "can") // short: a socket's path may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &node{Runtime: critest.NewRuntime(0), t: t, pull: pull, socket: filepath.Join(dir, "s"), audit: filepath.Join(dir, "audit"), images: map[string][]string{}}
	if n.log, err = audit.Open(audit.Options{Dir: n.audit}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.log.Close() })
	critest.Serve(t, n.socket, n)
	return n
}

func (n *node) PullImage(_ context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	image := req.GetImage().GetImage()
	n.sandbox = req.GetSandboxConfig().GetMetadata()
	if err := n.pull(n, image); err != nil {
		return nil, err
	}
	return &runtimeapi.PullImageResponse{ImageRef: "sha256:" + image[len(image)-64:]}, nil
}

// download takes the whole image, as a runtime does.
func (n *node) download(image string) error {
	ref, err := name.NewDigest(image)
	if err != nil {
		return err
	}
	img, err := remote.Image(ref)
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		if err := readLayer(l); err != nil {
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.images["sha256:"+image[len(image)-64:]] = []string{image}
	return nil
}

func readLayer(l v1.Layer) error {
	r, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// record writes what the agent would.
func (n *node) record(image, decision, reason string) {
	if err := n.log.Append(audit.Record{Action: audit.ActionPull, Decision: decision, Image: image, Reason: reason}); err != nil {
		n.t.Error(err)
	}
}

func (n *node) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, names := range n.images {
		if want := req.GetImage().GetImage(); want == id || slices.Contains(names, want) {
			return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: id}}, nil
		}
	}
	return &runtimeapi.ImageStatusResponse{}, nil
}

func (n *node) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	resp := &runtimeapi.ListImagesResponse{}
	for id, names := range n.images {
		img := &runtimeapi.Image{Id: id}
		for _, name := range names {
			if strings.Contains(name, "@") {
				img.RepoDigests = append(img.RepoDigests, name)
			} else {
				img.RepoTags = append(img.RepoTags, name)
			}
		}
		resp.Images = append(resp.Images, img)
	}
	return resp, nil
}

func (n *node) RemoveImage(_ context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, names := range n.images {
		if want := req.GetImage().GetImage(); !n.stuck && (want == id || slices.Contains(names, want)) {
			delete(n.images, id)
			n.removed = append(n.removed, id)
		}
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// soon is enough where records are written before the answer, as here.
var soon = waits{record: 200 * time.Millisecond, clean: 20 * time.Second}

func refusal(of string) error {
	return status.Error(codes.Unknown, "SignatureValidationFailed: "+of+" is refused: nobody signed it")
}

func TestOutcomes(t *testing.T) {
	for name, tc := range map[string]struct {
		pull func(n *node, image string) error
		want Outcome
		says string
	}{
		"refused by policy": {func(n *node, image string) error {
			n.record(image, audit.DecisionDeny, "nobody signed it")
			return refusal(image)
		}, Refused, "nobody signed it"},
		"refused, and the record is not there": {func(_ *node, image string) error { return refusal(image) }, Refused, "no record"},
		"let through in observe mode": {func(n *node, image string) error {
			n.record(image, audit.DecisionDeny, "no policy matches")
			return n.download(image)
		}, Recorded, "no policy matches"},
		"observe mode, and the runtime could not pull": {func(n *node, image string) error {
			n.record(image, audit.DecisionDeny, "no policy matches")
			return status.Error(codes.Unknown, "http: server gave HTTP response to HTTPS client")
		}, Recorded, "no policy matches"},
		"allowed by noMatch": {func(n *node, image string) error {
			n.record(image, audit.DecisionAllow, "no policy matches")
			return n.download(image)
		}, Allowed, "no policy matches"},
		"allowed in an exempt namespace": {func(n *node, image string) error {
			n.record(image, audit.DecisionAllow, `namespace "a" is not enforced on this node, so nothing was judged`)
			return n.download(image)
		}, Allowed, "is not enforced"},
		"warned of by a policy of mode warn": {func(n *node, image string) error {
			n.record(image, audit.DecisionWarn, "nobody signed it")
			return n.download(image)
		}, Allowed, "mode is warn"},
		"policies that cannot be loaded": {func(n *node, image string) error {
			n.record(image, audit.DecisionError, "no policies are in force")
			return refusal(image)
		}, Undecided, "no policies are in force"},
		"a registry that the agent cannot reach": {func(n *node, image string) error {
			n.record(image, audit.DecisionError, "no route to host")
			return status.Error(codes.Unknown, "RegistryUnavailable: "+image)
		}, Undecided, "no route to host"},

		"past the agent": {func(n *node, image string) error { return n.download(image) }, Unseen, "go past the agent"},
		"past the agent, which recorded another image": {func(n *node, image string) error {
			n.record(image[:len(image)-1]+"x", audit.DecisionDeny, "nobody signed it")
			return n.download(image)
		}, Unseen, "no record"},
		"past the agent, which recorded its creation alone": {func(n *node, image string) error {
			if err := n.log.Append(audit.Record{Action: audit.ActionCreate, Decision: audit.DecisionDeny, Image: image}); err != nil {
				return err
			}
			return n.download(image)
		}, Unseen, "no record"},
		"the words of a refusal after the download": {func(n *node, image string) error {
			n.record(image, audit.DecisionDeny, "nobody signed it")
			if err := n.download(image); err != nil {
				return err
			}
			return refusal(image)
		}, Unseen, "yet it is on the node"},
		"the words of a refusal, and the image hidden": {func(n *node, image string) error {
			if err := n.download(image); err != nil {
				return err
			}
			clear(n.images)
			return refusal(image)
		}, Unseen, "yet its layer was downloaded"},
		"refused by policy, and a stranger who listens to lo reads the layer": {func(n *node, image string) error {
			if err := n.download(image); err != nil {
				return err
			}
			clear(n.images)
			n.record(image, audit.DecisionDeny, "nobody signed it")
			return refusal(image)
		}, Refused, "nobody signed it"},
		"an error of the runtime's after the download": {func(n *node, image string) error {
			if err := n.download(image); err != nil {
				return err
			}
			return status.Error(codes.Internal, "disk full")
		}, Unseen, "go past the agent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, tc.pull)
			r, err := pull(t.Context(), Options{Socket: n.socket, AuditDir: n.audit}, soon)
			if err != nil {
				t.Fatal(err)
			}
			if r.Outcome != tc.want || !strings.Contains(r.Why, tc.says) {
				t.Errorf("%s: %s; want %s: %s", r.Outcome, r.Why, tc.want, tc.says)
			}
			if enforced := tc.want == Refused || tc.want == Recorded; r.Enforced() != enforced || r.Seen() != (tc.want != Unseen) {
				t.Errorf("enforced %v, seen %v", r.Enforced(), r.Seen())
			}
			if len(n.images) != 0 {
				t.Errorf("left behind: %v", n.images)
			}
		})
	}
}

// What does not tell of the agent proves nothing, either way.
func TestWhatProvesNothingIsAnError(t *testing.T) {
	for name, answer := range map[string]error{
		"a runtime that refuses in its own words":  status.Error(codes.Unknown, "image verifier: denied"),
		"a refusal of another image":               refusal("registry.example/other"),
		"the refusal's words with another code":    status.Error(codes.PermissionDenied, "SignatureValidationFailed: x"),
		"a socket that has no such call":           status.Error(codes.Unimplemented, "unknown method"),
		"a runtime that is away behind the socket": status.Error(codes.Unavailable, "connection refused"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, func(*node, string) error { return answer })
			if r, err := pull(t.Context(), Options{Socket: n.socket, AuditDir: n.audit}, soon); err == nil || r.Seen() {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	if r, err := pull(t.Context(), Options{Socket: "/nowhere/s"}, soon); err == nil || r.Seen() {
		t.Errorf("no socket: %+v, %v", r, err)
	}
}

// Without the log it cannot be told why an image came through, so the worst is said.
func TestUnknownLogIsNoExcuse(t *testing.T) {
	for _, dir := range []string{"", "/nowhere"} {
		n := newNode(t, func(n *node, image string) error { return n.download(image) })
		r, err := pull(t.Context(), Options{Socket: n.socket, AuditDir: dir}, soon)
		if err != nil || r.Outcome != Unseen || r.Enforced() {
			t.Errorf("%q: %+v, %v", dir, r, err)
		}
	}
}

// A canary that was killed leaves its image. The next one takes it away, and nothing else.
func TestLeftCanariesAreRemoved(t *testing.T) {
	hex := strings.Repeat("ab", 16)
	digest := "@sha256:" + strings.Repeat("0", 64)
	n := newNode(t, func(_ *node, image string) error { return refusal(image) })
	n.images["old"] = []string{"127.0.0.1:39041/cosentry-canary/" + hex + digest}
	for id, names := range map[string][]string{
		"nameless": nil, "app": {"registry.example/app:1"},
		"another-name-as-well": {"127.0.0.1:39041/cosentry-canary/" + hex + digest, "registry.example/app:1"},
		"another-host":         {"registry.example/127.0.0.1:1/cosentry-canary/" + hex + digest},
		"another-repository":   {"127.0.0.1:1/cosentry-canary/app" + digest},
	} {
		n.images[id] = names
	}
	if _, err := pull(t.Context(), Options{Socket: n.socket, AuditDir: n.audit}, soon); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(n.removed, []string{"old"}) {
		t.Errorf("removed %v", n.removed)
	}
}

func TestWhatCannotBeRemovedIsTold(t *testing.T) {
	n := newNode(t, func(n *node, image string) error { return n.download(image) })
	n.stuck = true
	r, err := pull(t.Context(), Options{Socket: n.socket, AuditDir: n.audit}, waits{clean: 50 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "may be left on the node") || r.Outcome != Unseen {
		t.Errorf("%+v, %v", r, err)
	}
}

// Whoever gives up in the middle leaves nothing either.
func TestCanceledPullIsCleanedUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := newNode(t, func(n *node, image string) error {
		defer cancel()
		return n.download(image)
	})
	if _, err := pull(ctx, Options{Socket: n.socket, AuditDir: n.audit}, soon); err == nil {
		t.Error("no error although it was canceled")
	}
	if len(n.images) != 0 || len(n.removed) != 1 {
		t.Errorf("left behind: %v", n.images)
	}
}

// Two canaries are two images: a verdict that was remembered of one says nothing of the next.
func TestNoTwoCanariesAreAlike(t *testing.T) {
	a, err := newImage()
	if err != nil {
		t.Fatal(err)
	}
	b, err := newImage()
	if err != nil {
		t.Fatal(err)
	}
	if a.name == b.name || a.digest == b.digest || a.layer == b.layer {
		t.Errorf("%+v\n%+v", a, b)
	}
}
