package gate

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/namespaces"
	"github.com/cosentry/cosentry/verify/evidence"
)

// relaxed is a world in which the namespace of the tests' requests is exempt.
func relaxed(w *world) *world {
	w.exempt = map[string]bool{"shop": true, "": true}
	return w
}

// in puts a request into another namespace.
func in(namespace string, sandbox *runtimeapi.PodSandboxConfig) {
	sandbox.Metadata.Namespace = namespace
}

func TestExemptNamespaceRunsWhatIsNotSigned(t *testing.T) {
	w := relaxed(newWorld())
	resp, err := w.pull(t, other+":1")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.create(t, spec(resp.ImageRef, other+":1"), spec(id("bad"), other+":1")); err != nil {
		t.Fatal(err)
	}
	pinned := other + "@" + manifest("bad").String()
	want := []string{"resolve " + other + ":1", "record allow", "forward " + pinned, "alias " + other + ":1", "record allow", "forward " + id("bad")}
	if diff := cmp.Diff(want, w.events); diff != "" {
		t.Errorf("what happened (-want +got):\n%s", diff)
	}
	if len(w.subjects) > 0 {
		t.Errorf("it was judged: %+v", w.subjects)
	}
	for _, r := range w.records {
		if r.Reason != `namespace "shop" is not enforced on this node, so nothing was judged` || r.Digest != manifest("bad").String() || r.Pod.Namespace != "shop" || len(r.Policies) > 0 {
			t.Errorf("record %+v", r)
		}
	}
}

func TestWhatAnExemptNamespacePulledDoesNotRunElsewhere(t *testing.T) {
	w := relaxed(newWorld())
	resp, err := w.pull(t, other+":1")
	if err != nil {
		t.Fatal(err)
	}
	w.pulled, w.records = nil, nil
	for _, s := range []*runtimeapi.ImageSpec{spec(resp.ImageRef, other+":1"), spec(other+":1", ""), spec(resp.ImageRef, "")} {
		req := createRequest(s)
		in("prod", req.SandboxConfig)
		_, err := w.gate(t).CreateContainer(t.Context(), req, w.forwardCreate)
		w.wantRefused(t, err, "prod-signed")
	}
	// As a volume, too.
	w.here(app+":1", "good")
	req := createRequest(spec(id("good"), app+":1"), spec(resp.ImageRef, other+":1"))
	in("prod", req.SandboxConfig)
	_, err = w.gate(t).CreateContainer(t.Context(), req, w.forwardCreate)
	w.wantRefused(t, err, "prod-signed")
	// And a pull of its own is judged, though the image is here.
	pull := pullRequest(other + ":1")
	in("prod", pull.SandboxConfig)
	_, err = w.gate(t).PullImage(t.Context(), pull, w.forwardPull)
	w.wantRefused(t, err, "prod-signed")
}

// Whatever of a request is not the namespace in the sandbox's metadata is not asked for it.
func TestOnlyTheSandboxMetadataTellsTheNamespace(t *testing.T) {
	lies := map[string]string{"io.kubernetes.pod.namespace": "shop", "policy.sigstore.dev/include": "false", "namespace": "shop"}
	for name, sandbox := range map[string]*runtimeapi.PodSandboxConfig{
		"no sandbox":         nil,
		"no metadata":        {Labels: lies, Annotations: lies},
		"an empty namespace": {Metadata: &runtimeapi.PodSandboxMetadata{Name: "shop", Uid: "u"}, Labels: lies, Annotations: lies},
		"another namespace":  {Metadata: &runtimeapi.PodSandboxMetadata{Name: "shop", Namespace: "prod"}, Labels: lies, Annotations: lies, Hostname: "shop", LogDirectory: "/var/log/pods/shop_pod_u"},
	} {
		t.Run(name, func(t *testing.T) {
			w := relaxed(newWorld())
			w.here(other+":1", "bad")
			create := createRequest(spec(id("bad"), other+":1"))
			create.SandboxConfig = sandbox
			create.Config.Labels, create.Config.Annotations = lies, lies
			_, err := w.gate(t).CreateContainer(t.Context(), create, w.forwardCreate)
			w.wantRefused(t, err, "prod-signed")
			pull := pullRequest(other + ":1")
			pull.SandboxConfig = sandbox
			pull.Image.Annotations = lies
			_, err = w.gate(t).PullImage(t.Context(), pull, w.forwardPull)
			w.wantRefused(t, err, "prod-signed")
		})
	}
}

