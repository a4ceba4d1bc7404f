package gate

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
)

type pullForward = criproxy.Forward[*runtimeapi.PullImageRequest, *runtimeapi.PullImageResponse]

// PullImage resolves the reference to a digest, judges the digest and has the runtime
// pull exactly that.
func (g *Gate) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest, forward pullForward) (*runtimeapi.PullImageResponse, error) {
	r := request{
		action:  audit.ActionPull,
		sandbox: req.GetSandboxConfig().GetMetadata(),
		pod:     podOf(req.GetSandboxConfig()),
		exempt:  g.exempt(req.GetSandboxConfig()),
		image:   req.GetImage().GetImage(),
		mode:    g.mode(),
		start:   time.Now(),
	}
	judge := g.judgePull
	if r.exempt {
		judge = g.exemptPull
	}
	ref, v, err := judge(ctx, r, credentials(req.GetAuth()))
	if err := g.settle(r, v, err); err != nil {
		return nil, err
	}
	if r.lenient() {
		return forward(ctx, req)
	}
	alias, err := g.canAlias(ctx)
	if err != nil {
		return nil, runtimeError(r, err)
	}
	if r.exempt && !alias {
		return forward(ctx, req)
	}
	if ref.Tag != "" && !alias {
		return g.pullByTag(ctx, r, ref, v, req, forward)
	}

	pinned := ref.pinned(v.Digest)
	req.Image.Image, req.Image.ImageRef = pinned, ""
	resp, err := forward(ctx, req)
	if err != nil || ref.Tag == "" {
		return resp, err
	}
	if err := g.o.Images.Alias(ctx, ref.tagged(), pinned); err != nil {
		// The image is here and was judged; kubelet finds it by the ID in the
		// response, and will only ask to pull again next time.
		g.o.Log.Warn("the pulled image could not be tagged", "image", r.image, "error", err)
	}
	return resp, nil
}

// canAlias asks the runtime what it is, the first time. kubelet sets no limit for a pull.
func (g *Gate) canAlias(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, g.o.PullTimeout)
	defer cancel()
	return g.o.Images.CanAlias(ctx)
}

func (g *Gate) judgePull(ctx context.Context, r request, c evidence.Credentials) (ref Reference, v verify.Verdict, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.patience(g.o.PullTimeout))
	defer cancel()
	if ref, err = ParseReference(r.image); err != nil {
		return ref, v, err
	}
	d := ref.Digest
	if d == "" {
		if d, err = g.o.Resolver.Resolve(ctx, ref.Repository, ref.Tag, c); err != nil {
			return ref, v, &resolveError{err}
		}
	}
	v, err = g.o.Verifier.Verify(ctx, g.subject(r, ref, d, c))
	v.Digest, v.Repository = d, ref.Repository
	return ref, v, err
}

// pullByTag serves runtimes in which a tag cannot be set afterwards: the tag is pulled, and
// what came is compared with what was judged. Other content is judged afresh, and
// taken off the node again if refused.
func (g *Gate) pullByTag(ctx context.Context, r request, ref Reference, judged verify.Verdict, req *runtimeapi.PullImageRequest, forward pullForward) (*runtimeapi.PullImageResponse, error) {
	req.Image.Image, req.Image.ImageRef = ref.tagged(), ""
	resp, err := forward(ctx, req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, g.o.PullTimeout)
	defer cancel()
	spec := &runtimeapi.ImageSpec{Image: resp.GetImageRef(), RuntimeHandler: req.Image.RuntimeHandler}
	got, _, err := g.o.Images.Lookup(ctx, spec, ref.Repository, true)
	if err == nil {
		for _, m := range got.Manifests {
			if m.Digest == judged.Digest {
				return resp, nil
			}
		}
	}
	r.start = time.Now()
	var v verify.Verdict
	if err == nil {
		v, err = g.judgeManifests(ctx, r, ref, got, credentials(req.GetAuth()))
	}
	if refused := g.settle(r, v, err); refused != nil {
		if err := g.o.Images.Remove(ctx, ref.tagged()); err != nil {
			g.o.Log.Error("a refused image stays on the node; it will be refused again at create", "image", r.image, "error", err)
		}
		return nil, refused
	}
	return resp, nil
}

// credentials takes over what the request carries. They are used to read signatures and
// are never logged.
func credentials(a *runtimeapi.AuthConfig) evidence.Credentials {
	if a == nil {
		return evidence.Credentials{}
	}
	return evidence.Credentials{
		Username:      a.Username,
		Password:      a.Password,
		Auth:          a.Auth,
		ServerAddress: a.ServerAddress,
		IdentityToken: a.IdentityToken,
		RegistryToken: a.RegistryToken,
	}
}
