package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
)

// TestImagesAskedAboutAtOnce: the bounds on one image bound the memory of a node only if images are few. One that has
// to wait for its place does so no longer than its time, and is neither allowed nor refused then.
func TestImagesAskedAboutAtOnce(t *testing.T) {
	most := int(limits.RegistryQuestions.Max())
	asked, answer := make(chan struct{}, 2*most), make(chan struct{})
	s := &source{fetch: func(context.Context, string, digest.Digest, evidence.Credentials) (*evidence.Evidence, error) {
		asked <- struct{}{}
		<-answer
		return found(classicFor("P-256", appDigest)), nil
	}}
	o := testOptions(s)
	o.FetchTimeout = 500 * time.Millisecond
	v := newVerifierWith(t, o, byKey("P-256"))
	var all sync.WaitGroup
	for i := range most {
		all.Go(func() {
			other := appSubject()
			other.Image += fmt.Sprint(i)
			if got, err := v.Verify(context.Background(), other); err != nil || !got.Allowed {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	for range most {
		select {
		case <-asked:
		case <-time.After(10 * time.Second):
			t.Fatal("not all were asked about")
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := v.Verify(ctx, appSubject())
	if !errors.Is(err, evidence.ErrUnavailable) || !strings.Contains(err.Error(), "too many other images") {
		t.Errorf("%v; want that there was no place", err)
	}
	if n := s.calls.Load(); n != int64(most) {
		t.Errorf("%d were asked about at once, want %d", n, most)
	}
	close(answer)
	all.Wait()
	if got := verdictOn(t, v, appSubject()); !got.Allowed {
		t.Errorf("once the others were done: %+v", got)
	}
}
