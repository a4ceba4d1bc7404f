package node_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/agent/node/nodetest"
)

// watch follows the runtime until the test ends; the function it returns waits for its end.
func watch(t *testing.T, n *node.Node) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Watch(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

func remembered(t *testing.T, n *node.Node, ref string) bool {
	t.Helper()
	_, cached, err := n.Lookup(t.Context(), &runtimeapi.ImageSpec{Image: ref}, "", false)
	if err != nil {
		t.Fatal(err)
	}
	return cached
}

// pulled is a runtime with one image.
func pulled(t *testing.T) (r *nodetest.Runtime, id string, manifest ocispec.Descriptor) {
	t.Helper()
	r = nodetest.New(t)
	manifest = r.Manifest(t, r.Config(t, "a"), nil)
	return r, r.Pulled(t, app, "1", manifest), manifest
}

func TestNothingIsRememberedWithoutWatch(t *testing.T) {
	r, id, _ := pulled(t)
	r.Serve(t)
	n := newNode(t, r, node.Auto)
	for range 3 {
		if remembered(t, n, id) {
			t.Fatal("answered from memory, though nobody would tell of a change")
		}
	}
}

func TestIDsAreRememberedAndNamesAreNot(t *testing.T) {
	r, id, manifest := pulled(t)
	r.Serve(t)
	n := newNode(t, r, node.Auto)
	watch(t, n)
	eventually(t, "a remembered look-up", func() bool { return remembered(t, n, id) })

	before := r.Calls("ImageStatus")
	if img := lookup(t, n, id); img.ID != id || !cmp.Equal(digests(img), []digest.Digest{manifest.Digest}) {
		t.Errorf("remembered %+v", img)
	}
	if got := r.Calls("ImageStatus"); got != before {
		t.Error("the runtime was asked for what is remembered")
	}
	for range 3 {
		if remembered(t, n, app+":1") {
			t.Fatal("a tag was remembered: it may stand for something else by now")
		}
	}
	if _, cached, err := n.Lookup(t.Context(), &runtimeapi.ImageSpec{Image: id}, "", true); err != nil || cached {
		t.Errorf("a fresh look-up came from memory: %v, %v", cached, err)
	}
	if _, cached, err := n.Lookup(t.Context(), &runtimeapi.ImageSpec{Image: id, RuntimeHandler: "kata"}, "", false); err != nil || cached {
		t.Errorf("another runtime handler was answered from memory: %v, %v", cached, err)
	}
}

func TestAnImageEventForgets(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, r *nodetest.Runtime, m ocispec.Descriptor){
		"a new name":     func(_ *testing.T, r *nodetest.Runtime, m ocispec.Descriptor) { r.Tag(app+":2", m) },
		"a deleted name": func(_ *testing.T, r *nodetest.Runtime, _ ocispec.Descriptor) { r.Untag(app + ":1") },
		"a moved name": func(t *testing.T, r *nodetest.Runtime, _ ocispec.Descriptor) {
			r.Tag(app+":1", r.Manifest(t, r.Config(t, "b"), nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, id, manifest := pulled(t)
			r.Serve(t)
			n := newNode(t, r, node.Auto)
			watch(t, n)
			eventually(t, "a remembered look-up", func() bool { return remembered(t, n, id) })
			before := len(lookup(t, n, id).Names)
			change(t, r, manifest)
			eventually(t, "the change to be seen", func() bool { return len(lookup(t, n, id).Names) != before })
		})
	}
}

// The stream is open long before the server takes the subscription. What changes in between is
// never told.
func TestNothingIsRememberedBeforeTheSubscriptionIsTaken(t *testing.T) {
	r, id, _ := pulled(t)
	r.HoldSubscriptions = make(chan struct{})
	r.Serve(t)
	n := newNode(t, r, node.Auto)
	watch(t, n)
	eventually(t, "a few marks to be lost", func() bool {
		if remembered(t, n, id) {
			t.Fatal("remembered, though no event would come")
		}
		return r.Calls("Publish") >= 3
	})
	close(r.HoldSubscriptions)
	eventually(t, "a remembered look-up", func() bool { return remembered(t, n, id) })
}

func TestABrokenStreamForgets(t *testing.T) {
	r, id, _ := pulled(t)
	r.Serve(t)
	n := newNode(t, r, node.Auto)
	watch(t, n)
	eventually(t, "a remembered look-up", func() bool { return remembered(t, n, id) })

	r.Stop()
	eventually(t, "the memory to be off", func() bool {
		_, cached, _ := n.Lookup(t.Context(), &runtimeapi.ImageSpec{Image: id}, "", false)
		return !cached
	})
	r.Untag(app + ":1") // while nobody listens
	r.Serve(t)
	eventually(t, "a remembered look-up after the runtime's return", func() bool {
		img, cached, _ := n.Lookup(t.Context(), &runtimeapi.ImageSpec{Image: id}, "", false)
		return cached && len(img.Names) == 1
	})
}

func TestTheEndOfWatchForgets(t *testing.T) {
	r, id, _ := pulled(t)
	r.Serve(t)
	n := newNode(t, r, node.Auto)
	stop := watch(t, n)
	eventually(t, "a remembered look-up", func() bool { return remembered(t, n, id) })
	stop()
	for range 3 {
		if remembered(t, n, id) {
			t.Fatal("answered from memory after the end of Watch")
		}
	}
}

func TestOtherRuntimesAreNotWatched(t *testing.T) {
	r, id, _ := pulled(t)
	r.Name = "cri-o"
	r.Serve(t)
	n := newNode(t, r, node.Auto)
	n.Watch(t.Context()) // returns by itself
	for range 3 {
		if remembered(t, n, id) {
			t.Fatal("answered from memory, though this runtime tells of no change")
		}
	}
	if got := r.Calls("Subscribe"); got != 0 {
		t.Errorf("subscribed %d times", got)
	}
}
