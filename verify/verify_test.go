package verify

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rescue"
)

func TestNewRefusesWhatItWouldHaveToGuess(t *testing.T) {
	for name, spoil := range map[string]func(*Options){
		"no source":      func(o *Options) { o.Source = nil },
		"no rule":        func(o *Options) { o.NoMatch = "" },
		"another rule":   func(o *Options) { o.NoMatch = "Allow" },
		"no cache":       func(o *Options) { o.CacheSize = 0 },
		"no allow TTL":   func(o *Options) { o.AllowTTL = 0 },
		"no deny TTL":    func(o *Options) { o.DenyTTL = -1 },
		"no time at all": func(o *Options) { o.FetchTimeout = 0 },
	} {
		o := testOptions(holding(found()))
		spoil(&o)
		if v, err := New(o); err == nil || v != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestWithoutPoliciesNothingIsAllowed(t *testing.T) {
	o := testOptions(holding(found(classicFor("P-256", appDigest))))
	o.NoMatch = NoMatchAllow // and no rule for images without a policy changes that
	for name, prepare := range map[string]func(*Verifier){
		"never loaded": func(*Verifier) {},
		"unusable":     func(v *Verifier) { v.SetUnusable(errors.New("prod.yaml:3: broken")) },
		"nil set":      func(v *Verifier) { v.SetPolicies(nil, nil) },
		"taken away": func(v *Verifier) {
			v.SetPolicies(setOf(t, byKey("P-256")), nil)
			verdictOn(t, v, appSubject())
			v.SetUnusable(errors.New("gone"))
		},
	} {
		v, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		prepare(v)
		got, err := v.Verify(t.Context(), appSubject())
		checkUndecided(t, err, ErrNoPolicy, "")
		if got.Allowed || v.Revision() != "" || v.Cached() != 0 {
			t.Errorf("%s: %+v, revision %q, %d cached", name, got, v.Revision(), v.Cached())
		}
		if name == "unusable" && !strings.Contains(err.Error(), "prod.yaml:3: broken") {
			t.Errorf("error %q does not say why", err)
		}
	}
}

func TestAnEmptySetIsNotNone(t *testing.T) {
	checkDecision(t, verdictOn(t, newVerifier(t, holding(found())), appSubject()), false, "")
}

// Only sha256: what cannot be compared with a signature is not looked for, and no foreign
// text reaches the error as it is.
func TestOtherDigestsAreRefused(t *testing.T) {
	hex := appDigest.Encoded()
	for _, d := range []digest.Digest{
		"", "latest", "sha256:", digest.Digest(hex), digest.Digest("sha256:" + hex[:63]), digest.Digest("sha256:" + hex + "0"),
		digest.Digest("SHA256:" + hex), digest.Digest("sha256:" + strings.ToUpper(hex)), digest.Digest("sha256:" + hex + "\n"),
		digest.SHA512.FromString("x"), digest.SHA384.FromString("x"),
		digest.Digest("sha256:../" + strings.Repeat("x", 1<<16) + "\x1b[2J\nforged line"),
	} {
		s := holding(found(classicFor("P-256", appDigest)))
		v := newVerifier(t, s, policyDoc("open", "enforce", staticAuthority("pass", "")))
		sub := appSubject()
		sub.Digest = d
		got, err := v.Verify(t.Context(), sub)
		if err == nil || got.Allowed || s.calls.Load() != 0 || v.Cached() != 0 {
			t.Errorf("%.80q: %+v, %v", d, got, err)
			continue
		}
		if text := err.Error(); len(text) > 600 || strings.ContainsAny(text, "\x1b\n") {
			t.Errorf("%.80q: the error holds foreign text: %.200q", d, text)
		}
	}
}

func TestAnImageNameThatIsNoneIsAnError(t *testing.T) {
	o := testOptions(holding(found()))
	o.NoMatch = NoMatchAllow
	v := newVerifierWith(t, o, byKey("P-256"))
	for _, image := range []string{"", "../app", "/var/lib/checkpoint.tar", "registry.example/team/app@sha256:12", "a b"} {
		s := appSubject()
		s.Image = image
		got, err := v.Verify(t.Context(), s)
		if !errors.Is(err, policy.ErrImageName) || got.Allowed {
			t.Errorf("%q: %+v, %v", image, got, err)
		}
	}
}

// A panic anywhere is an error to its caller alone: no allow, no end of the process, nothing kept.
func TestAPanicIsAnErrorAndNeverAnAllow(t *testing.T) {
	ev := found(classicFor("P-256", appDigest))
	panicking := &source{fetch: func(context.Context, string, digest.Digest, evidence.Credentials) (*evidence.Evidence, error) {
		panic("parser\nbroke")
	}}
	badEvidence := *ev
	badEvidence.Incomplete = (*brokenError)(nil)
	badEvidence.Signatures = nil
	for name, s := range map[string]Source{"in the source": panicking, "in judging": holding(&badEvidence)} {
		var judged []error
		o := testOptions(s)
		o.Judged = func(_ time.Duration, err error) { judged = append(judged, err) }
		v := newVerifierWith(t, o, byKey("P-256"))
		for range 2 {
			got, err := v.Verify(t.Context(), appSubject())
			checkPanicked(t, name, err)
			if got.Allowed || v.Cached() != 0 {
				t.Errorf("%s: %+v, %d cached", name, got, v.Cached())
			}
		}
		if len(judged) != 2 || judged[0] == nil || judged[1] == nil {
			t.Errorf("%s: judged %v, want two failures", name, judged)
		}
	}
	o := testOptions(holding(ev))
	o.Judged = func(time.Duration, error) { panic("observer\nbroke") }
	_, err := newVerifierWith(t, o, byKey("P-256")).Verify(t.Context(), appSubject())
	checkPanicked(t, "in an observer", err)
}

func checkPanicked(t *testing.T, where string, err error) {
	t.Helper()
	var undecided *UndecidedError
	if !errors.As(err, &undecided) || !errors.Is(err, rescue.ErrPanicked) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: error %v", where, err)
	}
}

type brokenError struct{ text string }

func (e *brokenError) Error() string { return e.text } // panics on nil

// A reload is one step: verdicts of the old set are gone, and each answer is of one set.
func TestSetPoliciesSwitchesAtOnce(t *testing.T) {
	s := holding(found(classicFor("P-256", appDigest)))
	v := newVerifier(t, s, byKey("P-256"))
	first := v.Revision()
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
	if v.Cached() != 1 {
		t.Fatalf("%d cached", v.Cached())
	}
	v.SetPolicies(setOf(t, byKey("other P-256")), nil)
	if v.Cached() != 0 || v.Revision() == first {
		t.Errorf("%d verdicts outlive their policies, revision %s after %s", v.Cached(), v.Revision(), first)
	}
	got := verdictOn(t, v, appSubject())
	checkDecision(t, got, false, "none by this key")
	if got.Revision != v.Revision() || got.Cached {
		t.Errorf("verdict %+v under revision %s", got, v.Revision())
	}
}

// A verification that was under way while policies changed answers its own caller, and leaves nothing
// behind that would answer under the new ones.
func TestAVerdictUnderWayDoesNotOutliveItsPolicies(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	s := &source{fetch: func(context.Context, string, digest.Digest, evidence.Credentials) (*evidence.Evidence, error) {
		close(asked)
		<-answer
		return found(classicFor("P-256", appDigest)), nil
	}}
	v := newVerifier(t, s, byKey("P-256"))
	old := v.Revision()
	done := make(chan Verdict, 1)
	go func() {
		got, err := v.Verify(context.Background(), appSubject())
		if err != nil {
			t.Errorf("Verify: %v", err)
		}
		done <- got
	}()
	<-asked
	s.fetch = holding(found(classicFor("P-256", appDigest))).fetch
	v.SetPolicies(setOf(t, byKey("other P-256")), nil)
	now := verdictOn(t, v, appSubject())
	checkDecision(t, now, false, "")
	close(answer)
	if got := <-done; !got.Allowed || got.Revision != old {
		t.Errorf("the one under way: %+v", got)
	}
	if again := verdictOn(t, v, appSubject()); again.Allowed || again.Revision != v.Revision() {
		t.Errorf("afterwards: %+v", again)
	}
}

// Under load each verdict is of the set that its revision names.
func TestReloadUnderLoad(t *testing.T) {
	v := newVerifier(t, holding(found(classicFor("P-256", appDigest))), byKey("P-256"))
	right, wrong := setOf(t, byKey("P-256")), setOf(t, byKey("other P-256"))
	stop := make(chan struct{})
	var asking, reloading sync.WaitGroup
	reloading.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				v.SetPolicies(wrong, nil)
				v.SetPolicies(right, nil)
			}
		}
	})
	for range 4 {
		asking.Go(func() {
			for range 200 {
				got, err := v.Verify(context.Background(), appSubject())
				if err != nil || got.Allowed != (got.Revision == right.Revision()) {
					t.Errorf("%+v, %v", got, err)
					return
				}
			}
		})
	}
	asking.Wait()
	close(stop)
	reloading.Wait()
}

func TestObserversAreTold(t *testing.T) {
	var mu sync.Mutex
	var hits, misses, judged, failed int
	s := holding(found(classicFor("P-256", appDigest)))
	o := testOptions(s)
	o.Cache = func(hit bool) {
		mu.Lock()
		defer mu.Unlock()
		if hit {
			hits++
		} else {
			misses++
		}
	}
	o.Judged = func(d time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		judged++
		if err != nil {
			failed++
		}
		if d < 0 {
			t.Errorf("a verification of %s", d)
		}
	}
	v := newVerifierWith(t, o, byKey("P-256"))
	verdictOn(t, v, appSubject())
	verdictOn(t, v, appSubject())
	s.fetch = failing(errUnavailable).fetch
	elsewhere := appSubject()
	elsewhere.Image = testRepository + ":2"
	if _, err := v.Verify(t.Context(), elsewhere); err == nil {
		t.Error("no error")
	}
	if hits != 1 || misses != 2 || judged != 2 || failed != 1 {
		t.Errorf("%d hits, %d misses, %d judged, %d failed", hits, misses, judged, failed)
	}
}
