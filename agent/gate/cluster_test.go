package gate

import (
	"testing"

	"github.com/cosentry/cosentry/verify"
)

// Whoever reads a refusal must know whom to ask: policies of one name may be the node's own and the cluster's.
func TestARefusalByThePoliciesOfTheClusterSaysSo(t *testing.T) {
	static := []verify.AuthorityResult{{Kind: "static"}}
	for name, tc := range map[string]struct {
		v              verify.Verdict
		words          []string
		reason, layers string
	}{
		"a policy of the cluster": {
			v: verify.Verdict{Policies: []verify.PolicyResult{
				{Policy: "signed", Mode: "enforce", Passed: true},
				{Policy: "signed", Layer: verify.ClusterLayer, Mode: "enforce", Reason: "unsigned"},
			}},
			words: []string{`by cluster policy "signed": unsigned. Sign it`}, reason: `cluster policy "signed": unsigned`, layers: " cluster",
		},
		"one that no signature helps against": {
			v:     verify.Verdict{Policies: []verify.PolicyResult{{Policy: "shut", Layer: verify.ClusterLayer, Mode: "enforce", Reason: "closed", Authorities: static}}},
			words: []string{"Ask the cluster's administrator for a policy that accepts it"}, reason: `cluster policy "shut": closed`, layers: "cluster",
		},
		"one that lacks what it refers to": {
			v:     verify.Verdict{Policies: []verify.PolicyResult{{Policy: "key", Layer: verify.ClusterLayer, Mode: "enforce", Reference: true}}},
			words: []string{"Tell the cluster's administrator what is missing"}, reason: `cluster policy "key": `, layers: "cluster",
		},
		"one where none of the node's own matches, which would be allowed": {
			v: verify.Verdict{NoMatch: verify.NoMatchAllow, Policies: []verify.PolicyResult{
				{Policy: "signed", Layer: verify.ClusterLayer, Mode: "enforce", Reason: "unsigned"},
			}},
			words: []string{`by cluster policy "signed": unsigned. Sign it`}, reason: `no policy matches; cluster policy "signed": unsigned`, layers: "cluster",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.verdicts[manifest("bad")] = tc.v
			_, err := w.pull(t, other+":1")
			w.wantRefused(t, err, tc.words...)
			layers := ""
			for i, p := range w.records[0].Policies {
				if i > 0 {
					layers += " "
				}
				layers += p.Layer
			}
			if r := w.records[0]; r.Reason != tc.reason || layers != tc.layers {
				t.Errorf("%+v", r)
			}
		})
	}
}

// Where the cluster's policies hold is asked of the namespace that the runtime acts on; one that a request does not tell is
// under them.
func TestWhereTheClustersPoliciesHold(t *testing.T) {
	for name, tc := range map[string]struct {
		namespace string
		without   map[string]bool
		want      bool
	}{
		"where they hold":                   {"shop", map[string]bool{"free": true}, false},
		"where they do not":                 {"free", map[string]bool{"free": true}, true},
		"in a namespace that nobody names":  {"", map[string]bool{"": true}, false},
		"in one that its labels only claim": {"shop", map[string]bool{"claimed": true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.withoutCluster = tc.without
			pull := pullRequest(app + ":1")
			in(tc.namespace, pull.SandboxConfig)
			pull.SandboxConfig.Labels = map[string]string{"io.kubernetes.pod.namespace": "claimed"}
			if _, err := w.gate(t).PullImage(t.Context(), pull, w.forwardPull); err != nil {
				t.Fatal(err)
			}
			create := createRequest(spec(id("good"), app+":1"), spec(id("good"), app+":1@"+manifest("good").String()))
			in(tc.namespace, create.SandboxConfig)
			create.SandboxConfig.Labels = pull.SandboxConfig.Labels
			if _, err := w.gate(t).CreateContainer(t.Context(), create, w.forwardCreate); err != nil {
				t.Fatal(err)
			}
			if len(w.subjects) != 3 {
				t.Fatalf("judged: %+v", w.subjects)
			}
			for _, s := range w.subjects {
				if s.WithoutCluster != tc.want {
					t.Errorf("%+v", s)
				}
			}
		})
	}
}
