package integration

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cosentry/cosentry/integration/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Isolated(m.Run)) }

// world is a node with cosentry in front of its containerd, and a policy that
// asks for release's signature on everything from the node's registry.
type world struct {
	*harness.Node
	t       testing.TB
	agent   *harness.Cosentry
	kubelet *harness.Kubelet
	release *harness.Key
	pods    int
}

// newNode starts a node without cosentry. What is missing on the machine fails the test.
func newNode(t testing.TB, tools ...string) *harness.Node {
	t.Helper()
	found, err := harness.FindTools(tools...)
	must(t, err)
	node, err := harness.NewNode(t.Context(), found)
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			t.Log(node.Logs())
		}
		if err := node.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return node
}

// newWorld starts a node with cosentry. At the end of the test the audit log
// must be intact. edit may change the settings before cosentry is started.
func newWorld(t testing.TB, edit func(*world, *harness.Settings)) *world {
	t.Helper()
	w := &world{Node: newNode(t), t: t}
	var err error
	w.release, err = harness.NewKey()
	must(t, err)
	s := harness.Settings{Policies: map[string]string{"signed.yaml": w.policy("signed", w.release)}}
	if edit != nil {
		edit(w, &s)
	}
	w.agent, w.kubelet, err = w.Cosentry(s)
	must(t, err)
	t.Cleanup(func() { // runs before the node's
		output, code, err := w.agent.Command(context.Background(), "audit", "verify", "--dir", w.agent.AuditDir)
		if err != nil || code != 0 {
			t.Errorf("cosentry audit verify: exit code %d, %v\n%s", code, err, output)
		}
	})
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// policy asks for key's signature on every image of the node's registry.
func (w *world) policy(name string, key *harness.Key) string {
	return harness.KeyPolicy(name, w.Registry.Addr+"/**", key.PublicPEM)
}

// image is path in the node's registry.
func (w *world) image(path string) string { return w.Registry.Addr + "/" + path }

// push makes and pushes an unsigned image that prints words.
func (w *world) push(path, words string) name.Digest {
	w.t.Helper()
	img, err := w.Images.Saying(words)
	must(w.t, err)
	digest, err := w.Registry.Push(path, img)
	must(w.t, err)
	return digest
}

// pushSigned pushes an image with a classic signature by the release key.
func (w *world) pushSigned(path, words string) name.Digest {
	w.t.Helper()
	digest := w.push(path, words)
	must(w.t, w.release.SignClassic(w.t.Context(), w.Registry, digest))
	return digest
}

// pullAround puts an image on the node through containerd's own socket.
func (w *world) pullAround(image string) string {
	w.t.Helper()
	ref, err := w.Direct.Pull(w.t.Context(), &harness.Pod{}, image, nil)
	must(w.t, err)
	return ref
}

// pod starts a sandbox on the host's network through cosentry. It goes with the node.
func (w *world) pod() *harness.Pod {
	w.t.Helper()
	w.pods++
	pod, err := w.kubelet.RunPod(w.t.Context(), fmt.Sprintf("pod%d", w.pods), false)
	must(w.t, err)
	return pod
}

// run runs a container in a pod of its own.
func (w *world) run(c harness.Container) (harness.Outcome, error) {
	w.t.Helper()
	if c.Name == "" {
		c.Name = "main"
	}
	return w.kubelet.Run(w.t.Context(), w.pod(), c)
}

// wantRun runs image and expects that it prints words.
func (w *world) wantRun(t testing.TB, image, words string) harness.Outcome {
	t.Helper()
	out, err := w.run(harness.Container{Image: image})
	if err != nil {
		t.Fatalf("%s should run: %v", image, err)
	}
	if out.Output != words {
		t.Fatalf("%s printed %q, want %q", image, out.Output, words)
	}
	return out
}

// wantRefused expects the refusal that kubelet understands, with every one of
// the words in it.
func wantRefused(t *testing.T, err error, words ...string) {
	t.Helper()
	wantError(t, err, harness.Refused, words...)
}

func wantUnavailable(t *testing.T, err error, words ...string) {
	t.Helper()
	wantError(t, err, harness.Unavailable, words...)
}

func wantError(t testing.TB, err error, prefix string, words ...string) {
	t.Helper()
	s := status.Convert(err)
	if err == nil {
		t.Fatalf("allowed, want a refusal that begins with %q", prefix)
	}
	if s.Code() != codes.Unknown || !strings.HasPrefix(s.Message(), prefix) {
		t.Fatalf("got code %s, message %q; want code Unknown and a message that begins with %q", s.Code(), s.Message(), prefix)
	}
	if len(s.Message()) > 1024 {
		t.Errorf("the message has %d bytes, want at most 1024: %s", len(s.Message()), s.Message())
	}
	for _, word := range words {
		if !strings.Contains(s.Message(), word) {
			t.Errorf("message %q does not say %q", s.Message(), word)
		}
	}
}

// wantAbsent expects that the runtime does not have the image.
func (w *world) wantAbsent(t *testing.T, image string) {
	t.Helper()
	id, err := w.Direct.Present(t.Context(), image)
	must(t, err)
	if id != "" {
		t.Errorf("%s is on the node as %s, want it not to be pulled", image, id)
	}
}

// lastRecord is the newest record of the audit log about image.
func (w *world) lastRecord(t *testing.T, image string) map[string]any {
	t.Helper()
	records, err := w.agent.Records()
	must(t, err)
	for i := len(records) - 1; i >= 0; i-- {
		if records[i]["image"] == image {
			return records[i]
		}
	}
	t.Fatalf("the audit log has no record about %s", image)
	return nil
}

// wantRecord expects the newest record about image to say so.
func (w *world) wantRecord(t *testing.T, image, action, decision string) {
	t.Helper()
	record := w.lastRecord(t, image)
	if record["action"] != action || record["decision"] != decision {
		t.Errorf("the record about %s says %v %v, want %s %s: %v", image, record["action"], record["decision"], action, decision, record)
	}
}
