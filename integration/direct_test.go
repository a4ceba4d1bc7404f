package integration

import (
	"testing"

	"github.com/cosentry/cosentry/integration/harness"
)

func TestDirect(t *testing.T) {
	tools, err := harness.FindTools()
	if err != nil {
		t.Fatal(err)
	}
	n, err := harness.NewNode(t.Context(), tools)
	if err != nil {
		t.Fatal(err)
	}
	img, _ := n.Images.Saying("hello")
	d, err := n.Registry.Push("app:1", img)
	if err != nil {
		t.Fatal(err)
	}
	key, err := harness.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := key.SignClassic(t.Context(), n.Registry, d); err != nil {
		t.Fatal(err)
	}
	if err := key.SignBundle(t.Context(), n.Registry, d); err != nil {
		t.Fatal(err)
	}
	for _, net := range []bool{false, true} {
		pod, err := n.Direct.RunPod(t.Context(), "p", net)
		if err != nil {
			t.Fatal(err, n.Logs())
		}
		out, err := n.Direct.Run(t.Context(), pod, harness.Container{Name: "c", Image: n.Registry.Addr + "/app:1"})
		t.Log(out, err)
		if err != nil {
			t.Fatal(n.Logs())
		}
	}
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
