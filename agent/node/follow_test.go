package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/google/go-cmp/cmp"
)

// deaf is a containerd that takes events and gives none out.
type deaf struct {
	hangs bool // it does not even take them
	marks []time.Time
}

func (d *deaf) Publish(ctx context.Context, _ string, _ events.Event) error {
	d.marks = append(d.marks, time.Now())
	if d.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (d *deaf) Subscribe(context.Context, ...string) (<-chan *events.Envelope, <-chan error) {
	return nil, nil
}

func (d *deaf) Forward(context.Context, *events.Envelope) error { return nil }

func (d *deaf) store(t *testing.T) *containerdStore {
	t.Helper()
	c, err := containerd.New("", containerd.WithServices(containerd.WithEventService(d)))
	if err != nil {
		t.Fatal(err)
	}
	return &containerdStore{client: c, namespace: "k8s.io"}
}

// Times are those of a clock that the test has for itself.
func TestWhereEventsNeverComeMarksBecomeRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 27*time.Second)
		defer cancel()
		d, begun := &deaf{}, time.Now()
		d.store(t).follow(ctx, newLookups())
		var after []time.Duration
		for _, at := range d.marks {
			after = append(after, at.Sub(begun).Round(time.Millisecond))
		}
		want := []time.Duration{50, 150, 350, 750, 1550, 3150, 6350, 11350, 16350, 21350, 26350}
		for i := range want {
			want[i] *= time.Millisecond
		}
		if diff := cmp.Diff(want, after); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

func TestAMarkThatIsNotTakenDoesNotHoldUpTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, begun := &deaf{hangs: true}, time.Now()
		d.store(t).follow(t.Context(), newLookups())
		if took := time.Since(begun); took != markSoon+markTimeout || len(d.marks) != 1 {
			t.Errorf("followed for %s, with %d marks", took, len(d.marks))
		}
	})
}