// A pull by tag would have containerd move the tag, under a container of another namespace that is being created.
func TestExemptPullIsNeverByTagWhereTagsCanBeSet(t *testing.T) {
	for name, tc := range map[string]struct {
		cause  error
		code   codes.Code
		prefix string
		words  []string
	}{
		"registry away":       {evidence.ErrUnavailable, codes.Unknown, "RegistryUnavailable: ", []string{"could not be resolved"}},
		"credentials refused": {evidence.ErrUnauthorized, codes.NotFound, app, []string{"pull secret"}},
		"no such tag":         {evidence.ErrNotFound, codes.NotFound, app, nil},
		"an odd answer":       {errors.New("not a manifest"), codes.Unknown, "SignatureValidationFailed: ", []string{"could not be resolved"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := relaxed(newWorld())
			w.resolveErr = tc.cause
			_, err := w.pull(t, app+":1")
			wantMessage(t, err, tc.code, tc.prefix, tc.words...)
			if len(w.pulled) > 0 {
				t.Errorf("forwarded: %v", w.pulled)
			}
			if n := len(w.records); n != 1 || w.records[0].Decision != audit.DecisionError {
				t.Errorf("records %+v", w.records)
			}
		})
	}
	w := relaxed(newWorld())
	w.canErr = status.Error(codes.Unavailable, "connection refused")
	if _, err := w.pull(t, app+":1"); err == nil || len(w.pulled) > 0 {
		t.Errorf("a runtime that is not known: %v, %v", err, w.pulled)
	}
}

func TestExemptPullByDigest(t *testing.T) {
	w := relaxed(newWorld())
	w.resolveErr = errors.New("nobody is to be asked")
	if _, err := w.pull(t, other+":9@"+manifest("bad").String()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"record allow", "forward " + other + "@" + manifest("bad").String()}, w.events); diff != "" {
		t.Errorf("what happened (-want +got):\n%s", diff)
	}
}

func TestExemptPullWithoutAliasesGoesOnAsItCame(t *testing.T) {
	w := relaxed(newWorld())
	w.noAliases = true
	w.resolveErr = errors.New("nobody is to be asked")
	if _, err := w.pull(t, other+":1"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"record allow", "forward " + other + ":1"}, w.events); diff != "" {
		t.Errorf("what happened (-want +got):\n%s", diff)
	}
}

// From these a runtime restores a process and pulls a base image by itself, which moves tags.
func TestExemptNamespaceRestoresNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		spec  *runtimeapi.ImageSpec
		words string
	}{
		"a path":                              {spec("/var/lib/kubelet/checkpoints/c.tar", ""), "it is a path"},
		"a path beside an ID":                 {spec(id("bad"), "/var/lib/kubelet/checkpoints/c.tar"), "it is a path"},
		"an ID's place taken by a path":       {spec("../c.tar", other+":1"), "it is a path"},
		"a path that reads like a name":       {spec("var/lib/kubelet/checkpoints/c.tar", ""), "no such image on this node"},
		"a checkpoint image by ID":            {spec(id("checkpoint"), other+":c"), "it is a checkpoint"},
		"a checkpoint image by name":          {spec(other+":c", ""), "it is a checkpoint"},
		"an image that is not here":           {spec(id("nowhere"), other+":1"), "no such image on this node"},
		"nothing":                             {nil, "no image is named"},
		"nothing, though a name is beside it": {spec("", other+":1"), "no image is named"},
	} {
		t.Run(name, func(t *testing.T) {
			w := relaxed(newWorld())
			w.here(other+":1", "bad")
			w.here(other+":c", "checkpoint")
			w.images[id("checkpoint")].Checkpoint = true
			w.wantRefused(t, w.create(t, tc.spec), tc.words)
		})
	}
	for _, image := range []string{"/var/lib/c.tar", "./c.tar", ""} {
		w := relaxed(newWorld())
		_, err := w.pull(t, image)
		w.wantRefused(t, err)
	}
}

