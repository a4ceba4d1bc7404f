package verify

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
)

// gatedSource answers when it is told to, and says when it was asked.
func gatedSource(ev *evidence.Evidence) (s *source, asked chan evidence.Credentials, answer chan struct{}) {
	asked, answer = make(chan evidence.Credentials, 64), make(chan struct{})
	s = &source{fetch: func(ctx context.Context, _ string, _ digest.Digest, c evidence.Credentials) (*evidence.Evidence, error) {
		asked <- c
		select {
		case <-answer:
			return ev, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}}
	return s, asked, answer
}

// misses counts callers that have found nothing in the cache and are about to wait.
type misses struct{ more chan struct{} }

func countMisses(o *Options) *misses {
	m := &misses{more: make(chan struct{}, 1024)}
	o.Cache = func(hit bool) {
		if !hit {
			m.more <- struct{}{}
		}
	}
	return m
}

func (m *misses) wait(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case <-m.more:
		case <-time.After(10 * time.Second):
			t.Fatal("callers did not come")
		}
	}
}

func TestConcurrentCallersShareOneQuestion(t *testing.T) {
	s, asked, answer := gatedSource(found(classicFor("P-256", appDigest)))
	o := testOptions(s)
	m := countMisses(&o)
	v := newVerifierWith(t, o, byKey("P-256"))
	const callers = 50
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			got, err := v.Verify(context.Background(), appSubject())
			if err != nil || !got.Allowed {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	<-asked
	m.wait(t, callers)
	close(answer)
	wg.Wait()
	if n := s.calls.Load(); n != 1 {
		t.Errorf("%d questions for %d callers", n, callers)
	}
}

// One that looks into the cache just before a verification ends, and is ready to ask just after it.
func TestACallerThatCameAMomentTooLateAsksNothing(t *testing.T) {
	s := holding(found(classicFor("P-256", appDigest)))
	o := testOptions(s)
	var v *Verifier
	first := true
	o.Cache = func(bool) {
		if first {
			first = false
			verdictOn(t, v, appSubject())
		}
	}
	v = newVerifierWith(t, o, byKey("P-256"))
	if got := verdictOn(t, v, appSubject()); !got.Allowed || !got.Cached || s.calls.Load() != 1 {
		t.Errorf("%+v after %d questions", got, s.calls.Load())
	}
}

// The pod that asked first goes away; those that wait with it must not be refused for it.
func TestTheFirstCallersCancellationFailsNobodyElse(t *testing.T) {
	s, asked, answer := gatedSource(found(classicFor("P-256", appDigest)))
	o := testOptions(s)
	m := countMisses(&o)
	v := newVerifierWith(t, o, byKey("P-256"))
	ctx, cancel := context.WithCancel(context.Background())
	first := make(chan error, 1)
	go func() {
		_, err := v.Verify(ctx, appSubject())
		first <- err
	}()
	<-asked
	second := make(chan Verdict, 1)
	go func() {
		got, err := v.Verify(context.Background(), appSubject())
		if err != nil {
			t.Errorf("the second caller: %v", err)
		}
		second <- got
	}()
	m.wait(t, 2)
	cancel()
	err := <-first
	checkUndecided(t, err, context.Canceled, "")
	if !errors.Is(err, evidence.ErrUnavailable) {
		t.Errorf("the first caller: %v", err)
	}
	close(answer)
	if got := <-second; !got.Allowed {
		t.Errorf("the second caller: %+v", got)
	}
	if n := s.calls.Load(); n != 1 {
		t.Errorf("%d questions", n)
	}
}

// Even if all went away, the answer is there for the next attempt.
func TestWhatNobodyWaitsForIsKept(t *testing.T) {
	s, asked, answer := gatedSource(found(classicFor("P-256", appDigest)))
	o := testOptions(s)
	judged := make(chan error, 1)
	o.Judged = func(_ time.Duration, err error) { judged <- err }
	v := newVerifierWith(t, o, byKey("P-256"))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := v.Verify(ctx, appSubject())
		done <- err
	}()
	<-asked
	cancel()
	if err := <-done; err == nil {
		t.Error("a caller that went away got an answer")
	}
	close(answer)
	if err := <-judged; err != nil {
		t.Errorf("judged: %v", err)
	}
	if got := verdictOn(t, v, appSubject()); !got.Cached || !got.Allowed {
		t.Errorf("%+v", got)
	}
}

// Nobody waits on an answer that another's credentials obtain: it could be "nothing is there".
func TestCallersWithOtherCredentialsAskForThemselves(t *testing.T) {
	s, asked, answer := gatedSource(found(classicFor("P-256", appDigest)))
	v := newVerifier(t, s, byKey("P-256"))
	var wg sync.WaitGroup
	all := []evidence.Credentials{{}, {Username: "a", Password: "x"}, {Username: "a", Password: "y"}, {RegistryToken: "a"}}
	for _, c := range all {
		wg.Go(func() {
			sub := appSubject()
			sub.Credentials = c
			if got, err := v.Verify(context.Background(), sub); err != nil || !got.Allowed {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	seen := map[evidence.Credentials]bool{}
	for range all {
		select {
		case c := <-asked:
			seen[c] = true
		case <-time.After(10 * time.Second):
			t.Fatal("a caller waits for another's answer")
		}
	}
	close(answer)
	wg.Wait()
	if len(seen) != len(all) || s.calls.Load() != int64(len(all)) {
		t.Errorf("%d kinds of credentials in %d questions", len(seen), s.calls.Load())
	}
}

// A registry that hangs: each caller's time ends its own wait, and FetchTimeout ends the question.
func TestARegistryThatHangsIsGivenUp(t *testing.T) {
	s, _, _ := gatedSource(nil)
	o := testOptions(s)
	o.FetchTimeout = 20 * time.Millisecond
	v := newVerifierWith(t, o, byKey("P-256"))
	_, err := v.Verify(t.Context(), appSubject())
	checkUndecided(t, err, context.DeadlineExceeded, "signed")
	if v.Cached() != 0 {
		t.Error("a time out is kept")
	}
	s.fetch = holding(found(classicFor("P-256", appDigest))).fetch
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
}

func TestACallersOwnTimeEndsItsWait(t *testing.T) {
	s, _, answer := gatedSource(nil)
	defer close(answer)
	v := newVerifier(t, s, byKey("P-256"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := v.Verify(ctx, appSubject())
	checkUndecided(t, err, context.DeadlineExceeded, "")
	if !errors.Is(err, evidence.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
}

// A question that outlives its asker holds one of the places that all images share, so one whose time is up asks
// none: a single create of an image with many manifests could take them all.
func TestACallerWhoseTimeIsUpStartsNothing(t *testing.T) {
	asked := make(chan struct{}, 1)
	src := &source{fetch: func(context.Context, string, digest.Digest, evidence.Credentials) (*evidence.Evidence, error) {
		asked <- struct{}{}
		return nil, evidence.ErrUnavailable
	}}
	v := newVerifier(t, src, byKey("P-256"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Verify(ctx, appSubject()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	select {
	case <-asked:
		t.Error("the registry was asked for nobody")
	case <-time.After(50 * time.Millisecond):
	}
}
