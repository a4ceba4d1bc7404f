package node_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/agent/node/nodetest"
)

const app = "registry.example/team/app"

func serve(t *testing.T) *nodetest.Runtime {
	t.Helper()
	r := nodetest.New(t)
	r.Serve(t)
	return r
}

func newNode(t *testing.T, r *nodetest.Runtime, kind node.Type) *node.Node {
	t.Helper()
	n, err := node.New(r.Dial(t), kind, nodetest.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func lookup(t *testing.T, n *node.Node, ref string) node.Image {
	t.Helper()
	img, _, err := n.Lookup(t.Context(), &runtimeapi.ImageSpec{Image: ref}, "", false)
	if err != nil {
		t.Fatalf("Lookup(%q): %v", ref, err)
	}
	return img
}

func digests(img node.Image) []digest.Digest {
	var all []digest.Digest
	for _, m := range img.Manifests {
		all = append(all, m.Digest)
	}
	slices.Sort(all)
	return all
}

func sorted(descs ...ocispec.Descriptor) []digest.Digest {
	var all []digest.Digest
	for _, d := range descs {
		all = append(all, d.Digest)
	}
	slices.Sort(all)
	return all
}

func TestManifestsAreThoseWhoseConfigIsTheImage(t *testing.T) {
	for name, tc := range map[string]struct {
		// prepare returns what to look up, and the digests that are proof about it.
		prepare    func(t *testing.T, r *nodetest.Runtime) (ref string, want []digest.Digest)
		checkpoint bool
	}{
		"a pull by tag, looked up by ID": {prepare: func(t *testing.T, r *nodetest.Runtime) (string, []digest.Digest) {
			m := r.Manifest(t, r.Config(t, "a"), nil)
			return r.Pulled(t, app, "1", m), sorted(m)
		}},
		"a pull by tag, looked up by name": {prepare: func(t *testing.T, r *nodetest.Runtime) (string, []digest.Digest) {
			m := r.Manifest(t, r.Config(t, "a"), nil)
			r.Pulled(t, app, "1", m)
			return app + ":1", sorted(m)
		}},
		"an index is the thing that is signed, not the manifest in it": {prepare: func(t *testing.T, r *nodetest.Runtime) (string, []digest.Digest) {
			index := r.Index(t, nil, r.Manifest(t, r.Config(t, "a"), nil))
			return r.Pulled(t, app, "1", index), sorted(index)
		}},
		"two manifests with one config": {prepare: func(t *testing.T, r *nodetest.Runtime) (string, []digest.Digest) {
			config := r.Config(t, "a")
			one, two := r.Manifest(t, config, nil), r.Manifest(t, config, map[string]string{"a": "b"})
			r.Pulled(t, app, "1", one)
			return r.Pulled(t, "other.example/app", "", two), sorted(one, two)
		}},
		"imported by hand: no repo digest, but a record": {prepare: func(t *testing.T, r *nodetest.Runtime) (string, []digest.Digest) {
			config := r.Config(t, "a")
			m := r.Manifest(t, config, nil)
			r.Tag(app+":1", m)
			return config.Digest.String(), sorted(m)
		}},
		"imported by hand with nothing but the record named by its ID": {prepare: func(t *testing.T, r *nodetest.Runtime) (string, []digest.Digest) {
			config := r.Config(t, "a")
			m := r.Manifest(t, config, nil)
			r.Tag(config.Digest.String(), m)
			return config.Digest.String(), sorted(m)
		}},
		"a record that calls itself by a signed digest proves nothing": {prepare: func(t *testing.T, r *nodetest.Runtime) (string, []digest.Digest) {
			signed := digest.FromString("a signed manifest")
			config := r.Config(t, "unsigned")
			m := r.Manifest(t, config, nil)
			r.Tag(app+"@"+signed.String(), m)
			return config.Digest.String(), sorted(m)
		}},
		"a record whose content is gone proves nothing": {prepare: func(t *testing.T, r *nodetest.Runtime) (string, []digest.Digest) {
			config := r.Config(t, "a")
			here, gone := r.Manifest(t, config, nil), r.Manifest(t, config, map[string]string{"a": "b"})
			r.Tag(app+":gone", gone)
			r.Tag(app+":here", here)
			r.Drop(t, gone)
			return config.Digest.String(), sorted(here)
		}},
		"no manifest at all": {prepare: func(t *testing.T, r *nodetest.Runtime) (string, []digest.Digest) {
			config := r.Config(t, "a")
			m := r.Manifest(t, config, nil)
			r.Tag(app+":1", m)
			r.Drop(t, m)
			return config.Digest.String(), nil
		}},
		"a name that is deleted while it is looked up": {prepare: func(t *testing.T, r *nodetest.Runtime) (string, []digest.Digest) {
			m := r.Manifest(t, r.Config(t, "a"), nil)
			id := r.Pulled(t, app, "1", m)
			r.Lag(true)
			r.Untag(app + ":1")
			return id, sorted(m)
		}},
		"a checkpoint by its manifest": {checkpoint: true, prepare: func(t *testing.T, r *nodetest.Runtime) (string, []digest.Digest) {
			m := r.Manifest(t, r.Config(t, "a"), map[string]string{"org.criu.checkpoint.container.name": "x"})
			return r.Pulled(t, app, "1", m), sorted(m)
		}},
		"a checkpoint by its index": {checkpoint: true, prepare: func(t *testing.T, r *nodetest.Runtime) (string, []digest.Digest) {
			index := r.Index(t, map[string]string{"org.criu.checkpoint.container.name": "x"}, r.Manifest(t, r.Config(t, "a"), nil))
			return r.Pulled(t, app, "1", index), sorted(index)
		}},
		"a checkpoint of CRI-O's making": {checkpoint: true, prepare: func(t *testing.T, r *nodetest.Runtime) (string, []digest.Digest) {
			m := r.Manifest(t, r.Config(t, "a"), map[string]string{"io.kubernetes.cri-o.annotations.checkpoint.name": "x"})
			return r.Pulled(t, app, "1", m), sorted(m)
		}},
		"one checkpoint among the manifests is enough": {checkpoint: true, prepare: func(t *testing.T, r *nodetest.Runtime) (string, []digest.Digest) {
			config := r.Config(t, "a")
			plain, checkpoint := r.Manifest(t, config, nil), r.Manifest(t, config, map[string]string{"org.criu.checkpoint.container.name": "x"})
			r.Pulled(t, app, "1", checkpoint)
			return r.Pulled(t, app, "2", plain), sorted(plain, checkpoint)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := serve(t)
			ref, want := tc.prepare(t, r)
			img := lookup(t, newNode(t, r, node.Auto), ref)
			if diff := cmp.Diff(want, digests(img)); diff != "" {
				t.Errorf("manifests (-want +got):\n%s", diff)
			}
			if img.Checkpoint != tc.checkpoint {
				t.Errorf("checkpoint: %v, want %v", img.Checkpoint, tc.checkpoint)
			}
		})
	}
}

// containerd finds an image by ID and then reads the record of one of its names: whoever moves
// that record behind the CRI plugin's back has other bytes run than those that the ID stands for.
func TestRecordThatHoldsOtherContentIsAnError(t *testing.T) {
	for name, moved := range map[string]func(id string) string{
		"the tag": func(string) string { return app + ":1" },
		"the record named by the ID, from which image volumes are mounted": func(id string) string { return id },
	} {
		t.Run(name, func(t *testing.T) {
			r := serve(t)
			signed := r.Manifest(t, r.Config(t, "signed"), nil)
			id := r.Pulled(t, app, "1", signed)
			n := newNode(t, r, node.Auto)
			lookup(t, n, id)

			r.Lag(true)
			r.Tag(moved(id), r.Manifest(t, r.Config(t, "unsigned"), nil))
			img, _, err := n.Lookup(t.Context(), &runtimeapi.ImageSpec{Image: id}, "", false)
			if err == nil || !strings.Contains(err.Error(), "stands for another image") {
				t.Fatalf("got %+v, %v; want an error that says what is wrong", img, err)
			}
		})
	}
}

func TestNotPresent(t *testing.T) {
	r := serve(t)
	r.Pulled(t, app, "1", r.Manifest(t, r.Config(t, "a"), nil))
	n := newNode(t, r, node.Auto)
	for _, ref := range []string{app + ":2", "busybox", digest.FromString("x").String(), app + "@" + digest.FromString("x").String()} {
		if _, _, err := n.Lookup(t.Context(), &runtimeapi.ImageSpec{Image: ref}, "", false); !errors.Is(err, node.ErrNotPresent) {
			t.Errorf("Lookup(%q): %v, want ErrNotPresent", ref, err)
		}
	}
}

// Whoever may pull can give a copy of somebody's image any number of names. It must neither keep the image from being
// looked up nor push its own repository's manifest out of what is found.
func TestNamesByTheHundredHideNothing(t *testing.T) {
	r := serve(t)
	config := r.Config(t, "a")
	theirs, own := r.Manifest(t, config, map[string]string{"copied": "by a stranger"}), r.Manifest(t, config, nil)
	id := r.Pulled(t, app, "", own)
	for i := range 300 {
		r.Tag(fmt.Sprintf("a.example/copy:%d", i), theirs)
	}
	n := newNode(t, r, node.Auto)
	img, _, err := n.Lookup(t.Context(), &runtimeapi.ImageSpec{Image: id}, app, false)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(digests(img), own.Digest) {
		t.Errorf("found %v, and not %s of the repository asked for", digests(img), own.Digest)
	}
	if calls := r.Calls("/containerd.services.images.v1.Images/Get"); calls > 100 {
		t.Errorf("%d records were looked up", calls)
	}
}

func TestRuntimeDownIsAnErrorWithItsCode(t *testing.T) {
	for _, kind := range []node.Type{node.Auto, node.Containerd, node.CRI} {
		t.Run(string(kind), func(t *testing.T) {
			r := nodetest.New(t)
			n := newNode(t, r, kind)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			img, _, err := n.Lookup(ctx, &runtimeapi.ImageSpec{Image: app + ":1"}, "", false)
			if status.Code(err) != codes.Unavailable {
				t.Errorf("Lookup: %+v, %v; want code Unavailable", img, err)
			}
			if err := n.Remove(ctx, app+":1"); status.Code(err) != codes.Unavailable {
				t.Errorf("Remove: %v; want code Unavailable", err)
			}
			if err := n.Alias(ctx, app+":1", app+"@"+digest.FromString("x").String()); status.Code(err) != codes.Unavailable {
				t.Errorf("Alias: %v; want code Unavailable", err)
			}
		})
	}
}

func TestTypeIsAskedOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		setting, want node.Type
		asked         int
	}{
		"containerd":                  {node.Auto, node.Containerd, 1},
		"cri-o":                       {node.Auto, node.CRI, 1},
		"containerd, by the settings": {node.Containerd, node.Containerd, 0},
		"other, by the settings":      {node.CRI, node.CRI, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := nodetest.New(t)
			r.Name = name
			r.Serve(t)
			n := newNode(t, r, tc.setting)
			for range 3 {
				got, err := n.Type(t.Context())
				if err != nil || got != tc.want {
					t.Fatalf("Type: %v, %v; want %v", got, err, tc.want)
				}
				if can, err := n.CanAlias(t.Context()); err != nil || can != (tc.want == node.Containerd) {
					t.Fatalf("CanAlias: %v, %v", can, err)
				}
			}
			if got := r.Calls("Version"); got != tc.asked {
				t.Errorf("the runtime was asked %d times, want %d", got, tc.asked)
			}
		})
	}
}