// The name is bound to what was looked at: the file that a runtime might find by the name never comes into it.
func TestExemptCreateTakesWhatWasLookedAt(t *testing.T) {
	w := relaxed(newWorld())
	w.here("docker.io/var/lib/c.tar:latest", "bad")
	if err := w.create(t, spec("var/lib/c.tar", "")); err != nil {
		t.Fatal(err)
	}
	if got := w.created[0].Config.Image.Image; got != id("bad") {
		t.Errorf("forwarded %s", got)
	}
}

func TestExemptCreateIsAnnouncedToo(t *testing.T) {
	w := relaxed(newWorld())
	w.here(other+":1", "bad")
	w.onForward = func() {
		if w.creating != 1 {
			t.Errorf("%d creates are known to be under way", w.creating)
		}
	}
	if err := w.create(t, spec(id("bad"), other+":1")); err != nil {
		t.Fatal(err)
	}
}

func TestExemptNamespaceWhenNothingCanBeRecorded(t *testing.T) {
	w := relaxed(newWorld())
	w.recordErr = errors.New("disk full")
	if _, err := w.pull(t, other+":1"); err == nil || len(w.pulled) > 0 {
		t.Errorf("%v: an owner who requires records wants them here too", err)
	}
}

func TestObserveInAnExemptNamespaceChangesNothing(t *testing.T) {
	w := relaxed(newWorld())
	w.observe = true
	w.here(other+":1", "bad")
	if _, err := w.pull(t, other+":1"); err != nil || w.pulled[0].Image.Image != other+":1" {
		t.Errorf("%v, forwarded %v", err, w.pulled)
	}
	if err := w.create(t, spec(other+":1", "")); err != nil || w.created[0].Config.Image.Image != other+":1" {
		t.Errorf("%v, forwarded %v", err, w.created)
	}
	if err := w.create(t, spec("/x.tar", "")); err != nil || w.records[len(w.records)-1].Decision != audit.DecisionDeny {
		t.Errorf("%v, records %+v", err, w.records)
	}
}

// With a real image store behind it: the tag under which prod's signed image goes is pulled anew by an exempt
// namespace while prod's container is being created, and stands for the signed image until that has ended.
func TestExemptPullCannotMoveATagUnderACreate(t *testing.T) {
	c := newChain(t)
	signed, m := c.image(t, app, "signed")
	c.signatures.sign(t, app, m.Digest)
	evil := c.runtime.Manifest(t, c.runtime.Config(t, "unsigned"), nil)
	registry := newWorld()
	registry.tags[app+":1"] = evil.Digest
	c.Gate.o.Resolver = registry
	var err error
	if c.Gate.o.Namespaces, err = namespaces.New(namespaces.Options{Exempt: []string{"sandbox-*"}, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	pulled := make(chan error, 1)
	var asked []string
	create := createRequest(spec(signed, app+":1"))
	_, err = c.CreateContainer(t.Context(), create, func(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
		go func() {
			pull := pullRequest(app + ":1")
			in("sandbox-7", pull.SandboxConfig)
			_, err := c.PullImage(t.Context(), pull, func(_ context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
				asked = append(asked, req.Image.Image)
				c.runtime.Tag(req.Image.Image, evil) // as containerd does: the record of the name that it was given
				return &runtimeapi.PullImageResponse{}, nil
			})
			pulled <- err
		}()
		select {
		case err := <-pulled:
			t.Fatalf("the pull did not wait for the create: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		if got := c.runtime.Record(app + ":1").GetTarget().GetDigest(); got != m.Digest.String() {
			t.Errorf("while the container is created its image's name stands for %s", got)
		}
		return &runtimeapi.CreateContainerResponse{ContainerId: "c"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-pulled; err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{app + "@" + evil.Digest.String()}, asked); diff != "" {
		t.Errorf("containerd was asked to pull (-want +got):\n%s", diff)
	}
	if got := c.runtime.Record(app + ":1").GetTarget().GetDigest(); got != evil.Digest.String() {
		t.Errorf("afterwards the tag stands for %s", got)
	}
	if err := c.create(t, c.runtime.Config(t, "unsigned").Digest.String(), app+":1"); err == nil || !strings.Contains(err.Error(), "prod-signed") {
		t.Errorf("the unsigned image in an enforced namespace: %v", err)
	}
}
