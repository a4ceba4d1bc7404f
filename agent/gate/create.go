package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
)

type createForward = criproxy.Forward[*runtimeapi.CreateContainerRequest, *runtimeapi.CreateContainerResponse]

// maxManifests bounds how many manifests of one image are judged. Two or three
// repositories with the same content are usual; each may cost requests.
const maxManifests = 16

// CreateContainer judges the container's image and every image mounted into it, and has
// the runtime take exactly those.
func (g *Gate) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest, forward createForward) (*runtimeapi.CreateContainerResponse, error) {
	if err := g.decideCreate(ctx, req); err != nil {
		return nil, err
	}
	done := g.o.Images.Creating()
	defer done()
	return forward(ctx, req)
}

// maxImages bounds the different images of one container.
const maxImages = 64

// decideCreate decides on every image of req, within one time limit for all: a pod's author
// chooses how many there are.
func (g *Gate) decideCreate(ctx context.Context, req *runtimeapi.CreateContainerRequest) error {
	cfg := req.GetConfig()
	pod := request{
		mode:      g.mode(),
		sandbox:   req.GetSandboxConfig().GetMetadata(),
		pod:       podOf(req.GetSandboxConfig()),
		exempt:    g.exempt(req.GetSandboxConfig()),
		container: cfg.GetMetadata().GetName(),
	}
	ctx, cancel := context.WithTimeout(ctx, pod.patience(g.o.CreateTimeout))
	defer cancel()
	if _, err := g.decideImage(ctx, pod.about(audit.ActionCreate, cfg.GetImage()), cfg.GetImage()); err != nil || pod.exempt {
		return err
	}
	// One volume can be mounted a thousand times over. It is judged and recorded once, lest a pod's author
	// push others' records out of the audit log with a single container.
	type volume struct{ image, written, handler string }
	judged := map[volume]string{}
	for _, m := range cfg.GetMounts() {
		spec := m.GetImage()
		if spec == nil {
			continue // a mount from the host
		}
		key := volume{spec.GetImage(), spec.GetUserSpecifiedImage(), spec.GetRuntimeHandler()}
		if id, ok := judged[key]; ok {
			pod.bind(spec, id)
			continue
		}
		if len(judged) == maxImages {
			return g.settle(pod.about(audit.ActionMount, spec), verify.Verdict{}, refuse(fmt.Sprintf("the container mounts more than %d different images", maxImages)))
		}
		id, err := g.decideImage(ctx, pod.about(audit.ActionMount, spec), spec)
		if err != nil {
			return err
		}
		judged[key] = id
	}
	return nil
}

// decideImage decides on one image of a call. If it is accepted, spec is bound to its content, whose ID is returned.
func (g *Gate) decideImage(ctx context.Context, r request, spec *runtimeapi.ImageSpec) (id string, err error) {
	judge := g.judgeCreate
	if r.exempt {
		judge = g.exemptCreate
	}
	v, id, err := judge(ctx, r, spec)
	if err := g.settle(r, v, err); err != nil {
		return "", err
	}
	r.bind(spec, id)
	return id, nil
}

// about is what r, the pod and container of a call, asks for one of the call's images.
func (r request) about(action string, spec *runtimeapi.ImageSpec) request {
	r.action, r.image, r.start = action, written(spec), time.Now()
	return r
}

// bind lets spec name the content that was judged, except where everything is let through, which changes nothing.
func (r request) bind(spec *runtimeapi.ImageSpec, id string) {
	if r.lenient() {
		return
	}
	spec.Image = id
	if spec.ImageRef != "" {
		// It only informs. It is overwritten so that no runtime can read another image from it.
		spec.ImageRef = id
	}
}

// written is the reference that a person wrote. kubelet puts an image ID in its place and
// the reference beside it.
func written(spec *runtimeapi.ImageSpec) string {
	if spec.GetUserSpecifiedImage() != "" {
		return spec.GetUserSpecifiedImage()
	}
	return spec.GetImage()
}

// names are the references in one ImageSpec. One that is an image ID is nil.
type names struct {
	// written is what a person wrote. Policies are asked by it.
	written *Reference
	// acted is what the runtime would act on, if that is another name. It must not contradict what is here.
	acted *Reference
}

// namesIn parses each name once.
func (g *Gate) namesIn(written string, spec *runtimeapi.ImageSpec) (n names, err error) {
	parse := func(s string) *Reference {
		if err != nil || node.IsID(s) {
			return nil
		}
		var ref Reference
		ref, err = g.parse(s)
		return &ref
	}
	if acted := spec.GetImage(); acted != written {
		n.acted = parse(acted)
	}
	n.written = parse(written)
	return n, err
}

// repository is where the written name's own manifests are.
func (n names) repository() string {
	if n.written == nil {
		return ""
	}
	return n.written.Repository
}

