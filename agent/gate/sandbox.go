package gate

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/verify"
)

type sandboxForward = criproxy.Forward[*runtimeapi.RunPodSandboxRequest, *runtimeapi.RunPodSandboxResponse]

// Sandboxes knows what the runtime makes pods' sandboxes of. *node.Node is one.
type Sandboxes interface {
	// SandboxImages are the names of the images that the runtime may take, none if it does not tell.
	SandboxImages(ctx context.Context) ([]string, error)
	// Pull has the runtime pull an image.
	Pull(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error)
}

// SandboxImage is what was found out about an image that sandboxes are made of.
type SandboxImage struct {
	Name   string
	Digest digest.Digest // empty if it is not known
	// Allowed says that policy accepts it. Absent says that it is not on this node, so that nothing was judged: the
	// runtime would pull it by itself.
	Allowed, Absent bool
	// Reason is why not, or why only with a warning.
	Reason string

	request  request
	verdict  verify.Verdict
	err      error
	decision string
}

// JudgeSandbox judges what is on this node under name, which is an image of sandboxes. Nothing is recorded.
//
// No request names this image: the runtime takes it by a name of its own settings, and pulls it past every socket. So it
// is judged under that name, as of no pod and of no namespace.
func (g *Gate) JudgeSandbox(ctx context.Context, name string) SandboxImage {
	ctx, cancel := context.WithTimeout(ctx, g.o.CreateTimeout)
	defer cancel()
	r := request{action: audit.ActionSandbox, image: name, mode: g.mode(), start: time.Now()}
	return g.judgeSandbox(ctx, r)
}

func (g *Gate) judgeSandbox(ctx context.Context, r request) SandboxImage {
	v, _, err := g.judgeCreate(ctx, r, &runtimeapi.ImageSpec{Image: r.image})
	decision, _ := decide(r, v, err)
	return SandboxImage{
		Name: r.image, Digest: v.Digest, Allowed: err == nil && v.Allowed, Absent: errors.Is(err, node.ErrNotPresent),
		Reason: reason(r, v, err), request: r, verdict: v, err: err, decision: decision,
	}
}

// RecordSandbox writes the audit record of what JudgeSandbox found out.
func (g *Gate) RecordSandbox(s SandboxImage) error {
	return g.o.Recorder.Append(g.record(s.request, s.verdict, s.err, s.decision))
}

// RunPodSandbox refuses to make a sandbox of an image that is not accepted, where RefuseSandboxes is set. The image is looked
// up afresh each time, because whoever replaces it does so behind the runtime's back. It is not bound to the
// call, which does not name it: what replaces it in the very moment between is seen by the next look.
func (g *Gate) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest, forward sandboxForward) (*runtimeapi.RunPodSandboxResponse, error) {
	r := request{action: audit.ActionSandbox, sandbox: req.GetConfig().GetMetadata(), mode: g.mode(), start: time.Now()}
	if g.o.RefuseSandboxes && !g.exempt(req.GetConfig()) {
		if err := g.decideSandbox(ctx, r); err != nil {
			return nil, err
		}
	}
	return forward(ctx, req)
}

// decideSandbox decides on every image that the runtime may take. A refusal is recorded; what is accepted is not, once more for
// every pod.
func (g *Gate) decideSandbox(ctx context.Context, r request) error {
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	names, err := g.o.Sandboxes.SandboxImages(ctx)
	if err == nil && len(names) == 0 {
		err = refuse("the runtime does not tell which image it makes sandboxes of; name it in this node's settings, sandbox.image")
	}
	if err != nil {
		return g.settle(r, verify.Verdict{}, err)
	}
	for _, name := range names {
		r.image = name
		s := g.judgeHereOrBring(ctx, r)
		if s.Allowed {
			continue
		}
		if err := g.settle(s.request, s.verdict, s.err); err != nil {
			return err
		}
	}
	return nil
}

// sandboxTimeout bounds all that is done for one RunPodSandbox, for which kubelet waits 4 minutes.
const sandboxTimeout = 3 * time.Minute

// judgeHereOrBring judges an image, and pulls it if it is not here: the runtime would do so by itself, and nobody would judge what
// comes.
func (g *Gate) judgeHereOrBring(ctx context.Context, r request) SandboxImage {
	s := g.judgeInTime(ctx, r)
	if !s.Absent || r.lenient() {
		return s
	}
	if _, err := g.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: r.image}}, g.o.Sandboxes.Pull); err != nil {
		s.err = notBrought(err)
		return s
	}
	return g.judgeInTime(ctx, r)
}

// notBrought is why an image was not pulled, as the words of a refusal if it was refused.
func notBrought(err error) error {
	const why = "it is not on this node, and was not pulled: "
	st := status.Convert(err)
	if words, ok := strings.CutPrefix(st.Message(), refusedPrefix); ok {
		return refuse(why + words)
	}
	return status.Error(st.Code(), why+st.Message())
}

func (g *Gate) judgeInTime(ctx context.Context, r request) SandboxImage {
	ctx, cancel := context.WithTimeout(ctx, r.patience(g.o.CreateTimeout))
	defer cancel()
	return g.judgeSandbox(ctx, r)
}
