package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
)

// layered is a verifier with policies of the node's own, and of the cluster's beside them.
func layered(t testing.TB, o Options, floor, cluster []string) *Verifier {
	t.Helper()
	v := newVerifierWith(t, o, floor...)
	v.SetCluster(setOf(t, cluster...), nil)
	return v
}

func docs(all ...string) []string { return all }

// signedByRelease is evidence with a good signature by the key of byKey("P-256").
func signedByRelease() *source { return holding(found(classicFor("P-256", appDigest))) }

// opening are policies by which whoever owns the API server would have everything run.
var opening = map[string]string{
	"static pass for everything":           policyFor("**", "open", "enforce", staticAuthority("pass", "")),
	"static pass in mode warn":             policyFor("**", "open", "warn", staticAuthority("pass", "")),
	"a refusal in mode warn":               policyFor("**", "open", "warn", staticAuthority("fail", "")),
	"the name of the node's own":           policyFor("**", "signed", "enforce", staticAuthority("pass", "")),
	"the name of the node's own, to warn":  policyFor("**", "signed", "warn", keyAuthority("release-key", []string{"P-256"})),
	"the attacker's key":                   policyFor("**", "signed", "enforce", keyAuthority("release-key", []string{"third P-256"})),
	"the node's key and, if not, a pass":   policyFor("**", "open", "enforce", keyAuthority("release-key", []string{"P-256"}), staticAuthority("pass", "")),
	"signatures looked for somewhere else": policyFor("**", "signed", "enforce", keyAuthority("release-key", []string{"third P-256"}, "source: [{oci: attacker.example/signatures}]")),
	"a registry that does not answer":      policyFor("**", "slow", "warn", keyAuthority("k", []string{"P-256"}, "source: [{oci: hangs.example/signatures}]")),
	"for pods of the attacker's alone":     policyFor("**", "pods", "enforce", staticAuthority("pass", "")) + "  match: [{resource: pods, version: v1, selector: {matchLabels: {app: evil}}}]\n",
	"a policy that is about no such image": policyFor("elsewhere.example/**", "other", "enforce", staticAuthority("pass", "")),
	"the image by its whole name":          policyFor(testImage, "exact", "enforce", staticAuthority("pass", "")),
}

// attackers is a registry that the attacker fills, and one that does not answer; the node's own has no signature.
func attackers() *source {
	return &source{fetch: func(_ context.Context, repository string, d digest.Digest, _ evidence.Credentials) (*evidence.Evidence, error) {
		switch repository {
		case "attacker.example/signatures":
			ev := found(classicFor("third P-256", d), classicFor("P-256", otherDigest))
			ev.Repository = repository
			return ev, nil
		case "hangs.example/signatures":
			return nil, errUnavailable
		}
		return &evidence.Evidence{Repository: repository, Digest: d, Signatures: []evidence.Signature{classicFor("third P-256", d)}}, nil
	}}
}

func TestAClusterPolicyOpensNothingThatTheNodesOwnForbid(t *testing.T) {
	for floor, c := range map[string]struct {
		noMatch NoMatch
		docs    []string
		words   string
	}{
		"a policy that wants a signature":     {NoMatchAllow, docs(byKey("P-256")), "none by this key"},
		"a policy that refuses":               {NoMatchAllow, docs(policyDoc("never", "enforce", staticAuthority("fail", "closed"))), "closed"},
		"noMatch deny, and none that match":   {NoMatchDeny, docs(policyFor("elsewhere.example/**", "other", "enforce", staticAuthority("pass", ""))), ""},
		"noMatch deny, and none at all":       {NoMatchDeny, nil, ""},
		"noMatch deny, and one for others":    {NoMatchDeny, docs(policyDoc("others", "enforce", staticAuthority("pass", "")) + "  match: [{resource: pods, version: v1, selector: {matchLabels: {app: web}}}]\n"), ""},
		"one that wants it beside a pass":     {NoMatchDeny, docs(byKey("P-256"), policyDoc("a", "enforce", staticAuthority("pass", ""))), "none by this key"},
		"a rule that the image does not meet": {NoMatchDeny, docs(policyDoc("ruled", "enforce", staticAuthority("pass", "")) + "  policy: {type: rego, data: \"package sigstore\\ndefault isCompliant = false\"}\n"), ""},
	} {
		for name, cluster := range opening {
			t.Run(floor+"/"+name, func(t *testing.T) {
				o := testOptions(attackers())
				o.NoMatch = c.noMatch
				v := layered(t, o, c.docs, docs(cluster))
				s := appSubject()
				s.Pod = &policy.Pod{Namespace: "shop", Labels: map[string]string{"app": "evil"}}
				for range 2 { // and from the cache
					got, err := v.Verify(t.Context(), s)
					if err == nil {
						checkDecision(t, got, false, c.words)
					}
				}
				s.WithoutCluster = true
				if got, err := v.Verify(t.Context(), s); err == nil {
					checkDecision(t, got, false, c.words)
				}
			})
		}
	}
}

