package integration

import (
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/cosentry/cosentry/integration/harness"
)

// TestPolicyReloadUnderLoad changes the policy between two keys, and to a
// broken file, while pulls are judged all the time. No moment accepts what
// none of the policies accepts, none fails for another reason than a
// signature, and when a policy is in force verdicts of the one before are not.
func TestPolicyReloadUnderLoad(t *testing.T) {
	w := newWorld(t, nil)
	other, err := harness.NewKey()
	must(t, err)
	w.pushSigned("release:1", "release")
	digest := w.push("other:1", "other")
	must(t, other.SignBundle(t.Context(), w.Registry, digest))
	w.push("unsigned:1", "unsigned")
	pod := w.pod()

	stop := make(chan struct{})
	var load sync.WaitGroup
	var judged atomic.Int64
	var allowed [2]atomic.Int64
	for i, image := range []string{"release:1", "other:1", "unsigned:1", "release:1", "other:1", "unsigned:1"} {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, err := w.kubelet.Pull(t.Context(), pod, w.image(image), nil)
				judged.Add(1)
				switch {
				case err == nil && image == "unsigned:1":
					t.Error("an unsigned image was allowed")
				case err == nil:
					allowed[i%3].Add(1)
				case !strings.HasPrefix(status.Convert(err).Message(), harness.Refused):
					t.Errorf("%s: %v", image, err)
				}
			}
		})
	}
	keys := []struct {
		key          *harness.Key
		runs, refuse string
	}{{other, "other:1", "release:1"}, {w.release, "release:1", "other:1"}}
	for round := range 10 {
		k := keys[round%2]
		must(t, w.agent.WritePolicy("signed.yaml", w.policy("signed", k.key)))
		if round%3 == 0 {
			must(t, w.agent.Signal(syscall.SIGHUP))
		}
		must(t, harness.Until(10*time.Second, "the changed policy to be in force", func() bool {
			_, runs := w.kubelet.Pull(t.Context(), pod, w.image(k.runs), nil)
			return runs == nil
		}))
		// In force for one is in force for all.
		_, err := w.kubelet.Pull(t.Context(), pod, w.image(k.refuse), nil)
		wantRefused(t, err, "release-key")
		must(t, w.agent.WritePolicy("broken.yaml", "kind: ["))
		_, err = w.kubelet.Pull(t.Context(), pod, w.image(k.refuse), nil)
		wantRefused(t, err)
		must(t, w.agent.WritePolicy("broken.yaml", ""))
	}
	close(stop)
	load.Wait()
	if allowed[0].Load() == 0 || allowed[1].Load() == 0 {
		t.Error("the load never saw both policies in force")
	}
	t.Logf("%d pulls were judged meanwhile", judged.Load())
	w.wantAbsent(t, w.image("unsigned:1"))
}