// judgeCreate judges what is on the node for spec and returns its ID.
func (g *Gate) judgeCreate(ctx context.Context, r request, spec *runtimeapi.ImageSpec) (v verify.Verdict, id string, err error) {
	n, err := g.namesIn(r.image, spec)
	if err != nil {
		return v, "", err
	}
	v, id, err = g.judgeHere(ctx, r, spec, n, false)
	if errors.Is(err, errStale) {
		v, id, err = g.judgeHere(ctx, r, spec, n, true)
	}
	return v, id, err
}

// errStale says that a look-up remembered from earlier led to no permission, so that the
// node should be asked again before anything is refused.
var errStale = errors.New("refused on a remembered look-up")

func (g *Gate) judgeHere(ctx context.Context, r request, spec *runtimeapi.ImageSpec, n names, fresh bool) (verify.Verdict, string, error) {
	img, remembered, err := g.o.Images.Lookup(ctx, spec, n.repository(), fresh)
	if err != nil {
		return verify.Verdict{}, "", err
	}
	v, err := g.judgeImage(ctx, r, n, img)
	if remembered && (err != nil || !v.Allowed) && !v.Cached {
		return v, "", errStale
	}
	return v, img.ID, err
}

// judgeImage judges img under the name its user wrote.
func (g *Gate) judgeImage(ctx context.Context, r request, n names, img node.Image) (verify.Verdict, error) {
	if img.Checkpoint {
		return verify.Verdict{}, refuse("it is a checkpoint, from which a runtime would restore a process and pull its base image unjudged")
	}
	if n.acted != nil {
		if _, err := candidates(*n.acted, img); err != nil {
			return verify.Verdict{}, err
		}
	}
	if n.written == nil {
		return g.judgeNames(ctx, r, img)
	}
	// A truncated ID reads like a name: "sha256:0a1b2c" is an image of Docker Hub to
	// whoever matches policies, and to the runtime it is the first image whose ID begins so.
	// It would have any image judged by the rules for another.
	if len(img.Manifests) > 0 && !slices.ContainsFunc(img.Names, n.written.sameRepository) {
		return verify.Verdict{}, refuse("the image on this node does not go by that name" + otherNames(img) + "; write its name in full")
	}
	return g.judgeManifests(ctx, r, *n.written, img, evidence.Credentials{})
}

// otherNames tells by which name an image goes.
func otherNames(img node.Image) string {
	if len(img.Names) == 0 {
		return ""
	}
	return " but by " + clip(img.Names[0], maxForeign)
}

// judgeNames serves clients that send an image ID and no name beside it, as kubelets before 1.30
// do. The image is judged under the names it has on this node; one that is
// accepted suffices, as its user could have written that one.
func (g *Gate) judgeNames(ctx context.Context, r request, img node.Image) (v verify.Verdict, err error) {
	err = refuse("it has no name on this node under which a policy could be asked")
	for i, name := range img.Names {
		if i == maxManifests || ctx.Err() != nil {
			break
		}
		ref, perr := g.parse(name)
		if perr != nil {
			continue
		}
		asked := r
		asked.image = name
		if v, err = g.judgeManifests(ctx, asked, ref, img, evidence.Credentials{}); err == nil && v.Allowed {
			return v, nil
		}
	}
	return v, err
}

// judgeManifests judges the manifests of img, as ref, until one is accepted. Any one
// suffices, because what runs is fixed by the config digest that they share.
func (g *Gate) judgeManifests(ctx context.Context, r request, ref Reference, img node.Image, c evidence.Credentials) (verify.Verdict, error) {
	digests, err := candidates(ref, img)
	if err != nil {
		return verify.Verdict{}, err
	}
	var first verify.Verdict
	var undecided error
	for i, d := range digests {
		v, err := g.o.Verifier.Verify(ctx, g.subject(r, ref, d, c))
		v.Digest, v.Repository = d, ref.Repository
		if err == nil && v.Allowed {
			return v, nil
		}
		if err != nil && undecided == nil {
			undecided = err
		}
		if i == 0 {
			first = v
		}
		if ctx.Err() != nil {
			break
		}
	}
	return first, undecided
}

// candidates lists the manifests of img that may be judged as ref: the one that ref names by
// digest, or else all, those of ref's own repository first.
func candidates(ref Reference, img node.Image) ([]digest.Digest, error) {
	if len(img.Manifests) == 0 {
		return nil, refuse("the runtime's store has no manifest for it, so there is nothing that a signature could be about; pull it again by name")
	}
	var own, others []digest.Digest
	for _, m := range img.Manifests {
		switch {
		case ref.Digest != "" && m.Digest != ref.Digest:
		case slices.ContainsFunc(m.Names, ref.sameRepository):
			own = append(own, m.Digest)
		default:
			others = append(others, m.Digest)
		}
	}
	all := append(own, others...)
	if len(all) == 0 {
		return nil, refuse("the image on this node is not " + short(ref.Digest) + ", the digest in its name")
	}
	return all[:min(len(all), maxManifests)], nil
}
