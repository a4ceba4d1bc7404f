package gate

import (
	"context"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
)

// Namespaces knows where images are judged. The empty name stands for one that the request does not tell.
type Namespaces interface {
	Enforced(namespace string) bool
	// ClusterEnforced reports whether the cluster's policies hold there too. Of the node's own it says nothing.
	ClusterEnforced(namespace string) bool
}

// everywhere enforces in all namespaces.
type everywhere struct{}

func (everywhere) Enforced(string) bool        { return true }
func (everywhere) ClusterEnforced(string) bool { return true }

// exempt reports whether the pod of a request is in a namespace where nothing is judged. The namespace is the one of
// the sandbox's metadata, which kubelet fills from the pod it was given; labels and annotations, kubelet's own
// among them, can carry another and are not asked. Without metadata nothing is exempt.
func (g *Gate) exempt(sandbox *runtimeapi.PodSandboxConfig) bool {
	namespace := sandbox.GetMetadata().GetNamespace()
	return namespace != "" && !g.o.Namespaces.Enforced(namespace)
}

// letThrough is what a record says of an image that was not judged.
func (r request) letThrough() string {
	return fmt.Sprintf("namespace %q is not enforced on this node, so nothing was judged", r.sandbox.GetNamespace())
}

// exemptPull finds out what is to be pulled and judges nothing.
//
// The pull is made by digest and tagged by Images.Alias like any other, because a pull by tag lets containerd move the
// tag itself. containerd reads an image's names first and its bytes from the record of the first name a moment
// later: whoever may pull unjudged could then put bytes of his choice under a container of another namespace that is
// being created at that moment, and whose image was judged. For that reason a tag that cannot be resolved fails the pull and is
// not left to the runtime.
//
// With a runtime whose tags cannot be set afterwards the pull goes on as it came, as a judged one does too.
func (g *Gate) exemptPull(ctx context.Context, r request, c evidence.Credentials) (ref Reference, v verify.Verdict, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.patience(g.o.PullTimeout))
	defer cancel()
	if ref, err = ParseReference(r.image); err != nil {
		return ref, v, err
	}
	v = verify.Verdict{Image: r.image, Repository: ref.Repository, Digest: ref.Digest, Allowed: true}
	if ref.Digest != "" {
		return ref, v, nil
	}
	if alias, err := g.o.Images.CanAlias(ctx); err != nil || !alias {
		return ref, v, err
	}
	if v.Digest, err = g.o.Resolver.Resolve(ctx, ref.Repository, ref.Tag, c); err != nil {
		return ref, verify.Verdict{}, &resolveError{err}
	}
	return ref, v, nil
}

// exemptCreate lets a container of an exempt namespace take what its image stands for on this node. It is looked up all
// the same, and bound to what was found: from a path or a checkpoint the runtime would restore a process and pull its base image by tag, which
// moves the tag under containers of other namespaces (see exemptPull). Images mounted into it are not looked at, because the runtime
// does nothing with them but read.
func (g *Gate) exemptCreate(ctx context.Context, r request, spec *runtimeapi.ImageSpec) (v verify.Verdict, id string, err error) {
	if spec.GetImage() == "" {
		return v, "", refuse("no image is named")
	}
	for _, name := range []string{r.image, spec.GetImage()} {
		if isPath(name) {
			return v, "", refuse("it is a path, not an image: a runtime would restore a process from it, and pull its base image unjudged")
		}
	}
	img, _, err := g.o.Images.Lookup(ctx, spec, "", false)
	if err != nil {
		return v, "", err
	}
	if img.Checkpoint {
		return v, "", refuse("it is a checkpoint, from which a runtime would restore a process and pull its base image unjudged")
	}
	v.Allowed = true
	if len(img.Manifests) > 0 {
		v.Digest = img.Manifests[0].Digest
	}
	return v, img.ID, nil
}
