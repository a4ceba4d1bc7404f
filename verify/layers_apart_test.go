package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rescue"
	"github.com/cosentry/cosentry/verify/sigstore/sigstoretest"
	"github.com/cosentry/cosentry/verify/trust"
)

const (
	bySecret  = "secretRef: {namespace: cosign-system, name: release}"
	elsewhere = "source: [{oci: attacker.example/signatures}]"
)

// clusterKeeper finds what policies of the cluster refer to, as an agent does.
func clusterKeeper(t testing.TB, roots ...trust.RootFile) *trust.Keeper {
	t.Helper()
	k, err := trust.New(trust.Options{Roots: roots, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A Secret that came with the cluster's documents has the attacker's key, under the name of the node's own.
func TestASecretOfTheClusterIsNotTheNodesOwn(t *testing.T) {
	w := newWorld(t)
	w.write("secrets/cosign-system/release/cosign.pub", publicPEM(keyOfKind("P-256")))
	var held trust.Memory
	if err := held.Add(trust.KindSecret, "cosign-system", "release", "cosign.pub", []byte(publicPEM(keyOfKind("third P-256")))); err != nil {
		t.Fatal(err)
	}
	doc := policyDoc("signed", "enforce", keyFrom("release", bySecret))
	for kind, want := range map[string]struct{ node, cluster bool }{"P-256": {node: true}, "third P-256": {cluster: true}} {
		v := w.verifier(testOptions(holding(found(classicFor(kind, appDigest)))), doc)
		set := setOf(t, doc)
		v.SetCluster(set, clusterKeeper(t).ResolveIn(set, &held))
		got := verdictOn(t, v, appSubject())
		checkDecision(t, got, false, "none by this key")
		if got.Policies[0].Passed != want.node || len(got.Policies) > 1 && got.Policies[1].Passed != want.cluster {
			t.Errorf("signed by %s: %+v", kind, got.Policies)
		}
	}
	// Nor does a policy of the cluster get at the node's.
	v := w.verifier(testOptions(signedByRelease()), doc)
	set := setOf(t, doc)
	v.SetCluster(set, clusterKeeper(t).ResolveIn(set, &trust.Memory{}))
	checkDecision(t, verdictOn(t, v, appSubject()), false, "the cluster's documents came without it")
}

// A TrustRoot of the cluster has the name of the node's own, and the attacker's authorities. So has a pull secret.
func TestATrustRootOfTheClusterIsNotTheNodesOwn(t *testing.T) {
	w, attacker := newWorld(t), newWorld(t)
	root := attacker.write("attacker.json", string(attacker.TrustedRoot()))
	doc := policyDoc("signed", "enforce", keyless("people", testLog))
	v := w.verifier(testOptions(holding(found(attacker.Signature(appDigest, sigstoretest.By{Log: true})))), doc)
	checkDecision(t, verdictOn(t, v, appSubject()), false, "")
	checkDecision(t, verdictOn(t, attacker.verifier(testOptions(holding(found(attacker.Signature(appDigest, sigstoretest.By{Log: true})))), doc), appSubject()), true, "")
	set := setOf(t, doc)
	v.SetCluster(set, clusterKeeper(t, trust.RootFile{Name: "test", Path: root}).Resolve(set))
	checkDecision(t, verdictOn(t, v, appSubject()), false, "")
	set = setOf(t, policyFor("**", "open", "enforce", staticAuthority("pass", "")))
	v.SetCluster(set, clusterKeeper(t, trust.RootFile{Name: "test", Path: root}).Resolve(set))
	checkDecision(t, verdictOn(t, v, appSubject()), false, "")
}

// Policies of the cluster have a registry asked that never answers, about more images than there are places for. What the
// node's own policies want to know is asked all the same.
func TestTheClustersPoliciesTakeNoPlaceFromTheNodesOwn(t *testing.T) {
	hanging, answer := make(chan struct{}, 100), make(chan struct{})
	s := &source{fetch: func(_ context.Context, repository string, d digest.Digest, _ evidence.Credentials) (*evidence.Evidence, error) {
		if strings.HasPrefix(repository, "hangs") {
			hanging <- struct{}{}
			<-answer
			return nil, errUnavailable
		}
		return &evidence.Evidence{Repository: repository, Digest: d, Signatures: []evidence.Signature{classicFor("P-256", d)}}, nil
	}}
	var policies []string
	for i := range 3 { // one registry does not get all places
		policies = append(policies, policyFor(fmt.Sprintf("registry.example/team/app:%d*", i), fmt.Sprintf("p%d", i), "enforce",
			keyAuthority("k", []string{"P-256"}, fmt.Sprintf("source: [{oci: hangs-%d.example/x}]", i))))
	}
	v := layered(t, testOptions(s), docs(byKey("P-256")), policies)
	var all sync.WaitGroup
	for i := range 3 * limits.Questions.Max() {
		all.Go(func() {
			image := appSubject()
			image.Image = fmt.Sprintf("%s:%d-%d", testRepository, i%3, i)
			if got, err := v.Verify(context.Background(), image); err == nil {
				t.Errorf("%+v", got)
			}
		})
	}
	for range limits.ClusterQuestions.Max() {
		select {
		case <-hanging:
		case <-time.After(10 * time.Second):
			t.Fatal("not as many were asked about as there are places")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	free, bad := appSubject(), appSubject()
	free.Image, bad.Image = testRepository+":free", testRepository+":bad"
	bad.Digest = otherDigest
	got, err := v.Verify(ctx, free)
	if err != nil || !got.Allowed {
		t.Errorf("beside them: %+v, %v", got, err)
	}
	if got, err = v.Verify(ctx, bad); err != nil || !got.Allowed {
		t.Errorf("beside them: %+v, %v", got, err)
	}
	if n := len(hanging); n > 0 {
		t.Errorf("%d more were asked about than there are places", n)
	}
	close(answer)
	all.Wait()
}

// A policy of the cluster names more places than may be asked about one image at once: its material would be as many times
// what is bounded.
func TestTheClustersPoliciesNameOnlySoManyPlaces(t *testing.T) {
	for extra, allowed := range []bool{true, false} {
		s := signedByRelease()
		authorities := []string{keyAuthority("k", []string{"P-256"})}
		for i := range limits.ClusterQuestions.Max() - 1 + int64(extra) {
			authorities = append(authorities, keyAuthority(fmt.Sprintf("k%d", i), []string{"other P-256"}, fmt.Sprintf("source: [{oci: r%d.example/x}]", i)))
		}
		v := layered(t, testOptions(s), docs(byKey("P-256")), docs(policyDoc("many", "enforce", authorities...)))
		got, err := v.Verify(t.Context(), appSubject())
		if allowed {
			if err != nil || !got.Allowed {
				t.Errorf("%+v, %v", got, err)
			}
			continue
		}
		var exceeded *limits.Exceeded
		if !errors.As(err, &exceeded) || exceeded.Bound != limits.ClusterQuestions {
			t.Errorf("%+v, %v", got, err)
		}
		if n := s.calls.Load(); n != 1 {
			t.Errorf("%d places were asked, and only the node's own policies may", n)
		}
	}
}

// What was kept for the cluster's policies is not evidence for the node's own, and neither crowds out the other's.
func TestEvidenceIsKeptApart(t *testing.T) {
	good := found(classicFor("P-256", appDigest))
	own, clusters := &memory{}, &memory{recall: good}
	o := testOptions(failing(errUnavailable))
	o.Keeper, o.ClusterKeeper = own, clusters
	v := layered(t, o, docs(byKey("P-256")), docs(byKey("P-256")))
	_, err := v.Verify(t.Context(), appSubject())
	checkUndecided(t, err, errUnavailable, "signed")
	if clusters.asked != 0 {
		t.Error("the cluster's was asked")
	}
	own.recall = good
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
	if own.asked != 2 || clusters.asked != 1 {
		t.Errorf("asked %d and %d times", own.asked, clusters.asked)
	}
	own, clusters = &memory{}, &memory{}
	o = testOptions(&source{fetch: func(_ context.Context, repository string, d digest.Digest, _ evidence.Credentials) (*evidence.Evidence, error) {
		return &evidence.Evidence{Repository: repository, Digest: d, Signatures: []evidence.Signature{classicFor("P-256", d)}}, nil
	}})
	o.Keeper, o.ClusterKeeper = own, clusters
	v = layered(t, o, docs(byKey("P-256")), docs(policyDoc("elsewhere", "enforce", keyAuthority("k", []string{"P-256"}, elsewhere))))
	checkDecision(t, verdictOn(t, v, appSubject()), true, "")
	if len(own.kept) != 1 || own.kept[0].Repository != testRepository || len(clusters.kept) != 1 || clusters.kept[0].Repository != "attacker.example/signatures" {
		t.Errorf("kept %v and %v", own.kept, clusters.kept)
	}
}

// Both layers look beside the image, as a rule. It is asked about once, unless it is much, or not whole.
func TestWhatTheNodesOwnPoliciesHadFetchedIsNotFetchedAgain(t *testing.T) {
	large := classicFor("P-256", appDigest)
	large.Annotations = map[string]string{"padding": strings.Repeat("x", maxCarried)}
	for name, c := range map[string]struct {
		ev    *evidence.Evidence
		calls int64
	}{
		"small":     {found(classicFor("P-256", appDigest)), 1},
		"large":     {found(classicFor("P-256", appDigest), large), 2},
		"not whole": {found(classicFor("P-256", appDigest), errUnavailable), 2},
	} {
		s := holding(c.ev)
		v := layered(t, testOptions(s), docs(byKey("P-256")), docs(byKey("P-256")))
		checkDecision(t, verdictOn(t, v, appSubject()), true, "")
		if n := s.calls.Load(); n != c.calls {
			t.Errorf("%s: the registry was asked %d times, want %d", name, n, c.calls)
		}
	}
}

// The request's credentials, and the pull secrets on the node, do not go where a policy of the cluster says.
func TestThePodsCredentialsDoNotGoWhereTheClusterSays(t *testing.T) {
	w := newWorld(t)
	w.write("secrets/shop/regcred/.dockerconfigjson", `{"auths": {"attacker.example": {"username": "node", "password": "secret"}}}`)
	s := &source{fetch: func(_ context.Context, repository string, d digest.Digest, c evidence.Credentials) (*evidence.Evidence, error) {
		if repository != testRepository && !c.IsZero() {
			t.Errorf("%s was shown credentials", repository)
		}
		return &evidence.Evidence{Repository: repository, Digest: d, Signatures: []evidence.Signature{classicFor("P-256", d)}}, nil
	}}
	v := w.verifier(testOptions(s), byKey("P-256"))
	set := setOf(t, policyDoc("elsewhere", "enforce", keyAuthority("k", []string{"P-256"}, "source: [{oci: attacker.example/signatures, signaturePullSecrets: [{name: regcred}]}]")))
	v.SetCluster(set, clusterKeeper(t).ResolveIn(set, &trust.Memory{}))
	subject := appSubject()
	subject.Credentials = evidence.Credentials{Username: "kubelet", Password: "secret"}
	subject.Pod = &policy.Pod{Namespace: "shop", Name: "web"}
	_, _ = v.Verify(t.Context(), subject)
	if n := s.calls.Load(); n != 2 {
		t.Errorf("%d places were asked", n)
	}
}

// A parser panics on what only a policy of the cluster had fetched.
func TestAPanicOverTheClustersEvidenceAllowsNothing(t *testing.T) {
	s := &source{fetch: func(_ context.Context, repository string, d digest.Digest, _ evidence.Credentials) (*evidence.Evidence, error) {
		if repository != testRepository {
			panic("crafted")
		}
		return found(classicFor("P-256", d)), nil
	}}
	v := layered(t, testOptions(s), docs(byKey("P-256")), docs(policyDoc("elsewhere", "enforce", keyAuthority("k", []string{"P-256"}, elsewhere))))
	got, err := v.Verify(t.Context(), appSubject())
	if !errors.Is(err, rescue.ErrPanicked) || got.Allowed {
		t.Errorf("%+v, %v", got, err)
	}
}