func TestTypeIsAskedAgainAfterAFailure(t *testing.T) {
	r := nodetest.New(t)
	n := newNode(t, r, node.Auto)
	if kind, err := n.Type(t.Context()); err == nil {
		t.Fatalf("a runtime that is not there is a %v", kind)
	}
	r.Serve(t)
	eventually(t, "the runtime's type", func() bool {
		kind, err := n.Type(t.Context())
		return err == nil && kind == node.Containerd
	})
}

func TestOtherRuntimesAreTakenAtTheirRepoDigests(t *testing.T) {
	r := nodetest.New(t)
	r.Name = "cri-o"
	r.Serve(t)
	m := r.Manifest(t, r.Config(t, "a"), nil)
	id := r.Pulled(t, app, "1", m)
	byHand := r.Config(t, "b")
	r.Tag(app+":2", r.Manifest(t, byHand, nil))

	n := newNode(t, r, node.Auto)
	img := lookup(t, n, id)
	if diff := cmp.Diff([]digest.Digest{m.Digest}, digests(img)); diff != "" {
		t.Errorf("manifests (-want +got):\n%s", diff)
	}
	if img := lookup(t, n, byHand.Digest.String()); len(img.Manifests) != 0 {
		t.Errorf("an image without repo digests has manifests %v", img.Manifests)
	}
	if got := r.Calls("Get"); got != 0 {
		t.Errorf("containerd's own API was called %d times", got)
	}
	r.Annotations = map[string]string{"org.criu.checkpoint.container.name": "x"}
	if !lookup(t, n, id).Checkpoint {
		t.Error("a checkpoint that the runtime tells of is not known as one")
	}
}

