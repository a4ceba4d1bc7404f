package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
)

// Policies, what they refer to, and where images come from.
func TestFaultsOfJudgingAreNamed(t *testing.T) {
	named(t, map[string]fault{
		"policies that cannot be loaded":     {"policies", func(t *testing.T, n *node) { n.write(t, "/etc/cosentry/policies/bad.yaml", "kind: [") }, Fail, "bad.yaml", "policy check"},
		"no policies and everything allowed": {"policies", noPolicies("allow"), Fail, "everything runs", "write policies"},
		"no policies":                        {"policies", noPolicies("deny"), Warn, "no policies in", "write policies"},
		"policies on disk that are not in force": {"policies", func(t *testing.T, n *node) {
			noPolicies("deny")(t, n)
			n.status.Policies.Revision = "other"
		}, Warn, `"other" is in force`, "look again"},
		"a key service that is away":   {"references", trusts(sight.Trust{Kind: "kms key", Name: "awskms:///k", Error: "no route to host"}), Fail, "no route to host", "key management service"},
		"a root that has expired":      {"references", trusts(sight.Trust{Kind: "trust root", Name: "corp", OK: true, Expires: time.Now().Add(-time.Hour)}), Fail, "corp expired", ""},
		"a root that expires soon":     {"references", trusts(sight.Trust{Kind: "trust root", Name: "corp", OK: true, Expires: time.Now().Add(time.Hour)}), Warn, "corp expires", ""},
		"a key that cannot be renewed": {"references", trusts(sight.Trust{Kind: "kms key", Name: "awskms:///k", OK: true, Error: "denied"}), Warn, "not renewed: denied", ""},
		"a key service, without agent": {"references", deadAgentTrust, Fail, "no credentials", ""},
		"namespaces that are not told": {"namespaces", func(_ *testing.T, n *node) { n.status.Namespaces.State = "missing" }, Warn, "in all namespaces", ""},
		"a sandbox image that is refused": {"sandbox", func(_ *testing.T, n *node) {
			n.status.Sandbox.Images[0].Allowed = false
		}, Warn, "pods start with it", "sandbox.refuse"},
		"a sandbox image that stops all": {"sandbox", func(_ *testing.T, n *node) {
			n.status.Sandbox.Images[0].Allowed, n.status.Sandbox.Refuse = false, true
		}, Fail, "no pod starts", ""},
		"the cluster's policies broken at start": {"cluster-policies", cluster(sight.ClusterPolicies{State: "broken", Broken: "bad"}), Fail, "every image is refused", "sync"},
		"the cluster's policies broken":          {"cluster-policies", cluster(sight.ClusterPolicies{State: "broken", Revision: "r", Broken: "bad"}), Fail, "stay in force", "sync"},
		"the cluster's policies old":             {"cluster-policies", cluster(sight.ClusterPolicies{State: "good", Heartbeat: time.Now().Add(-sight.StaleAfter - time.Second)}), Warn, "up to date", "API server"},
		"the cluster's policies unsigned":        {"cluster-policies", cluster(sight.ClusterPolicies{State: "good", SkippedCount: 1, Skipped: []sight.Skipped{{File: "x", Why: "no signature"}}}), Warn, "x: no signature", "policy signed"},
		"a registry that is away":                {"registries", registry(errors.New("connection refused")), Fail, "registry.example: connection refused", "network"},
	})
}

func noPolicies(noMatch string) func(*testing.T, *node) {
	return func(t *testing.T, n *node) {
		n.config.Policies.NoMatch = noMatch
		if err := os.MkdirAll(filepath.Join(n.Root, n.config.Policies.Dir), 0o755); err != nil {
			t.Fatal(err)
		}
		set, err := n.policySet()
		if err != nil {
			t.Fatal(err)
		}
		n.status.Policies.Revision = set.Revision()
	}
}

func trusts(one sight.Trust) func(*testing.T, *node) {
	return func(_ *testing.T, n *node) { n.status.Trust = []sight.Trust{one} }
}

// deadAgentTrust: without an agent what policies refer to is fetched.
func deadAgentTrust(t *testing.T, n *node) {
	noPolicies("deny")(t, n)
	n.status = nil
	n.Trust = func(_ context.Context, c config.Trust, set *policy.Set) ([]sight.Trust, error) {
		if set == nil || !strings.HasPrefix(c.Dir, n.Root) || c.CacheDir != "" {
			t.Errorf("asked about %v in %+v", set, c)
		}
		return []sight.Trust{{Kind: "kms key", Name: "gcpkms://k", Error: "no credentials"}}, nil
	}
}

func cluster(c sight.ClusterPolicies) func(*testing.T, *node) {
	return func(_ *testing.T, n *node) { n.status.ClusterPolicies = &c }
}

// away is a registry that gives one answer to all.
type away struct{ err error }

func (a away) Resolve(context.Context, string, string, evidence.Credentials) (digest.Digest, error) {
	return "", a.err
}

func registry(answer error) func(*testing.T, *node) {
	return func(t *testing.T, n *node) {
		n.record(t, audit.Record{Action: audit.ActionPull, Decision: audit.DecisionError, Image: "registry.example/app:1"})
		n.Registries = func(config.Config) (Registries, error) { return away{answer}, nil }
	}
}

// A registry that has no such image, or wants credentials, answers.
func TestRegistryThatRefusesAnswers(t *testing.T) {
	for _, err := range []error{nil, evidence.ErrNotFound, evidence.ErrUnauthorized} {
		n := wellNode(t)
		registry(err)(t, n)
		if f := registries(t.Context(), n); f.Level != OK {
			t.Errorf("%v: %+v", err, f)
		}
	}
}
