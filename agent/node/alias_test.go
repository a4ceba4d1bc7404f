package node_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cosentry/cosentry/agent/node"
)

func TestAlias(t *testing.T) {
	r := serve(t)
	n := newNode(t, r, node.Auto)
	one, two := r.Manifest(t, r.Config(t, "1"), nil), r.Manifest(t, r.Config(t, "2"), nil)
	r.Pulled(t, app, "", one)
	r.Pulled(t, app, "", two)

	for what, m := range []ocispec.Descriptor{one, two} {
		if err := n.Alias(t.Context(), app+":1", app+"@"+m.Digest.String()); err != nil {
			t.Fatal(err)
		}
		record := r.Record(app + ":1")
		if record.GetTarget().GetDigest() != m.Digest.String() {
			t.Errorf("alias %d: the tag stands for %s, want %s", what, record.GetTarget().GetDigest(), m.Digest)
		}
		if diff := cmp.Diff(map[string]string{"io.cri-containerd.image": "managed"}, record.GetLabels()); diff != "" {
			t.Errorf("alias %d: labels (-want +got):\n%s", what, diff)
		}
		if img := lookup(t, n, app+":1"); !cmp.Equal(digests(img), []digest.Digest{m.Digest}) {
			t.Errorf("alias %d: kubelet would find %v", what, img.Manifests)
		}
	}
}

// containerd takes the bytes of a new container from the record of its image's first name. A record that moves
// before containerd has noticed lets one image be judged and another one run.
func TestAliasNeverMovesATagThatTheRuntimeStillTakesForTheOldImage(t *testing.T) {
	r := serve(t)
	n := newNode(t, r, node.Auto)
	one, two := r.Manifest(t, r.Config(t, "1"), nil), r.Manifest(t, r.Config(t, "2"), nil)
	r.Pulled(t, app, "1", one)
	r.Pulled(t, app, "", two)
	r.Lag(true)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := n.Alias(ctx, app+":1", app+"@"+two.Digest.String()); err == nil {
		t.Error("no error although the runtime never noticed")
	}
	if got := r.Record(app + ":1"); got != nil {
		t.Errorf("the tag stands for %s while the runtime takes it for the old image", got.Target.Digest)
	}
	r.Lag(false)
	r.Untag(app + ":1")
	if err := n.Alias(t.Context(), app+":1", app+"@"+two.Digest.String()); err != nil {
		t.Errorf("once the runtime has noticed: %v", err)
	}
}

func TestAliasWaitsForCreatesUnderWay(t *testing.T) {
	r := serve(t)
	n := newNode(t, r, node.Auto)
	one, two := r.Manifest(t, r.Config(t, "1"), nil), r.Manifest(t, r.Config(t, "2"), nil)
	r.Pulled(t, app, "1", one)
	r.Pulled(t, app, "", two)
	done := n.Creating()
	aliased := make(chan error, 1)
	go func() { aliased <- n.Alias(t.Context(), app+":1", app+"@"+two.Digest.String()) }()
	select {
	case err := <-aliased:
		t.Fatalf("the tag was moved during a create that may have read it: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if got := r.Record(app + ":1").GetTarget().GetDigest(); got != one.Digest.String() {
		t.Errorf("meanwhile the tag stands for %q", got)
	}
	done()
	if err := <-aliased; err != nil {
		t.Fatal(err)
	}
	if got := r.Record(app + ":1").GetTarget().GetDigest(); got != two.Digest.String() {
		t.Errorf("the tag stands for %s", got)
	}
}

func TestAliasOfNoRecordOrAnotherOneFails(t *testing.T) {
	r := serve(t)
	n := newNode(t, r, node.Auto)
	wanted := digest.FromString("judged")
	pinned := app + "@" + wanted.String()
	if err := n.Alias(t.Context(), app+":1", pinned); status.Code(err) != codes.NotFound {
		t.Errorf("no record: %v, want code NotFound", err)
	}
	r.Tag(pinned, r.Manifest(t, r.Config(t, "unsigned"), nil))
	if err := n.Alias(t.Context(), app+":1", pinned); err == nil {
		t.Error("the tag was made to stand for what was not judged")
	}
	if got := r.Record(app + ":1"); got != nil {
		t.Errorf("a tag was left behind: %v", got)
	}
}

// A create that takes its time costs the move of a tag, neither the tag nor the tags of other images.
func TestASlowCreateTakesNoTagAway(t *testing.T) {
	r := serve(t)
	n := newNode(t, r, node.Auto)
	one, two := r.Manifest(t, r.Config(t, "1"), nil), r.Manifest(t, r.Config(t, "2"), nil)
	r.Pulled(t, app, "1", one)
	r.Pulled(t, app, "", two)
	defer n.Creating()()
	pinned := app + "@" + two.Digest.String()
	if err := n.Alias(t.Context(), app+":fresh", pinned); err != nil {
		t.Errorf("a tag that stood for nothing: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := n.Alias(ctx, app+":1", pinned); err == nil {
		t.Error("the tag was moved during a create that may have read it")
	}
	if got := r.Record(app + ":1").GetTarget().GetDigest(); got != one.Digest.String() {
		t.Errorf("the tag stands for %q, want what it stood for", got)
	}
}
