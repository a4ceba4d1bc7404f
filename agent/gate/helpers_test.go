package gate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
)

const (
	app   = "registry.example/team/app"
	other = "registry.example/other/app"
)

// manifest and id make the digests of things that exist only by name.
func manifest(s string) digest.Digest { return digest.FromString("manifest " + s) }
func id(s string) string              { return digest.FromString("config " + s).String() }

// world is a registry, a node's runtime, a policy that demands signatures and an audit log, in
// memory. It behaves like the real ones as far as the gate can see, and remembers
// what happened, in order.
type world struct {
	tags     map[string]digest.Digest // the registry's tags: "host/path:tag"
	configs  map[digest.Digest]string // manifest digest to image ID
	signed   map[digest.Digest]bool
	verdicts map[digest.Digest]verify.Verdict // instead of what signed says
	failing  map[digest.Digest]error          // no verdict can be reached

	images    map[string]*node.Image // on the node, by ID
	names     map[string]string      // on the node, canonical name to ID
	memory    map[string]node.Image  // look-ups remembered from earlier
	noAliases bool                   // the runtime is not containerd

	resolveErr, lookupErr, canErr, aliasErr, removeErr, recordErr, forwardErr error
	// onForward runs before the runtime does what it is asked.
	onForward func()

	observe bool
	exempt  map[string]bool // namespaces
	// withoutCluster are namespaces in which the cluster's policies do not hold.
	withoutCluster map[string]bool
	log            bytes.Buffer
	events         []string
	records        []audit.Record
	decided        []string
	subjects       []verify.Subject
	lookups        []string
	pulled         []*runtimeapi.PullImageRequest
	created        []*runtimeapi.CreateContainerRequest
	creating       int

	// broken is the glass, through what went on because of it.
	broken  bool
	through []string
	// sandboxes are the images of sandboxes, as the runtime tells them.
	sandboxes       []string
	sandboxesErr    error
	refuseSandboxes bool
	made            int // sandboxes
}

// newWorld has app:1 signed and bad:1 unsigned, in the registry and not on the node.
func newWorld() *world {
	w := &world{
		tags:     map[string]digest.Digest{},
		configs:  map[digest.Digest]string{},
		signed:   map[digest.Digest]bool{manifest("good"): true},
		verdicts: map[digest.Digest]verify.Verdict{},
		failing:  map[digest.Digest]error{},
		images:   map[string]*node.Image{},
		names:    map[string]string{},
		memory:   map[string]node.Image{},
	}
	w.push(app+":1", "good")
	w.push(other+":1", "bad")
	return w
}

func (w *world) push(tagged, what string) {
	w.tags[tagged] = manifest(what)
	w.configs[manifest(what)] = id(what)
}

// here puts an image on the node, with the manifest, under a name.
func (w *world) here(name, what string) {
	w.hereAs(name, id(what), manifest(what))
}

func (w *world) hereAs(name, id string, m digest.Digest) {
	img := w.images[id]
	if img == nil {
		img = &node.Image{ID: id}
		w.images[id] = img
	}
	if name != "" {
		if old := w.images[w.names[name]]; old != nil && old != img {
			old.Names = slices.DeleteFunc(old.Names, func(n string) bool { return n == name })
		}
		w.names[name] = id
		img.Names = append(img.Names, name)
	}
	if m == "" {
		return
	}
	i := slices.IndexFunc(img.Manifests, func(k node.Manifest) bool { return k.Digest == m })
	if i < 0 {
		img.Manifests = append(img.Manifests, node.Manifest{Digest: m})
		i = len(img.Manifests) - 1
	}
	img.Manifests[i].Names = append(img.Manifests[i].Names, name)
}

// find resolves what CreateContainer and ImageStatus may be given.
func (w *world) find(ref string) string {
	if named, err := reference.ParseDockerRef(ref); err == nil && !node.IsID(ref) {
		if id := w.names[named.String()]; id != "" {
			return id
		}
	}
	for id := range w.images {
		if short := strings.TrimPrefix(ref, "sha256:"); short != "" && strings.HasPrefix(strings.TrimPrefix(id, "sha256:"), short) {
			return id
		}
	}
	return ""
}

