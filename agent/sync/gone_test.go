package sync

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The last good set stays for as long as the API server is away, and its age shows.
func TestAnAPIServerThatIsGoneChangesNothing(t *testing.T) {
	all := []string{policyPath, oldPolicyPath, rootPath, namespacePath, secretPath}
	a := newAPIServer(t)
	a.policy("a", bySecret("key"))
	a.secret("cosign-system", "key", map[string]string{"cosign.pub": "PEM"})
	a.namespace("shop", nil)
	n := start(t, a, t.TempDir())
	n.upToDate()
	n.eventually("the key", n.has("secrets/cosign-system/key/cosign.pub"))
	want := n.files()
	a.answer(http.StatusServiceUnavailable, all...)
	n.eventually("that it is gone", func() bool {
		return n.metric(`cosentry_sync_source{resource="clusterimagepolicies",state="unreachable"}`) == 1
	})
	n.rounds(1)
	knew := n.metric(upToDateSeries)
	n.rounds(3)
	if diff := cmp.Diff(want, n.files()); diff != "" {
		t.Error(diff)
	}
	if now := n.metric(upToDateSeries); now != knew {
		t.Errorf("it takes itself for up to date at %v, was at %v", now, knew)
	}
	n.stop()
	before := n.beat()

	n = start(t, a, n.dir)
	n.eventually("no answer", func() bool {
		return n.metric(`cosentry_sync_source{resource="namespaces",state="unreachable"}`) == 1
	})
	n.rounds(5)
	if diff := cmp.Diff(want, n.files()); diff != "" || n.metric("cosentry_sync_sets_written_total") != 0 {
		t.Error(diff)
	}
	if !n.beat().Equal(before) || n.metric(upToDateSeries) != 0 {
		t.Errorf("it takes itself for up to date at %s", n.beat())
	}
	a.answer(0, all...)
	n.upToDate()
}

// The heartbeat is as old as the kind that was heard of last.
func TestTheHeartbeatSaysSinceWhenNothingWasMissed(t *testing.T) {
	a := newAPIServer(t)
	a.policy("a", static("fail"))
	n := start(t, a, t.TempDir())
	n.upToDate()
	n.eventually("a policy", n.has(fileA))
	for _, resource := range []string{policies, trustRoots, namespaces} {
		n.eventually("changes of "+resource, func() bool { return n.metric(`cosentry_sync_source{resource="`+resource+`",state="live"}`) == 1 })
	}
	heard := func(resource string) time.Time { return n.sync.kinds[resource].view().seen }
	bookmark := func() {
		before := time.Now()
		a.bookmark(policyPath, rootPath)
		n.eventually("bookmarks", func() bool { return heard(policies).After(before) && heard(trustRoots).After(before) })
		n.rounds(2)
	}
	bookmark() // namespaces are what was heard of last from now on
	before := n.metric(upToDateSeries)
	bookmark()
	if now := n.metric(upToDateSeries); now != before {
		t.Errorf("namespaces were not heard of: %v became %v", before, now)
	}
	a.bookmark(policyPath, rootPath, namespacePath)
	n.eventually("a later time", func() bool { return n.metric(upToDateSeries) > before })
}

