package verify

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
)

// stuffed is a bundle that parses, of 1 MiB with 300,000 timestamps that are none.
func stuffed(n int) evidence.Bundle {
	head := fmt.Sprintf(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",`+
		`"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"%04d"}]},`+
		`"verificationMaterial":{"publicKey":{"hint":"x"},"timestampVerificationData":{"rfc3161Timestamps":[`, n)
	return evidence.Bundle{Raw: []byte(head + strings.Repeat("{},", (1<<20-len(head)-10)/3) + "{}]}}}")}
}

// TestJudgingBoundsItsMemory: bundles within their bounds in bytes and number once took 1 GiB. A good one beside them
// is still found.
func TestJudgingBoundsItsMemory(t *testing.T) {
	var material []any
	for i := range 16 {
		material = append(material, stuffed(i))
	}
	set := setOf(t, byKey("P-256"))
	for _, ok := range []bool{false, true} {
		if ok {
			material = append(material, bundleFor("P-256", appDigest))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		v, _, err := judgementOn(found(material...)).judge(t.Context(), set.Policies(), NoMatchDeny)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatal(err)
		}
		checkDecision(t, v, ok, "")
		if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; mb > 50 {
			t.Errorf("%d MiB were allocated", mb)
		}
	}
}

// TestReasonsAreShort: a registry words what is incomplete, an owner may have many authorities, and thousands of
// verdicts are kept.
func TestReasonsAreShort(t *testing.T) {
	var authorities []string
	for i := range 60 {
		authorities = append(authorities, keyAuthority(fmt.Sprintf("a%d", i), []string{"P-256"}))
	}
	long := fmt.Errorf("%w: %s", evidence.ErrMismatch, strings.Repeat("ü", 100_000))
	v := verdictOn(t, newVerifier(t, holding(found(long)), policyDoc("many", "enforce", authorities...)), appSubject())
	checkDecision(t, v, false, `no signature by authority "a0"`)
	p := v.Policies[0]
	if len(p.Reason) > 1<<10 || !strings.HasSuffix(p.Reason, "; … and 59 more") {
		t.Errorf("%d bytes: %s", len(p.Reason), p.Reason)
	}
	for i, a := range p.Authorities {
		if len(a.Reason) > 512 || (a.Reason == "") != (i >= 16) {
			t.Errorf("authority %d: %d bytes", i, len(a.Reason))
		}
	}
	if len(p.Authorities) != 60 {
		t.Errorf("%d authorities", len(p.Authorities))
	}
	v = verdictOn(t, newVerifier(t, holding(found()), policyDoc("many", "enforce", authorities...)), appSubject())
	if p := v.Policies[0]; len(p.Reason) > 1<<10 || !strings.HasSuffix(p.Reason, "; … and 44 more") {
		t.Errorf("%d bytes: %s", len(p.Reason), p.Reason)
	}
}

// TestWhatIsDefinite: whatever is joined, one cause that is not known to be lasting makes all of it passing, so that
// it is asked again and never kept as a refusal.
func TestWhatIsDefinite(t *testing.T) {
	bound := &limits.Exceeded{Bound: limits.Payload}
	unknown := errors.New("something new")
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"a mismatch, wrapped":              {fmt.Errorf("blob x: %w", fmt.Errorf("%w: y", evidence.ErrMismatch)), true},
		"a bound, wrapped":                 {fmt.Errorf("blob x: %w", bound), true},
		"lasting ones, joined":             {errors.Join(bound, fmt.Errorf("%w: y", evidence.ErrNotFound), evidence.ErrMismatch), true},
		"unavailable":                      {evidence.ErrUnavailable, false},
		"unavailable beside a mismatch":    {errors.Join(evidence.ErrMismatch, evidence.ErrUnavailable), false},
		"unknown":                          {unknown, false},
		"unknown beside a mismatch":        {errors.Join(evidence.ErrMismatch, unknown), false},
		"unknown beside a bound, wrapped":  {fmt.Errorf("x: %w", errors.Join(bound, fmt.Errorf("y: %w", unknown))), false},
		"unknown in one error with a kind": {fmt.Errorf("%w: %w", evidence.ErrMismatch, unknown), false},
	} {
		if got := definite(c.err); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
