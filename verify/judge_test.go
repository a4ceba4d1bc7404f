package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/rescue"
	"github.com/cosentry/cosentry/verify/sigstore"
)

var (
	errUnavailable  = fmt.Errorf("%w: referrers of the image: status 503", evidence.ErrUnavailable)
	errUnauthorized = fmt.Errorf("%w: status 401", evidence.ErrUnauthorized)
	errTooMany      = fmt.Errorf("signatures of the image: %w", &limits.Exceeded{Bound: limits.Signatures})
	errMismatch     = fmt.Errorf("%w: the bytes do not hash to the digest", evidence.ErrMismatch)
)

func TestRulesOfPolicies(t *testing.T) {
	a, b := keyAuthority("a", []string{"P-256"}), keyAuthority("b", []string{"other P-256"})
	byA, byB := classicFor("P-256", appDigest), bundleFor("other P-256", appDigest)
	fail := staticAuthority("fail", "frozen until\nMonday")
	pass := staticAuthority("pass", "")
	for _, c := range []struct {
		name          string
		docs          []string
		material      []any
		allowed, warn bool
		words         string
	}{
		{"all matching policies pass", []string{policyDoc("one", "enforce", a), policyDoc("two", "enforce", b)}, []any{byA, byB}, true, false, ""},
		{"one matching policy fails", []string{policyDoc("one", "enforce", a), policyDoc("two", "enforce", b)}, []any{byA}, false, false, `by authority "b"`},
		{"the other matching policy fails", []string{policyDoc("one", "enforce", a), policyDoc("two", "enforce", b)}, []any{byB}, false, false, `by authority "a"`},
		{"a policy for other images does not count", []string{policyDoc("one", "enforce", a), policyFor("elsewhere.example/**", "two", "enforce", b)}, []any{byA}, true, false, ""},
		{"any authority suffices", []string{policyDoc("one", "enforce", a, b)}, []any{byB}, true, false, ""},
		{"no authority passes", []string{policyDoc("one", "enforce", a, b)}, []any{classicFor("third P-256", appDigest)}, false, false,
			`no signature by authority "a" (1 signature found, none by this key); no signature by authority "b" (1 signature found, none by this key)`},
		{"static pass beside a key", []string{policyDoc("one", "enforce", a, pass)}, nil, true, false, ""},
		{"static pass in one policy excuses no other", []string{policyDoc("one", "enforce", pass), policyDoc("two", "enforce", a)}, nil, false, false, "no signatures found"},
		{"static fail beside a key that passes", []string{policyDoc("one", "enforce", fail, a)}, []any{byA}, true, false, ""},
		{"static fail with its message", []string{policyDoc("one", "enforce", fail)}, nil, false, false, "authority \"authority-0\" fails every image: frozen until\nMonday"},
		{"static fail without a message", []string{policyDoc("one", "enforce", staticAuthority("fail", ""))}, nil, false, false, "fails every image"},
		{"static fail in another policy", []string{policyDoc("one", "enforce", a), policyDoc("two", "enforce", fail)}, []any{byA}, false, false, "frozen"},
		{"warn lets through and says so", []string{policyDoc("one", "warn", a)}, nil, true, true, "no signatures found"},
		{"warn that passes does not warn", []string{policyDoc("one", "warn", a)}, []any{byA}, true, false, ""},
		{"warn excuses no other policy", []string{policyDoc("one", "warn", a), policyDoc("two", "enforce", b)}, []any{byA}, false, false, `by authority "b"`},
		{"a refusal is no warning", []string{policyDoc("one", "warn", a), policyDoc("two", "enforce", b)}, nil, false, false, `by authority "b"`},
		{"warn beside a policy that passes", []string{policyDoc("one", "warn", a), policyDoc("two", "enforce", b)}, []any{byB}, true, true, `by authority "a"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := verdictOn(t, newVerifier(t, holding(found(c.material...)), c.docs...), appSubject())
			checkDecision(t, got, c.allowed, c.words)
			if got.Warn != c.warn {
				t.Errorf("warn is %v, want %v", got.Warn, c.warn)
			}
			if got.NoMatch != "" || got.Cached {
				t.Errorf("verdict %+v", got)
			}
		})
	}
}

// The whole of a verdict, once: it is what the audit log and the explanation are made of.
func TestAVerdictTellsItsGrounds(t *testing.T) {
	material := found(classicFor("P-256", appDigest), bundleFor("other P-256", appDigest))
	v := newVerifier(t, holding(material),
		policyDoc("b-second", "warn", keyAuthority("third", []string{"third P-256"})),
		policyDoc("a-first", "enforce", staticAuthority("fail", "no"), keyAuthority("release-key", []string{"P-256"}), keyAuthority("qa", []string{"other P-256"}, "signatureFormat: bundle")),
	)
	fingerprint := func(kind string) string {
		return setOf(t, byKey(kind)).Policies()[0].Authorities[0].Key.PublicKeys[0].Fingerprint
	}
	want := Verdict{
		Image: testImage, Repository: testRepository, Digest: appDigest, Allowed: true, Warn: true, Revision: v.Revision(),
		Policies: []PolicyResult{
			{Policy: "a-first", Mode: "enforce", Passed: true, Authorities: []AuthorityResult{
				{Authority: "authority-0", Kind: "static", Reason: `authority "authority-0" fails every image: no`},
				{Authority: "release-key", Kind: "key", Passed: true, KeyFingerprint: fingerprint("P-256"), Form: "classic", Found: 2,
					Signers: []sigstore.Signer{{ID: material.Signatures[0].Source.Encoded(), Form: "classic", KeyFingerprint: fingerprint("P-256")}}},
				{Authority: "qa", Kind: "key", Passed: true, KeyFingerprint: fingerprint("other P-256"), Form: "bundle", Found: 1,
					Signers: []sigstore.Signer{{ID: material.Bundles[0].Source.Encoded(), Form: "bundle", KeyFingerprint: fingerprint("other P-256")}}},
			}},
			{Policy: "b-second", Mode: "warn", Reason: `no signature by authority "third" (2 signatures found, none by this key)`, Authorities: []AuthorityResult{
				{Authority: "third", Kind: "key", Found: 2, Reason: `no signature by authority "third" (2 signatures found, none by this key)`},
			}},
		},
	}
	if diff := cmp.Diff(want, verdictOn(t, v, appSubject())); diff != "" {
		t.Errorf("verdict (-want +got):\n%s", diff)
	}
}

func TestAnImageThatNoPolicyMatches(t *testing.T) {
	for rule, want := range map[NoMatch]Verdict{
		NoMatchDeny: {}, NoMatchWarn: {Allowed: true, Warn: true}, NoMatchAllow: {Allowed: true},
	} {
		s := failing(errors.New("must not be asked"))
		o := testOptions(s)
		o.NoMatch = rule
		v := newVerifierWith(t, o, policyFor("elsewhere.example/**", "elsewhere", "enforce", keyAuthority("k", []string{"P-256"})))
		got := verdictOn(t, v, appSubject())
		if got.Allowed != want.Allowed || got.Warn != want.Warn || got.NoMatch != rule || len(got.Policies) != 0 || s.calls.Load() != 0 {
			t.Errorf("%s: %+v after %d questions", rule, got, s.calls.Load())
		}
		// It is for images that no policy matches, and no way round one that does.
		v = newVerifierWith(t, o, byKey("P-256"))
		if _, err := v.Verify(t.Context(), appSubject()); err == nil {
			t.Errorf("%s: an image under a policy was let through without evidence", rule)
		}
	}
}

// A registry is asked only where its answer matters.
func TestWhatNeedsNoEvidenceAsksForNone(t *testing.T) {
	k := keyAuthority("k", []string{"P-256"})
	for name, docs := range map[string][]string{
		"static pass":              {policyDoc("one", "enforce", staticAuthority("pass", ""))},
		"static pass beside a key": {policyDoc("one", "enforce", k, staticAuthority("pass", ""))},
		"static fail":              {policyDoc("one", "enforce", staticAuthority("fail", ""))},
		"static fail in warn":      {policyDoc("one", "warn", staticAuthority("fail", ""))},
		"policy for other images":  {policyFor("elsewhere.example/**", "one", "enforce", k)},
	} {
		s := failing(errors.New("must not be asked"))
		verdictOn(t, newVerifier(t, s, docs...), appSubject())
		if n := s.calls.Load(); n != 0 {
			t.Errorf("%s: %d questions", name, n)
		}
	}
}

// Missing evidence: what was found counts, and what may be missing is never taken for not there.
func TestIncompleteEvidence(t *testing.T) {
	good, bad := classicFor("P-256", appDigest), classicFor("other P-256", appDigest)
	a := keyAuthority("a", []string{"P-256"})
	frozen := policyDoc("frozen", "enforce", staticAuthority("fail", "frozen"))
	signedDoc := policyDoc("signed", "enforce", a)
	unknown := errors.New("disk on fire")
	both := errors.Join(errTooMany, errUnavailable)
	type want struct {
		undecided     error // the cause that must be found in the error
		allowed, kept bool
		warn          bool
		words         string
	}
	for _, c := range []struct {
		name     string
		docs     []string
		material []any
		want     want
	}{
		{"a good signature beside an unavailable form", []string{signedDoc}, []any{good, errUnavailable}, want{allowed: true, kept: true}},
		{"a good signature beside one bound too many", []string{signedDoc}, []any{good, errTooMany}, want{allowed: true, kept: true}},
		{"no signature and a form unavailable", []string{signedDoc}, []any{errUnavailable}, want{undecided: evidence.ErrUnavailable}},
		{"a bad signature and a form unavailable", []string{signedDoc}, []any{bad, errUnavailable}, want{undecided: evidence.ErrUnavailable}},
		{"no signature and credentials refused", []string{signedDoc}, []any{errUnauthorized}, want{undecided: evidence.ErrUnauthorized}},
		{"no signature and time out", []string{signedDoc}, []any{context.DeadlineExceeded}, want{undecided: context.DeadlineExceeded}},
		{"no signature and an unknown error", []string{signedDoc}, []any{unknown}, want{undecided: unknown}},
		{"a bound met beside a form unavailable", []string{signedDoc}, []any{both}, want{undecided: evidence.ErrUnavailable}},
		{"a panic", []string{signedDoc}, []any{rescue.ErrPanicked}, want{undecided: rescue.ErrPanicked}},
		{"a panic beside other bytes than asked for", []string{signedDoc}, []any{errors.Join(errMismatch, rescue.ErrPanicked)}, want{undecided: rescue.ErrPanicked}},
		{"a good signature beside a panic", []string{signedDoc}, []any{good, rescue.ErrPanicked}, want{allowed: true, kept: true}},
		{"a bound met", []string{signedDoc}, []any{errTooMany}, want{kept: true, words: "the bound on number of signatures is exceeded (at most 128 signatures)"}},
		{"other bytes than asked for", []string{signedDoc}, []any{errMismatch}, want{kept: true, words: "the bytes do not hash to the digest"}},
		{"a signature listed and not there", []string{signedDoc}, []any{fmt.Errorf("%w: blob", evidence.ErrNotFound)}, want{kept: true, words: "not found"}},
		{"one certain refusal decides", []string{frozen, signedDoc}, []any{errUnavailable}, want{kept: true, words: "frozen"}},
		{"one certain refusal decides, asked last", []string{signedDoc, policyDoc("zz", "enforce", staticAuthority("fail", "frozen"))}, []any{errUnavailable}, want{kept: true, words: "frozen"}},
		{"warn goes on without evidence, and is asked again", []string{policyDoc("signed", "warn", a)}, []any{errUnavailable}, want{allowed: true, warn: true, words: "registry unavailable"}},
		{"warn does not hide that another is undecided", []string{policyDoc("other", "warn", a), signedDoc}, []any{errUnavailable}, want{undecided: evidence.ErrUnavailable}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := holding(found(c.material...))
			v := newVerifier(t, s, c.docs...)
			got, err := v.Verify(t.Context(), appSubject())
			if c.want.undecided != nil {
				checkUndecided(t, err, c.want.undecided, "signed")
			} else if err != nil {
				t.Fatalf("Verify: %v", err)
			} else {
				checkDecision(t, got, c.want.allowed, c.want.words)
				if got.Warn != c.want.warn {
					t.Errorf("warn is %v", got.Warn)
				}
			}
			if kept := v.Cached() == 1; kept != c.want.kept {
				t.Errorf("kept in the cache is %v, want %v", kept, c.want.kept)
			}
			again, _ := v.Verify(t.Context(), appSubject())
			if asked := s.calls.Load(); again.Cached != c.want.kept || (asked == 1) != c.want.kept {
				t.Errorf("second time: cached is %v after %d questions", again.Cached, asked)
			}
		})
	}
}

func checkUndecided(t testing.TB, err, cause error, policyName string) {
	t.Helper()
	var undecided *UndecidedError
	if !errors.As(err, &undecided) || !errors.Is(err, cause) || undecided.Policy != policyName {
		t.Errorf("error is %T %v, want an *UndecidedError of policy %q that wraps %v", err, err, policyName, cause)
	}
}

// A source that learnt nothing is no source that found nothing.
func TestASourceThatFailsDecidesNothing(t *testing.T) {
	for name, s := range map[string]*source{"an error": failing(errUnavailable), "nothing at all": holding(nil)} {
		v := newVerifier(t, s, byKey("P-256"))
		got, err := v.Verify(t.Context(), appSubject())
		var undecided *UndecidedError
		if !errors.As(err, &undecided) || undecided.Policy != "signed" || got.Allowed || v.Cached() != 0 {
			t.Errorf("%s: %+v, %v, %d cached", name, got, err, v.Cached())
		}
	}
}

// Evidence is about the digest that was asked for, or about nothing: a source that mixes them up must
// not have one image pass on another's signatures.
func TestEvidenceAboutAnotherDigestIsNone(t *testing.T) {
	ev := found(classicFor("P-256", otherDigest), bundleFor("P-256", otherDigest), classicFor("P-256", appDigest))
	ev.Digest = otherDigest
	v := newVerifier(t, holding(ev), byKey("P-256"))
	got, err := v.Verify(t.Context(), appSubject())
	if err == nil || got.Allowed || v.Cached() != 0 || !strings.Contains(err.Error(), "evidence is about "+otherDigest.String()) {
		t.Errorf("%+v, %v", got, err)
	}
}

// Judging that takes too long is no verdict, even if what was judged so far passed.
func TestJudgingEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(context.DeadlineExceeded)
	set := setOf(t, byKey("P-256"))
	_, settled, err := judgementOn(found(classicFor("P-256", appDigest))).judge(ctx, set.Policies(), NoMatchDeny)
	if settled {
		t.Error("settled")
	}
	checkUndecided(t, err, context.DeadlineExceeded, "signed")
}

// The time for judging begins when fetching ends: a fetch that used up its own may have found enough.
func TestAFetchThatUsedUpItsTimeStillCounts(t *testing.T) {
	s := &source{}
	s.fetch = func(ctx context.Context, _ string, _ digest.Digest, _ evidence.Credentials) (*evidence.Evidence, error) {
		<-ctx.Done()
		return found(classicFor("P-256", appDigest), errUnavailable), nil
	}
	o := testOptions(s)
	o.FetchTimeout = 200 * time.Millisecond
	checkDecision(t, verdictOn(t, newVerifierWith(t, o, byKey("P-256")), appSubject()), true, "")
}
