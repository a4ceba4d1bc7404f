package verify

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/sigstore/sigstoretest"
	"github.com/cosentry/cosentry/verify/trust"
)

// keyFrom is an authority whose key is somewhere else.
func keyFrom(name, where string) string {
	return "  - name: " + name + "\n    key: {" + where + "}\n"
}

const vault = "kms: hashivault://release" // which nobody asks in these tests: nothing was ever fetched

// A key that was never had says nothing about the image: it is neither signed nor unsigned.
func TestAKeyThatWasNeverHadDecidesNothing(t *testing.T) {
	w := newWorld(t)
	signed := holding(found(classicFor("P-256", appDigest)))
	v := w.verifier(testOptions(signed), policyDoc("signed", "enforce", keyFrom("kms", vault)))
	_, err := v.Verify(t.Context(), appSubject())
	checkUndecided(t, err, trust.ErrUnavailable, "signed")
	if v.Cached() != 0 {
		t.Error("it is remembered")
	}
	var undecided *UndecidedError
	if !errors.As(err, &undecided) || undecided.Verdict == nil || undecided.Verdict.Allowed || undecided.Verdict.Revision != v.Revision() {
		t.Fatalf("what could be found out: %+v", undecided)
	}
	if p := undecided.Verdict.Policies[0]; !p.Undecided || !p.Authorities[0].Undecided || !p.Authorities[0].Reference {
		t.Errorf("what could be found out: %+v", p)
	}
	// Another authority suffices, and another policy's refusal decides.
	w.resolve(v, policyDoc("signed", "enforce", keyFrom("kms", vault), keyAuthority("release-key", []string{"P-256"})))
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
	w.resolve(v, policyDoc("signed", "enforce", keyFrom("kms", vault)), policyDoc("never", "enforce", staticAuthority("fail", "closed")))
	checkDecision(t, verdictOn(t, v, appSubject()), false, "closed")
	w.resolve(v, policyDoc("signed", "warn", keyFrom("kms", vault)))
	if got := verdictOn(t, v, appSubject()); !got.Allowed || !got.Warn || v.Cached() != 0 {
		t.Errorf("mode warn: %+v, %d remembered", got, v.Cached())
	}
}

// What is not there is a refusal that says so, until it is there: no old verdict outlives what it rested on.
func TestASecretThatComesAndGoes(t *testing.T) {
	w := newWorld(t)
	doc := policyDoc("signed", "enforce", keyFrom("release", "secretRef: {namespace: cosign-system, name: release}"))
	v := w.verifier(testOptions(holding(found(classicFor("P-256", appDigest)))), doc)
	got := verdictOn(t, v, appSubject())
	checkDecision(t, got, false, "not there")
	if a := got.Policies[0].Authorities[0]; !a.Reference || a.Undecided {
		t.Errorf("%+v: want that it is told to be the owner's to mend", a)
	}
	file := w.write("secrets/cosign-system/release/cosign.pub", publicPEM(keyOfKind("P-256")))
	w.resolve(v, doc)
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
	w.write(strings.TrimPrefix(file, w.dir+"/"), publicPEM(keyOfKind("other P-256")))
	w.resolve(v, doc)
	checkDecision(t, verdictOn(t, v, appSubject()), false, "none by this key")
	w.write(strings.TrimPrefix(file, w.dir+"/"), "no key")
	w.resolve(v, doc)
	checkDecision(t, verdictOn(t, v, appSubject()), false, `authority "release"`)
}

// What a policy refers to is never looked up in a set of policies that it was not looked up for.
func TestReferencesAreNoneWithoutASnapshot(t *testing.T) {
	w := newWorld(t)
	proved := w.Bundle(appDigest, sigstoretest.By{Log: true})
	for _, doc := range []string{
		policyDoc("p", "enforce", keyless("people", testLog)),
		policyDoc("p", "enforce", keyFrom("release", "secretRef: {name: release}")),
		policyDoc("p", "enforce", keyFrom("release", vault)),
	} {
		v := newVerifier(t, holding(found(proved)), doc)
		checkDecision(t, verdictOn(t, v, appSubject()), false, "cannot be judged")
	}
}