// Whoever deletes a definition deletes all policies, and hardly meant to.
func TestARemovedDefinitionRemovesNoPolicy(t *testing.T) {
	a := newAPIServer(t)
	a.policy("a", static("fail"))
	a.policy("b", static("fail"))
	n := start(t, a, t.TempDir())
	n.upToDate()
	n.eventually("policies", n.has(fileA))

	a.put(definitionAt, "CustomResourceDefinition", map[string]any{"metadata": map[string]any{"name": "clusterimagepolicies." + group, "deletionTimestamp": "2026-03-01T12:00:00Z"}})
	a.remove(policyPath, "", "a")
	n.eventually("that it is held", func() bool {
		return n.metric(`cosentry_sync_documents_held{resource="clusterimagepolicies"}`) == 1
	})
	a.remove(policyPath, "", "b")
	n.eventually("that both are", func() bool {
		return n.metric(`cosentry_sync_documents_held{resource="clusterimagepolicies"}`) == 2
	})
	a.remove(definitionAt, "", "clusterimagepolicies."+group)
	a.answer(http.StatusNotFound, policyPath, oldPolicyPath)
	n.eventually("that the kind is gone", func() bool {
		return n.metric(`cosentry_sync_source{resource="clusterimagepolicies",state="absent"}`) == 1
	})
	n.rounds(3)
	n.stop()
	n = start(t, a, n.dir)
	n.eventually("that it is held", func() bool {
		return n.metric(`cosentry_sync_documents_held{resource="clusterimagepolicies"}`) == 2
	})
	a.put(rootPath, "TrustRoot", named("broken", map[string]any{}))
	a.remove(rootPath, "", "broken")
	n.rounds(3)
	if !n.has(fileA)() || !n.has("policies/clusterimagepolicy.b.yaml")() || n.metric(upToDateSeries) != 0 {
		t.Errorf("%v, up to date at %s", n.files(), n.beat())
	}
	// It is back, and its owner left one out.
	a.put(definitionAt, "CustomResourceDefinition", map[string]any{"metadata": map[string]any{"name": "clusterimagepolicies." + group}})
	a.policy("b", static("fail"))
	a.answer(0, policyPath)
	n.eventually("what is back", n.hasNot(fileA))
	n.upToDate()
}

func TestADefinitionThatMayNotBeLookedAtConfirmsNothing(t *testing.T) {
	a := newAPIServer(t)
	a.answer(http.StatusForbidden, definitionAt+"/clusterimagepolicies."+group)
	a.policy("a", static("fail"))
	n := start(t, a, t.TempDir())
	n.eventually("a policy", n.has(fileA))
	a.remove(policyPath, "", "a")
	n.eventually("that it is held", func() bool {
		return n.metric(`cosentry_sync_documents_held{resource="clusterimagepolicies"}`) == 1
	})
	n.rounds(2)
	if !n.has(fileA)() {
		t.Error("removed")
	}
}

// A role that was taken away is not a cluster without policies.
func TestRefusedIsNotNone(t *testing.T) {
	a := newAPIServer(t)
	a.policy("a", bySecret("key"))
	a.secret("cosign-system", "key", map[string]string{"cosign.pub": "PEM"})
	n := start(t, a, t.TempDir())
	n.upToDate()
	n.eventually("the key", n.has("secrets/cosign-system/key/cosign.pub"))
	n.stop()
	want := n.files()
	a.answer(http.StatusForbidden, policyPath, oldPolicyPath, rootPath, namespacePath, secretPath)
	n = start(t, a, n.dir)
	n.eventually("that it is refused", func() bool {
		return n.metric(`cosentry_sync_source{resource="clusterimagepolicies",state="refused"}`) == 1 && n.metric(`cosentry_sync_references{state="refused"}`) == 1
	})
	n.rounds(3)
	if diff := cmp.Diff(want, n.files()); diff != "" {
		t.Error(diff)
	}

	fresh := start(t, a, t.TempDir())
	fresh.eventually("that it is refused", func() bool { return fresh.metric("cosentry_sync_broken") == 1 })
	if fresh.files() != nil {
		t.Errorf("it takes what it may not read for none: %v", fresh.files())
	}
}

func TestAClusterWithoutTheKindsHasNoPolicies(t *testing.T) {
	a := newAPIServer(t)
	a.answer(http.StatusNotFound, policyPath, oldPolicyPath, rootPath)
	a.namespace("shop", nil)
	n := start(t, a, t.TempDir())
	n.eventually("a set", func() bool { return n.files() != nil })
	n.upToDate()
	a.policy("a", static("fail"))
	a.answer(0, policyPath, rootPath)
	n.eventually("a policy", n.has(fileA))
}

func TestAnOlderVersionOfTheKindDoes(t *testing.T) {
	for _, code := range []int{http.StatusNotFound, http.StatusInternalServerError} {
		a := newAPIServer(t)
		a.answer(code, policyPath)
		a.put(oldPolicyPath, "ClusterImagePolicy", named("a", forAll(static("fail"))))
		n := start(t, a, t.TempDir())
		n.eventually("a policy", n.has(fileA))
		if !strings.Contains(n.files()[fileA], "v1alpha1") {
			t.Error(n.files()[fileA])
		}
		n.upToDate()
	}
}