// Every way in which one layer can end beside every way in which the other can: allowed is what both allow.
func TestNothingIsAllowedThatEitherLayerDoesNotAllow(t *testing.T) {
	const other = "elsewhere.example/**"
	type outcome struct {
		doc     string
		noMatch NoMatch // of the node's own
		allows  bool
		warns   bool
	}
	outcomes := map[string]outcome{
		"passes":              {doc: policyDoc("p", "enforce", staticAuthority("pass", "")), allows: true},
		"refuses":             {doc: policyDoc("p", "enforce", staticAuthority("fail", ""))},
		"warns":               {doc: policyDoc("p", "warn", staticAuthority("fail", "")), allows: true, warns: true},
		"is undecided":        {doc: policyDoc("p", "enforce", keyAuthority("k", []string{"P-256"}))},
		"is undecided, warns": {doc: policyDoc("p", "warn", keyAuthority("k", []string{"P-256"})), allows: true, warns: true},
		"matches nothing":     {doc: policyFor(other, "p", "enforce", staticAuthority("fail", "")), noMatch: NoMatchAllow, allows: true},
	}
	floors := map[string]outcome{
		"noMatch deny": {doc: policyFor(other, "p", "enforce", staticAuthority("pass", "")), noMatch: NoMatchDeny},
		"noMatch warn": {doc: policyFor(other, "p", "enforce", staticAuthority("pass", "")), noMatch: NoMatchWarn, allows: true, warns: true},
	}
	for name, o := range outcomes {
		floors[name] = o
	}
	for floorName, floor := range floors {
		for clusterName, cluster := range outcomes {
			t.Run("node "+floorName+"/cluster "+clusterName, func(t *testing.T) {
				o := testOptions(failing(errUnavailable))
				if floor.noMatch != "" {
					o.NoMatch = floor.noMatch
				}
				v := layered(t, o, docs(floor.doc), docs(cluster.doc))
				for range 2 {
					got, err := v.Verify(t.Context(), appSubject())
					if allowed := err == nil && got.Allowed; allowed != (floor.allows && cluster.allows) {
						t.Errorf("allowed is %v: %+v, %v", allowed, got, err)
					}
					if err == nil && got.Warn != (got.Allowed && (floor.warns || cluster.warns)) {
						t.Errorf("warn is %v: %+v", got.Warn, got)
					}
					var undecided *UndecidedError
					if errors.As(err, &undecided) && (undecided.Verdict == nil || undecided.Verdict.Allowed || undecided.Verdict.Warn) {
						t.Errorf("what could be found out allows: %+v", undecided.Verdict)
					}
				}
			})
		}
	}
}