// proving is a log that is asked, in memory.
type proving struct {
	asked []string
	ev    *evidence.Evidence
	err   error
}

func (p *proving) Prove(_ context.Context, url string, keys [][]byte, ev *evidence.Evidence) (*evidence.Evidence, error) {
	p.asked = append(p.asked, fmt.Sprintf("%s %d", url, len(keys)))
	if p.err != nil {
		return nil, p.err
	}
	proved := *ev
	proved.Signatures = p.ev.Signatures
	return &proved, nil
}

func TestALogIsAskedOnlyWhereAPolicySaysSoAndNoProofCame(t *testing.T) {
	w := newWorld(t)
	key := sigstoretest.By{Key: keyOfKind("P-256")}
	bare, proved := found(w.Signature(appDigest, key)), found(w.Signature(appDigest, sigstoretest.By{Key: key.Key, Log: true}))
	const asking = "ctlog: {url: \"https://rekor.example\", trustRootRef: test}"
	byKey := func(ctlog string) string {
		return policyDoc("signed", "enforce", keyAuthority("release-key", []string{"P-256"}, ctlog))
	}
	away := fmt.Errorf("%w: the log is away", evidence.ErrUnavailable)
	for _, c := range []struct {
		name    string
		doc     string
		there   *evidence.Evidence
		log     *proving
		asked   int
		outcome string
	}{
		{"no proof came", byKey(asking), bare, &proving{ev: proved}, 1, "allow"},
		{"a proof came", byKey(asking), proved, &proving{ev: proved}, 0, "allow"},
		{"the policy names no log to ask", byKey(testLog), bare, &proving{ev: proved}, 0, "deny"},
		{"the policy wants no log", byKey("ctlog: {}"), bare, &proving{ev: proved}, 0, "allow"},
		{"the log has no proof", byKey(asking), bare, &proving{ev: bare}, 1, "deny"},
		{"the log is away", byKey(asking), bare, &proving{err: away}, 1, "error"},
		{"the log's proof is of another signature", byKey(asking), bare, &proving{ev: found(w.Signature(appDigest, sigstoretest.By{Log: true}))}, 1, "deny"},
		{"nothing is there that a proof could help", byKey(asking), found(), &proving{ev: proved}, 0, "deny"},
		{"a stranger's signature is there", byKey(asking), found(w.Signature(appDigest, sigstoretest.By{Key: keyOfKind("other P-256")})), &proving{ev: proved}, 0, "deny"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := testOptions(holding(c.there))
			o.Prover = c.log
			got, err := w.verifier(o, c.doc).Verify(t.Context(), appSubject())
			outcome := map[bool]string{true: "allow", false: "deny"}[got.Allowed]
			if err != nil {
				outcome = "error"
			}
			if outcome != c.outcome || len(c.log.asked) != c.asked {
				t.Errorf("%s after asking %q; want %s after %d: %v %+v", outcome, c.log.asked, c.outcome, c.asked, err, got)
			}
			if c.outcome == "error" && !errors.Is(err, evidence.ErrUnavailable) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Who passes by another authority makes nobody ask a log.
func TestNoLogIsAskedForWhatPassesAnyway(t *testing.T) {
	w := newWorld(t)
	key := sigstoretest.By{Key: keyOfKind("P-256")}
	log := &proving{err: errUnavailable}
	o := testOptions(holding(found(w.Signature(appDigest, key))))
	o.Prover = log
	v := w.verifier(o, policyDoc("signed", "enforce",
		keyAuthority("logged", []string{"P-256"}, "ctlog: {url: \"https://rekor.example\", trustRootRef: test}"),
		keyAuthority("release-key", []string{"P-256"})))
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
	if len(log.asked) != 0 {
		t.Errorf("asked %q", log.asked)
	}
}

// A verification under way while a key is taken back leaves nothing behind that would answer with it.
func TestAVerdictUnderWayDoesNotOutliveItsReferences(t *testing.T) {
	w := newWorld(t)
	const secret = "secrets/cosign-system/release/cosign.pub"
	doc := policyDoc("signed", "enforce", keyFrom("release", "secretRef: {namespace: cosign-system, name: release}"))
	w.write(secret, publicPEM(keyOfKind("P-256")))
	signed := found(classicFor("P-256", appDigest))
	asked, answer := make(chan struct{}), make(chan struct{})
	s := &source{fetch: func(context.Context, string, digest.Digest, evidence.Credentials) (*evidence.Evidence, error) {
		close(asked)
		<-answer
		return signed, nil
	}}
	v := w.verifier(testOptions(s), doc)
	done := make(chan Verdict, 1)
	go func() {
		got, err := v.Verify(context.Background(), appSubject())
		if err != nil {
			t.Errorf("Verify: %v", err)
		}
		done <- got
	}()
	<-asked
	s.fetch = holding(signed).fetch
	w.write(secret, publicPEM(keyOfKind("other P-256")))
	w.resolve(v, doc)
	close(answer)
	if got := <-done; !got.Allowed {
		t.Errorf("the one under way: %+v", got)
	}
	checkDecision(t, verdictOn(t, v, appSubject()), false, "none by this key")
}

// A log that was asked is asked again by the next verification, not from the cache; what it proved is kept.
func TestProofsThatWereAskedForAreKept(t *testing.T) {
	w := newWorld(t)
	key := sigstoretest.By{Key: keyOfKind("P-256")}
	bare, proved := found(w.Signature(appDigest, key)), found(w.Signature(appDigest, sigstoretest.By{Key: key.Key, Log: true}))
	m := &memory{}
	o := testOptions(holding(bare))
	o.Prover, o.Keeper = &proving{ev: proved}, m
	v := w.verifier(o, policyDoc("signed", "enforce", keyAuthority("release-key", []string{"P-256"}, "ctlog: {url: \"https://rekor.example\", trustRootRef: test}")))
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
	if len(m.kept) != 1 || m.kept[0].Signatures[0].Annotations["dev.sigstore.cosign/bundle"] == "" {
		t.Fatalf("kept %+v", m.kept)
	}
	// Registry and log are away.
	o.Source, o.Prover, o.Keeper = failing(errUnavailable), &proving{err: errUnavailable}, &memory{recall: m.kept[0]}
	v = w.verifier(o, policyDoc("signed", "enforce", keyAuthority("release-key", []string{"P-256"}, "ctlog: {url: \"https://rekor.example\", trustRootRef: test}")))
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
}

func selecting(name, labels, authority string) string {
	return policyDoc(name, "enforce", authority) + "  match: [{resource: pods, version: v1, selector: {matchLabels: {" + labels + "}}}]\n"
}

// Verdicts are for pods that cannot differ in them; a pod's labels choose its policies, and one that is not known is
// under all.
func TestPoliciesForCertainPods(t *testing.T) {
	w := newWorld(t)
	fail, pass := staticAuthority("fail", "not for the web"), staticAuthority("pass", "")
	v := w.verifier(testOptions(failing(errUnavailable)), selecting("web", "app: web", fail), selecting("db", "app: db", pass))
	pod := func(labels ...string) *policy.Pod {
		p := &policy.Pod{Namespace: "shop", Labels: map[string]string{}}
		for i := 0; i+1 < len(labels); i += 2 {
			p.Labels[labels[i]] = labels[i+1]
		}
		return p
	}
	for range 2 { // the second time from the cache
		for _, c := range []struct {
			pod     *policy.Pod
			allowed bool
			noMatch NoMatch
		}{
			{pod("app", "web"), false, ""}, {pod("app", "db"), true, ""}, {pod(), false, NoMatchDeny}, {nil, false, ""},
			{pod("app", "db", "more", "labels"), true, ""},
		} {
			s := appSubject()
			s.Pod = c.pod
			if got := verdictOn(t, v, s); got.Allowed != c.allowed || got.NoMatch != c.noMatch || (got.OtherPods == 2) != (c.noMatch != "") {
				t.Errorf("%+v: %+v", c.pod, got)
			}
		}
	}
	if n := v.Cached(); n != 4 { // web, db, neither, not known
		t.Errorf("%d verdicts are remembered, want 4", n)
	}
}

// A verdict that rests on a pod's metadata is no other pod's.
func TestARuleOverThePodIsAskedForEach(t *testing.T) {
	w := newWorld(t)
	doc := policyDoc("signed", "enforce", keyAuthority("release-key", []string{"P-256"})) +
		"  policy: {type: cue, includeObjectMeta: true, data: 'metadata: annotations: reviewed: \"yes\"'}\n"
	v := w.verifier(testOptions(holding(found(classicFor("P-256", appDigest)))), doc)
	for range 2 {
		for reviewed, allowed := range map[string]bool{"yes": true, "no": false} {
			s := appSubject()
			s.Pod = &policy.Pod{Namespace: "shop", Name: "web", Annotations: map[string]string{"reviewed": reviewed}}
			if got := verdictOn(t, v, s); got.Allowed != allowed {
				t.Errorf("reviewed %s: %+v", reviewed, got)
			}
		}
	}
}

// A rule that cannot be evaluated is no refusal and never a permission.
func TestARuleThatCannotBeEvaluatedDecidesNothing(t *testing.T) {
	w := newWorld(t)
	ev := found(classicFor("P-256", appDigest))
	j := judgementOn(ev)
	doc := policyDoc("signed", "enforce", keyAuthority("release-key", []string{"P-256"})) + demanding("release-key")
	set := setOf(t, doc)
	j.refs = w.keeper.Resolve(set)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := set.Policies()[0]
	_, missing, err := j.rule(ctx, p, []answer{{AuthorityResult: AuthorityResult{Authority: "release-key", Passed: true}}})
	if err == nil || missing == nil {
		t.Errorf("%v, %v: want an error that is no refusal", err, missing)
	}
}

// sigstore's own code signs with no SHA-224, and policies may ask for it.
func TestTheHashThatAPolicyNamesIsTheOneThatCounts(t *testing.T) {
	key, ok := keyOfKind("P-256").(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("P-256 is no ECDSA key")
	}
	raw := simplePayload(appDigest)
	sum := sha256.Sum224(raw)
	short := evidence.Signature{Payload: raw, Base64Signature: base64.StdEncoding.EncodeToString(must(ecdsa.SignASN1(rand.Reader, key, sum[:]))), Source: digest.FromBytes(raw)}
	usual := classicFor("P-256", appDigest)
	asking := policyDoc("signed", "enforce", keyAuthority("release-key", []string{"P-256"}, "key.hashAlgorithm: sha224"))
	checkDecision(t, verdictOn(t, newVerifier(t, holding(found(short)), asking), appSubject()), true, "")
	checkDecision(t, verdictOn(t, newVerifier(t, holding(found(usual)), asking), appSubject()), false, "none by this key")
	checkDecision(t, verdictOn(t, newVerifier(t, holding(found(short)), byKey("P-256")), appSubject()), false, "none by this key")
}

// What was kept of an image with large attestations is enough while nobody can be asked at all.
func TestKeptAttestationsAreBoundedAsTheirQuestionIs(t *testing.T) {
	ev := nothing(evidence.Question{Repository: testRepository, Digest: appDigest, Attestations: true, Config: true}, errUnavailable)
	if !ev.AskedAttestations || !ev.AskedConfig || ev.Incomplete == nil {
		t.Errorf("%+v", ev)
	}
}

// A missing pull secret is told beside a bound that is exceeded, and does not turn that refusal into "could not find out".
func TestAMissingPullSecretMakesNoRefusalUndecided(t *testing.T) {
	w := newWorld(t)
	for cause, refused := range map[error]bool{&limits.Exceeded{Bound: limits.Material}: true, errUnauthorized: false} {
		v := w.verifier(testOptions(holding(found(cause))), sourced(", signaturePullSecrets: [{name: reader}]"))
		s := appSubject()
		s.Pod = &policy.Pod{Namespace: "shop"}
		got, err := v.Verify(t.Context(), s)
		if (err == nil) != refused || got.Allowed {
			t.Errorf("%v: %+v, %v", cause, got, err)
		}
		if told := fmt.Sprint(got.Policies, err); !strings.Contains(told, `pull secret "reader"`) || strings.Contains(told, "\n") {
			t.Errorf("%v: %s", cause, told)
		}
	}
}