func TestRemove(t *testing.T) {
	r := nodetest.New(t)
	r.Name = "cri-o"
	r.Serve(t)
	r.Pulled(t, app, "1", r.Manifest(t, r.Config(t, "a"), nil))
	if err := newNode(t, r, node.Auto).Remove(t.Context(), app+":1"); err != nil {
		t.Fatal(err)
	}
	if r.Record(app+":1") != nil {
		t.Error("the name is still there")
	}
}

func TestIsID(t *testing.T) {
	hex := digest.FromString("x").Encoded()
	for ref, want := range map[string]bool{
		"sha256:" + hex:                  true,
		hex:                              true, // CRI-O's form
		"sha256:" + hex[:12]:             false,
		hex[:12]:                         false,
		"sha256:" + strings.ToUpper(hex): false,
		"sha256:" + hex[:63] + "g":       false,
		"sha256:sha256:" + hex:           false,
		"sha512:" + hex + hex:            false,
		app + "@sha256:" + hex:           false,
		hex + "0":                        false,
		hex + "\n":                       false,
		"":                               false,
	} {
		if got := node.IsID(ref); got != want {
			t.Errorf("IsID(%q) = %v", ref, got)
		}
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		pollPause()
	}
}

// pollPause is the time between two looks at a condition.
func pollPause() { <-time.After(time.Millisecond) }