func (w *world) Creating() func() {
	w.creating++
	return func() { w.creating-- }
}

func (w *world) Lookup(_ context.Context, spec *runtimeapi.ImageSpec, _ string, fresh bool) (node.Image, bool, error) {
	kind := "asked"
	if img, ok := w.memory[spec.GetImage()]; ok && !fresh {
		w.lookups = append(w.lookups, "remembered")
		return img, true, nil
	} else if fresh {
		kind = "fresh"
	}
	w.lookups = append(w.lookups, kind)
	if w.lookupErr != nil {
		return node.Image{}, false, w.lookupErr
	}
	img := w.images[w.find(spec.GetImage())]
	if img == nil {
		return node.Image{}, false, fmt.Errorf("%w: %q", node.ErrNotPresent, spec.GetImage())
	}
	return *img, false, nil
}

func (w *world) CanAlias(context.Context) (bool, error) { return !w.noAliases, w.canErr }

func (w *world) Alias(_ context.Context, tagged, pinned string) error {
	w.events = append(w.events, "alias "+tagged)
	if w.aliasErr != nil {
		return w.aliasErr
	}
	if w.names[pinned] == "" {
		return errors.New("no record " + pinned)
	}
	w.hereAs(tagged, w.names[pinned], "")
	return nil
}

func (w *world) Remove(_ context.Context, name string) error {
	w.events = append(w.events, "remove "+name)
	if w.removeErr == nil {
		delete(w.names, name)
	}
	return w.removeErr
}

func (w *world) Resolve(_ context.Context, repository, tag string, _ evidence.Credentials) (digest.Digest, error) {
	w.events = append(w.events, "resolve "+repository+":"+tag)
	if w.resolveErr != nil {
		return "", w.resolveErr
	}
	d, ok := w.tags[repository+":"+tag]
	if !ok {
		return "", fmt.Errorf("%w: %s:%s", evidence.ErrNotFound, repository, tag)
	}
	return d, nil
}

func (w *world) Enforced(namespace string) bool { return !w.exempt[namespace] }

func (w *world) ClusterEnforced(namespace string) bool { return !w.withoutCluster[namespace] }

func (w *world) Revision() string { return "revision" }

func (w *world) Verify(ctx context.Context, s verify.Subject) (verify.Verdict, error) {
	w.subjects = append(w.subjects, s)
	if err := ctx.Err(); err != nil {
		return verify.Verdict{}, &verify.UndecidedError{Subject: s, Err: fmt.Errorf("%w: %w", evidence.ErrUnavailable, err)}
	}
	if err := w.failing[s.Digest]; err != nil {
		return w.verdicts[s.Digest], &verify.UndecidedError{Subject: s, Err: err}
	}
	if v, ok := w.verdicts[s.Digest]; ok {
		return v, nil
	}
	v := verify.Verdict{Image: s.Image, Repository: s.Repository, Digest: s.Digest, Revision: "revision"}
	p := verify.PolicyResult{Policy: "prod-signed", Mode: "enforce", Passed: w.signed[s.Digest]}
	v.Allowed = p.Passed
	if p.Passed {
		p.Authorities = []verify.AuthorityResult{{Authority: "release-key", Kind: "key", Passed: true, KeyFingerprint: "SHA256:ab"}}
	} else {
		p.Reason = `no signature by authority "release-key" (no signatures found)`
	}
	v.Policies = []verify.PolicyResult{p}
	return v, nil
}

func (w *world) Append(r audit.Record) error {
	w.events = append(w.events, "record "+r.Decision)
	if w.recordErr != nil {
		return w.recordErr
	}
	w.records = append(w.records, r)
	return nil
}