// Who reads a refusal must know whose policy it is: names may be the same.
func TestResultsSayOfWhichLayerTheyAre(t *testing.T) {
	v := layered(t, testOptions(signedByRelease()), docs(byKey("P-256")), docs(byKey("other P-256")))
	got := verdictOn(t, v, appSubject())
	checkDecision(t, got, false, "none by this key")
	if len(got.Policies) != 2 || got.Policies[0].Layer != NodeLayer || !got.Policies[0].Passed || got.Policies[1].Layer != ClusterLayer || got.Policies[1].Passed {
		t.Errorf("%+v", got.Policies)
	}
	if node, both, ok := strings.Cut(got.Revision, "+"); !ok || node != setOf(t, byKey("P-256")).Revision() || both != setOf(t, byKey("other P-256")).Revision() || got.Revision != v.Revision() {
		t.Errorf("revision %s, in force %s", got.Revision, v.Revision())
	}
	v = layered(t, testOptions(failing(errUnavailable)), docs(policyDoc("p", "enforce", staticAuthority("pass", ""))), docs(byKey("P-256")))
	_, err := v.Verify(t.Context(), appSubject())
	checkUndecided(t, err, errUnavailable, "signed")
	if !strings.HasPrefix(err.Error(), `cluster policy "signed" could not be judged`) {
		t.Error(err)
	}
	var undecided *UndecidedError
	if errors.As(err, &undecided) && (len(undecided.Verdict.Policies) != 2 || undecided.Verdict.Revision != v.Revision()) {
		t.Errorf("%+v", undecided.Verdict)
	}
}

// It is known that there are restrictions, and not which.
func TestClusterPoliciesThatCannotBeHadAllowNothing(t *testing.T) {
	v := newVerifierWith(t, testOptions(signedByRelease()), byKey("P-256"), policyDoc("open", "enforce", staticAuthority("pass", "")))
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
	v.SetClusterUnusable(errors.New("half of it is missing"))
	for _, without := range []bool{false, true} {
		s := appSubject()
		s.WithoutCluster = without
		if got, err := v.Verify(t.Context(), s); !errors.Is(err, ErrNoPolicy) || !strings.Contains(err.Error(), "cluster policies: half of it is missing") {
			t.Errorf("%+v, %v", got, err)
		}
	}
	// A new set of the node's own does not make them known.
	v.SetPolicies(setOf(t, byKey("P-256")), nil)
	if _, err := v.Verify(t.Context(), appSubject()); !errors.Is(err, ErrNoPolicy) {
		t.Error(err)
	}
	v.SetCluster(nil, nil)
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
	v.SetUnusable(errors.New("the node's own are gone"))
	v.SetCluster(setOf(t, policyFor("**", "open", "enforce", staticAuthority("pass", ""))), nil)
	if got, err := v.Verify(t.Context(), appSubject()); !errors.Is(err, ErrNoPolicy) {
		t.Errorf("with the cluster's policies alone: %+v, %v", got, err)
	}
}

// A verdict reached before the cluster had its say, or under others of its policies, serves nothing afterwards.
func TestAVerdictDiesWithTheClustersPolicies(t *testing.T) {
	v := newVerifier(t, signedByRelease(), byKey("P-256"))
	refusing := setOf(t, policyFor("**", "closed", "enforce", staticAuthority("fail", "")))
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
	v.SetCluster(refusing, nil)
	checkDecision(t, verdictOn(t, v, appSubject()), false, "fails every image")
	v.SetCluster(setOf(t, policyFor("**", "closed", "enforce", staticAuthority("pass", ""))), nil)
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
	v.SetCluster(refusing, nil)
	checkDecision(t, verdictOn(t, v, appSubject()), false, "")
	v.SetPolicies(setOf(t, byKey("other P-256")), nil)
	v.SetCluster(setOf(t, policyFor("**", "open", "enforce", staticAuthority("pass", ""))), nil)
	checkDecision(t, verdictOn(t, v, appSubject()), false, "none by this key")
}

// What was let through in a namespace where the cluster's policies do not hold is not let through in one where they do.
func TestWhereTheClustersPoliciesDoNotHoldIsPartOfTheKey(t *testing.T) {
	for _, first := range []bool{false, true} {
		v := layered(t, testOptions(signedByRelease()), docs(byKey("P-256")), docs(policyFor("**", "closed", "enforce", staticAuthority("fail", ""))))
		for _, without := range []bool{first, !first, first, !first} {
			s := appSubject()
			s.WithoutCluster = without
			checkDecision(t, verdictOn(t, v, s), without, "")
		}
	}
}

