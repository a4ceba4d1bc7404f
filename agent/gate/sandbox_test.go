package gate

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/node/nodetest"
)

const pauseImage = "registry.example/pause"

func (w *world) SandboxImages(context.Context) ([]string, error) { return w.sandboxes, w.sandboxesErr }

func (w *world) Pull(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	return w.forwardPull(ctx, req)
}

func (w *world) forwardSandbox(context.Context, *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	w.made++
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: "s"}, nil
}

func (w *world) sandbox(t *testing.T, namespace string) error {
	t.Helper()
	_, err := w.gate(t).RunPodSandbox(t.Context(), sandboxRequest(namespace), w.forwardSandbox)
	return err
}

func sandboxRequest(namespace string) *runtimeapi.RunPodSandboxRequest {
	return &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: namespace, Uid: "u-1"}}}
}

// refusing is a node whose owner wants no pod on an image for sandboxes that is not accepted.
func refusing(images ...string) *world {
	w := newWorld()
	w.refuseSandboxes, w.sandboxes = true, images
	w.exempt = map[string]bool{"kube-system": true}
	return w
}

func TestSandboxesOfAnImageThatIsNotAccepted(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(w *world)
		refused bool
		words   string
	}{
		"signed":                 {func(w *world) { w.here(pauseImage+":1", "good") }, false, ""},
		"not signed":             {func(w *world) { w.here(pauseImage+":1", "bad") }, true, "this node's image for sandboxes, " + pauseImage + "@"},
		"the runtime tells none": {func(w *world) { w.sandboxes = nil }, true, "sandbox.image"},
		"one of two is not signed": {func(w *world) {
			w.here(pauseImage+":1", "good")
			w.here("registry.example/pinned:1", "bad")
			w.sandboxes = append(w.sandboxes, "registry.example/pinned:1")
		}, true, "registry.example/pinned"},
		"an image ID without a name": {func(w *world) { w.hereAs("", id("good"), manifest("good")); w.sandboxes = []string{id("good")} }, true, "no name"},
		"a path":                     {func(w *world) { w.sandboxes = []string{"/var/lib/pause.tar"} }, true, "it is a path"},
		"a policy cannot be judged":  {func(w *world) { w.here(pauseImage+":1", "good"); w.failing[manifest("good")] = errors.New("no answer") }, true, "no answer"},
		"a checkpoint":               {func(w *world) { w.here(pauseImage+":1", "good"); w.images[id("good")].Checkpoint = true }, true, "checkpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			w := refusing(pauseImage + ":1")
			tc.prepare(w)
			err := w.sandbox(t, "shop")
			if !tc.refused {
				if err != nil || w.made != 1 || len(w.records) != 0 {
					t.Errorf("%v, %d made, records %+v", err, w.made, w.records)
				}
				return
			}
			wantMessage(t, err, codes.Unknown, "SignatureValidationFailed: ", tc.words)
			if w.made > 0 || len(w.records) != 1 || w.records[0].Action != audit.ActionSandbox || w.records[0].Pod.Name != "pod" {
				t.Errorf("%d made, records %+v", w.made, w.records)
			}
		})
	}
}

func TestRuntimeThatDoesNotAnswerMakesNoSandbox(t *testing.T) {
	w := refusing()
	w.sandboxesErr = status.Error(codes.Unavailable, "no runtime")
	wantMessage(t, w.sandbox(t, "shop"), codes.Unavailable, "this node's image for sandboxes could not be judged")
	if w.made > 0 {
		t.Error("it was made")
	}
}

// Left to itself the runtime would pull the image by its tag, past the socket, and use whatever came.
func TestImageOfSandboxesThatIsMissingComesThroughTheGate(t *testing.T) {
	t.Run("signed", func(t *testing.T) {
		w := refusing(pauseImage + ":1")
		w.push(pauseImage+":1", "good")
		if err := w.sandbox(t, "shop"); err != nil || w.made != 1 {
			t.Fatalf("%v, %d made", err, w.made)
		}
		if got := w.pulled[0].GetImage().GetImage(); got != pauseImage+"@"+manifest("good").String() {
			t.Errorf("pulled %s, not what was judged", got)
		}
	})
	t.Run("not signed", func(t *testing.T) {
		w := refusing(pauseImage + ":1")
		w.push(pauseImage+":1", "bad")
		wantMessage(t, w.sandbox(t, "shop"), codes.Unknown, "SignatureValidationFailed: ", "this node's image for sandboxes", "was not pulled")
		if w.made > 0 || len(w.pulled) > 0 {
			t.Errorf("%d made, pulled %v", w.made, w.pulled)
		}
	})
	t.Run("not to be had", func(t *testing.T) {
		w := refusing(pauseImage + ":1")
		w.resolveErr = errors.New("no answer")
		if err := w.sandbox(t, "shop"); err == nil || w.made > 0 {
			t.Errorf("%v, %d made", err, w.made)
		}
	})
}

func TestWhereSandboxesAreNotRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare   func(w *world)
		namespace string
		recorded  bool
	}{
		"the owner did not ask for it": {func(w *world) { w.refuseSandboxes = false }, "shop", false},
		"in observe mode":              {func(w *world) { w.observe = true }, "shop", true},
		"the glass is broken":          {func(w *world) { w.broken = true }, "shop", true},
		"in an exempt namespace":       {func(*world) {}, "kube-system", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := refusing(pauseImage + ":1")
			w.here(pauseImage+":1", "bad")
			tc.prepare(w)
			if err := w.sandbox(t, tc.namespace); err != nil || w.made != 1 || (len(w.records) > 0) != tc.recorded {
				t.Errorf("%v, %d made, records %+v", err, w.made, w.records)
			}
		})
	}
}

func TestSandboxWithoutMetadataIsInNoExemptNamespace(t *testing.T) {
	w := refusing(pauseImage + ":1")
	w.here(pauseImage+":1", "bad")
	for _, req := range []*runtimeapi.RunPodSandboxRequest{{}, sandboxRequest("")} {
		if _, err := w.gate(t).RunPodSandbox(t.Context(), req, w.forwardSandbox); err == nil {
			t.Errorf("%v: a sandbox was made", req)
		}
	}
}

// The attack that this is for: an image of somebody's own, under the name of the one that every pod has.
func TestImageOfSandboxesIsReplacedUnderItsName(t *testing.T) {
	c := newChain(t)
	signed := c.runtime.Manifest(t, c.runtime.Config(t, "pause"), nil)
	c.signatures.sign(t, pauseImage, signed.Digest)
	c.runtime.Pulled(t, pauseImage, "3.10", signed)
	c.runtime.SetSandboxes(nodetest.Sandboxes{Pinned: []string{pauseImage + ":3.10"}})
	made := 0
	try := func() error {
		_, err := c.RunPodSandbox(t.Context(), sandboxRequest("shop"), func(context.Context, *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
			made++
			return &runtimeapi.RunPodSandboxResponse{}, nil
		})
		return err
	}
	if err := try(); err != nil || made != 1 {
		t.Fatalf("the signed one: %v", err)
	}
	if s := c.JudgeSandbox(t.Context(), pauseImage+":3.10"); !s.Allowed || s.Digest != signed.Digest {
		t.Errorf("the signed one: %+v", s)
	}

	forged := c.runtime.Manifest(t, c.runtime.Config(t, "mine"), nil)
	for name, replace := range map[string]func(){
		"by the tag alone": func() { c.runtime.Tag(pauseImage+":3.10", forged) },
		"by the tag, the digest's record left": func() {
			c.runtime.Untag(pauseImage + "@" + signed.Digest.String())
			c.runtime.Tag(pauseImage+":3.10", forged)
		},
		"by a record that calls itself signed": func() {
			c.runtime.Tag(pauseImage+":3.10", forged)
			c.runtime.Tag(pauseImage+"@"+signed.Digest.String(), forged)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.runtime.Pulled(t, pauseImage, "3.10", signed)
			replace()
			made = 0
			if err := try(); err == nil || made > 0 {
				t.Errorf("a sandbox was made of it (%v)", err)
			} else if words := status.Convert(err).Message(); !strings.HasPrefix(words, "SignatureValidationFailed: this node's image for sandboxes") {
				t.Error(words)
			}
			if s := c.JudgeSandbox(t.Context(), pauseImage+":3.10"); s.Allowed {
				t.Errorf("judged as %+v", s)
			}
		})
	}
}

func TestOutcomeAboutSandboxesIsARecord(t *testing.T) {
	w := newWorld()
	w.here(pauseImage+":1", "bad")
	g := w.gate(t)
	s := g.JudgeSandbox(t.Context(), pauseImage+":1")
	if s.Allowed || s.Absent || s.Reason == "" || len(w.records) > 0 {
		t.Errorf("%+v, records %+v", s, w.records)
	}
	if err := g.RecordSandbox(s); err != nil {
		t.Fatal(err)
	}
	if rec := w.records[0]; rec.Action != audit.ActionSandbox || rec.Decision != audit.DecisionDeny || rec.Digest != manifest("bad").String() || rec.Mode != audit.ModeEnforce {
		t.Errorf("%+v", rec)
	}
	if s := g.JudgeSandbox(t.Context(), pauseImage+":2"); !s.Absent || s.Allowed {
		t.Errorf("one that is not here: %+v", s)
	}
}
