package node_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/agent/node/nodetest"
)

func TestImageOfSandboxesIsFound(t *testing.T) {
	const pause, other, old = "registry.example/pause:3.10", "registry.example/agent:1", "registry.example/pause:3.8"
	for name, tc := range map[string]struct {
		told nodetest.Sandboxes
		want []string
	}{
		"in the settings, as containerd before 2.0 and CRI-O tell them": {nodetest.Sandboxes{Settings: pause}, []string{pause}},
		"settings before what was used under older ones":                {nodetest.Sandboxes{Settings: pause, Made: []string{old}, Pinned: []string{other}}, []string{pause}},
		"among the pinned images":                                       {nodetest.Sandboxes{Pinned: []string{pause}}, []string{pause}},
		"in the newest sandbox":                                         {nodetest.Sandboxes{Made: []string{old, other, pause}}, []string{pause}},
		"pinned and used: once":                                         {nodetest.Sandboxes{Made: []string{pause}, Pinned: []string{pause}}, []string{pause}},
		// A pod that ends at the wrong moment must not have another one refused.
		"the newest sandbox ended since":  {nodetest.Sandboxes{Made: []string{old, pause, other}, Ended: []string{other}}, []string{pause}},
		"all sandboxes ended since: none": {nodetest.Sandboxes{Made: []string{old, other}, Ended: []string{other, old}}, nil},
		// Which of them the next sandbox is made of cannot be told.
		"another was pinned since": {nodetest.Sandboxes{Made: []string{old}, Pinned: []string{pause}}, []string{old, pause}},
		"a node that is new: none": {nodetest.Sandboxes{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := serve(t)
			for i, image := range []string{"registry.example/pause", "registry.example/agent"} {
				r.Pulled(t, image, []string{"3.10", "1"}[i], r.Manifest(t, r.Config(t, image), nil))
			}
			r.SetSandboxes(tc.told)
			got, err := newNode(t, r, node.Auto).SandboxImages(t.Context())
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Errorf("%v, -want +got:\n%s", err, diff)
			}
		})
	}
}

// An owner who pins his whole registry would have every pod wait for hundreds of verdicts.
func TestPinnedImagesWithoutNumberAreNotLookedAt(t *testing.T) {
	r := serve(t)
	var pinned []string
	for i := range 17 {
		name := fmt.Sprintf("registry.example/app%d", i)
		r.Pulled(t, name, "1", r.Manifest(t, r.Config(t, name), nil))
		pinned = append(pinned, name+":1")
	}
	r.SetSandboxes(nodetest.Sandboxes{Pinned: pinned})
	if names, err := newNode(t, r, node.Auto).SandboxImages(t.Context()); err == nil {
		t.Errorf("%d names", len(names))
	}
}