// The labels of a pod make a difference to a policy of the cluster: one pod's verdict is not the next one's.
func TestAPodsDifferenceToTheClustersPoliciesIsPartOfTheKey(t *testing.T) {
	const forWeb = "  match: [{resource: pods, version: v1, selector: {matchLabels: {app: web}}}]\n"
	v := layered(t, testOptions(signedByRelease()), docs(byKey("P-256")), docs(policyFor("**", "closed", "enforce", staticAuthority("fail", ""))+forWeb))
	for range 2 {
		for app, allowed := range map[string]bool{"web": false, "other": true} {
			s := appSubject()
			s.Pod = &policy.Pod{Namespace: "shop", Labels: map[string]string{"app": app}}
			checkDecision(t, verdictOn(t, v, s), allowed, "")
		}
		checkDecision(t, verdictOn(t, v, appSubject()), false, "") // of a pod that is not known
	}
}

// Whoever changes the cluster's policies every second must not have every registry asked every second for the node's own,
// nor make an allow of these last longer than its time.
func TestTheNodesOwnVerdictOutlivesTheClustersPolicies(t *testing.T) {
	s := signedByRelease()
	v := newVerifier(t, s, byKey("P-256"))
	clock := stopped(v)
	step := 59 * time.Minute / 100
	for i := range 100 {
		v.SetCluster(setOf(t, policyFor("**", fmt.Sprintf("p%d", i), "enforce", staticAuthority("pass", ""))), nil)
		if got := verdictOn(t, v, appSubject()); !got.Allowed || got.Cached || got.Revision != v.Revision() {
			t.Fatalf("%+v", got)
		}
		clock.pass(step)
	}
	if n := s.calls.Load(); n != 1 {
		t.Errorf("the registry was asked %d times", n)
	}
	s.fetch = holding(found()).fetch // the signature is taken away
	clock.pass(time.Minute)
	checkDecision(t, verdictOn(t, v, appSubject()), false, "no signatures found")
}

// A rule over the pod's metadata makes every pod another key. The node's own verdict is not crowded out by it.
func TestTheClustersPoliciesCrowdOutNoVerdictOfTheNodesOwn(t *testing.T) {
	s := signedByRelease()
	o := testOptions(s)
	v := layered(t, o, docs(byKey("P-256")), docs(policyFor("**", "meta", "enforce", staticAuthority("pass", ""))+
		"  policy: {type: cue, data: \"metadata: {...}\", includeObjectMeta: true}\n"))
	for i := range 4 * o.CacheSize {
		subject := appSubject()
		subject.Pod = &policy.Pod{Namespace: "shop", Name: fmt.Sprintf("web-%d", i)}
		checkDecision(t, verdictOn(t, v, subject), true, "")
	}
	if n := s.calls.Load(); n != 1 {
		t.Errorf("the registry was asked %d times", n)
	}
}

// A verification that was under way when the cluster's policies changed leaves a verdict that is nobody's any more.
func TestAVerdictThatComesLateServesNotTheNextPolicies(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	s := &source{fetch: func(context.Context, string, digest.Digest, evidence.Credentials) (*evidence.Evidence, error) {
		asked <- struct{}{}
		<-answer
		return found(classicFor("P-256", appDigest)), nil
	}}
	v := layered(t, testOptions(s), docs(byKey("P-256")), docs(policyFor("**", "p", "enforce", staticAuthority("pass", ""))))
	done := make(chan Verdict)
	go func() {
		got, err := v.Verify(context.Background(), appSubject())
		if err != nil {
			t.Error(err)
		}
		done <- got
	}()
	<-asked
	v.SetCluster(setOf(t, policyFor("**", "p", "enforce", staticAuthority("fail", ""))), nil)
	close(answer)
	checkDecision(t, <-done, true, "")
	if n := v.Cached(); n != 1 {
		t.Errorf("%d verdicts are remembered, want the late one", n)
	}
	go func() {
		for range asked {
		}
	}()
	checkDecision(t, verdictOn(t, v, appSubject()), false, "fails every image")
	close(asked)
}