func (w *world) gate(t testing.TB) *Gate {
	t.Helper()
	g, err := New(Options{
		Verifier: w, Resolver: w, Images: w, Recorder: w, Namespaces: w, Observe: w.observe, Node: "node-1",
		BreakGlass: func() bool { return w.broken }, Sandboxes: w, RefuseSandboxes: w.refuseSandboxes,
		LetThrough:    func(action, decision string) { w.through = append(w.through, action+" "+decision) },
		CreateTimeout: time.Minute, PullTimeout: time.Minute,
		Log:     slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Decided: func(action, decision string, _ time.Duration) { w.decided = append(w.decided, action+" "+decision) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// forwardPull is the runtime's PullImage: it takes from the registry what the request names now.
func (w *world) forwardPull(_ context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	w.events = append(w.events, "forward "+req.GetImage().GetImage())
	w.pulled = append(w.pulled, req)
	if w.onForward != nil {
		w.onForward()
	}
	if w.forwardErr != nil {
		return nil, w.forwardErr
	}
	named, err := reference.ParseDockerRef(req.GetImage().GetImage())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	var d digest.Digest
	if digested, ok := named.(reference.Digested); ok {
		d = digested.Digest()
	} else {
		d = w.tags[named.String()]
		w.hereAs(named.String(), w.configs[d], d)
	}
	if w.configs[d] == "" {
		return nil, status.Error(codes.NotFound, "no such manifest")
	}
	w.hereAs(named.Name()+"@"+d.String(), w.configs[d], d)
	return &runtimeapi.PullImageResponse{ImageRef: w.configs[d]}, nil
}

func (w *world) pull(t testing.TB, image string) (*runtimeapi.PullImageResponse, error) {
	t.Helper()
	return w.gate(t).PullImage(t.Context(), pullRequest(image), w.forwardPull)
}

func pullRequest(image string) *runtimeapi.PullImageRequest {
	return &runtimeapi.PullImageRequest{
		Image:         &runtimeapi.ImageSpec{Image: image},
		SandboxConfig: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "shop", Uid: "u-1"}},
	}
}

func (w *world) forwardCreate(_ context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if w.onForward != nil {
		w.onForward()
	}
	w.events = append(w.events, "forward "+req.GetConfig().GetImage().GetImage())
	w.created = append(w.created, req)
	if w.forwardErr != nil {
		return nil, w.forwardErr
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: "c"}, nil
}

func (w *world) create(t testing.TB, image *runtimeapi.ImageSpec, mounts ...*runtimeapi.ImageSpec) error {
	t.Helper()
	_, err := w.gate(t).CreateContainer(t.Context(), createRequest(image, mounts...), w.forwardCreate)
	return err
}

func createRequest(image *runtimeapi.ImageSpec, mounts ...*runtimeapi.ImageSpec) *runtimeapi.CreateContainerRequest {
	req := &runtimeapi.CreateContainerRequest{
		PodSandboxId:  "s",
		Config:        &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Image: image},
		SandboxConfig: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "shop", Uid: "u-1"}},
	}
	for _, m := range mounts {
		req.Config.Mounts = append(req.Config.Mounts, &runtimeapi.Mount{ContainerPath: "/m", Image: m, Readonly: true})
	}
	return req
}

func spec(image, userSpecified string) *runtimeapi.ImageSpec {
	return &runtimeapi.ImageSpec{Image: image, UserSpecifiedImage: userSpecified}
}

// wantRefused checks an error that kubelet reads as a refusal, with words in it, and that nothing
// reached the runtime.
func (w *world) wantRefused(t *testing.T, err error, words ...string) {
	t.Helper()
	wantMessage(t, err, codes.Unknown, "SignatureValidationFailed: ", words...)
	if len(w.pulled)+len(w.created) > 0 {
		t.Error("the request reached the runtime all the same")
	}
	if n := len(w.records); n == 0 || w.records[n-1].Decision != audit.DecisionDeny {
		t.Errorf("the last record is not a refusal: %+v", w.records)
	}
}

func wantMessage(t *testing.T, err error, code codes.Code, prefix string, words ...string) {
	t.Helper()
	st := status.Convert(err)
	if err == nil || st.Code() != code || !strings.HasPrefix(st.Message(), prefix) {
		t.Fatalf("got %v; want code %v and a message that begins %q", err, code, prefix)
	}
	for _, word := range words {
		if !strings.Contains(st.Message(), word) {
			t.Errorf("the message does not say %q: %s", word, st.Message())
		}
	}
}
