package host_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/systemd/manager"
)

// stuck is the world's systemd, in which the restart of a kubelet that goes to its runtime again never ends. Like the real one it does
// nothing for who waits no longer.
type stuck struct {
	*world
	waited int
}

func (s *stuck) Restart(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if name != "kubelet.service" || s.read(kubeletConfig) != delivered {
		return s.world.Restart(ctx, name)
	}
	s.waited++
	select {
	case <-ctx.Done():
	case <-time.After(time.Minute): // or this test would hang as well
		s.t.Error("an undo that hangs is waited for")
	}
	return ctx.Err()
}

func (s *stuck) Stop(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.world.Stop(ctx, name)
}

func (s *stuck) Disable(ctx context.Context, names ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.world.Disable(ctx, names...)
}

func (s *stuck) Reload(ctx context.Context) error { return ctx.Err() }

func (s *stuck) Unit(ctx context.Context, name string) (manager.Unit, error) {
	if err := ctx.Err(); err != nil {
		return manager.Unit{}, err
	}
	return s.world.Unit(ctx, name)
}

// TestUndoThatHangsEndsAndSaysWhatIsLeft: who waits for an installation that failed gets an answer, which does not say that all is as it
// was; files are as they were, and the next installation is not in the way of what was left.
func TestUndoThatHangsEndsAndSaysWhatIsLeft(t *testing.T) {
	w := newWorld(t)
	w.kubeletDies = ourSocket
	s := &stuck{world: w}
	err := w.install("v1", func(o *host.Options) { o.Systemd, o.Undo = s, 300*time.Millisecond })
	if err == nil || s.waited != 1 {
		t.Fatalf("%v, after %d restarts that hang\n%s", err, s.waited, &w.out)
	}
	_, left, _ := strings.Cut(err.Error(), "; and not all could be put back: ")
	for _, what := range []string{"kubelet: ", "agent: ", "enabling: "} {
		if !strings.Contains(left, what) {
			t.Errorf("it does not say that %swas not put back: %v", what, err)
		}
	}
	if got := w.read(kubeletConfig); got != delivered {
		t.Errorf("kubelet's settings were not put back:\n%s", got)
	}
	w.kubeletDies = ""
	must(t, w.install("v1"))
	w.wantInstalled("v1")
}
