package policy

import (
	"crypto"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"
)

// alike compares what policies hold by what it means.
var alike = cmp.Options{
	cmp.Comparer(func(a, b *regexp.Regexp) bool { return a == b || a != nil && b != nil && a.String() == b.String() }),
	cmp.Comparer(func(a, b labels.Selector) bool {
		return (a == nil) == (b == nil) && (a == nil || a.String() == b.String() && a.Empty() == b.Empty())
	}),
	cmp.FilterPath(func(p cmp.Path) bool { return p.Last().Type() == reflect.TypeFor[fieldLines]() }, cmp.Ignore()),
	cmp.Comparer(func(a, b Glob) bool { return a == b }),
	cmp.Comparer(func(a, b PublicKey) bool {
		return a.Fingerprint == b.Fingerprint && a.Hash == b.Hash && a.HashWritten == b.HashWritten
	}),
}

const cueRule, regoRule = `predicateType: "https://slsa.dev/provenance/v1"`, "package sigstore\nisCompliant { input.predicateType == \"x\" }\n"

// whole is a document that uses every field there is.
func whole(t testing.TB) string {
	return doc(`
images:
- glob: ghcr.io/team/*
mode: warn
match:
- {group: apps, version: v1, resource: deployments}
- version: v1
  resource: pods
  selector:
    matchLabels: {app: shop}
    matchExpressions:
    - {key: tier, operator: In, values: [front, back]}
    - {key: canary, operator: DoesNotExist}
- resource: jobs
  selector: {}
authorities:
- name: by-secret
  key:
    secretRef: {name: release-key, namespace: signing}
    hashAlgorithm: SHA512
  signatureFormat: bundle
  source:
  - oci: Registry.Example:5000/team/signatures
- key:
    secretRef: {name: release-key}
  source:
  - tagPrefix: v1-
    signaturePullSecrets: [{name: pull}, {name: other.pull}]
- key:
    kms: hashivault://release
  ctlog: {}
- name: ci
  keyless:
    url: https://fulcio.example
    trustRootRef: private
    insecureIgnoreSCT: true
    identities:
    - {issuer: https://ci.example, subjectRegExp: ^https://ci\.example/.+$}
    - {issuerRegExp: ^https://(a|b)\.example$, subject: release@example.com}
  ctlog:
    url: https://rekor.example
    trustRootRef: private
  rfc3161timestamp:
    trustRootRef: stamps
  attestations:
  - name: built
    predicateType: slsaprovenance1
    policy: {type: cue, data: '` + cueRule + `'}
  - name: scanned
    predicateType: https://scan.example/v1
    policy:
      type: rego
      remote: {url: https://rules.example/scan.rego, sha256sum: ` + strings.Repeat("AB", 32) + `}
  - name: listed
    predicateType: spdxjson
- keyless:
    ca-cert: {secretRef: {name: ca}}
    identities: [{issuer: i, subject: s}]
  ctlog: {trustRootRef: private}
  rfc3161timestamp: {}
policy:
  type: rego
  configMapRef: {name: rules, key: both.rego}
  fetchConfigFile: true
  includeSpec: false
  includeObjectMeta: true
  includeTypeMeta: true
`)
}

func TestWholeLanguage(t *testing.T) {
	glob, err := CompileGlob("ghcr.io/team/*")
	if err != nil {
		t.Fatal(err)
	}
	selector := func(s string) labels.Selector {
		parsed, err := labels.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	want := &Policy{
		Name: "p", Mode: Warn, Source: "test.yaml:1", Globs: []Glob{glob},
		Match: []Match{
			{Group: "apps", Version: "v1", Resource: "deployments"},
			{Version: "v1", Resource: "pods", Labels: selector("app=shop,!canary,tier in (back,front)")},
			{Resource: "jobs", Labels: labels.Everything()},
		},
		Authorities: []Authority{
			{
				Name:   "by-secret",
				Key:    &Key{Secret: &Reference{Namespace: "signing", Name: "release-key"}, Hash: crypto.SHA512, HashWritten: true},
				Format: BundleFormat, Source: &Source{Repository: "registry.example:5000/team/signatures"},
			},
			{
				Name: "authority-1", Key: &Key{Secret: &Reference{Namespace: "cosign-system", Name: "release-key"}, Hash: crypto.SHA256},
				Source: &Source{TagPrefix: "v1-", PullSecrets: []string{"pull", "other.pull"}},
			},
			{Name: "authority-2", Key: &Key{KMS: "hashivault://release", Hash: crypto.SHA256}, Log: &Log{}},
			{
				Name: "ci",
				Keyless: &Keyless{
					URL: "https://fulcio.example", TrustRoot: "private", IgnoreSCT: true,
					Identities: []Identity{
						{Issuer: "https://ci.example", SubjectRegExp: regexp.MustCompile(`^https://ci\.example/.+$`)},
						{IssuerRegExp: regexp.MustCompile(`^https://(a|b)\.example$`), Subject: "release@example.com"},
					},
				},
				Log: &Log{URL: "https://rekor.example", TrustRoot: "private"}, Timestamp: &Timestamp{TrustRoot: "stamps"},
				Attestations: []Attestation{
					{Name: "built", PredicateType: "slsaprovenance1", Rule: &Rule{Type: "cue", Text: cueRule}},
					{Name: "scanned", PredicateType: "https://scan.example/v1", Rule: &Rule{
						Type: "rego", Remote: &Remote{URL: "https://rules.example/scan.rego", SHA256: strings.Repeat("ab", 32)},
					}},
					{Name: "listed", PredicateType: "spdxjson"},
				},
			},
			{
				Name:    "authority-4",
				Keyless: &Keyless{CA: &Certificates{Secret: &Reference{Namespace: "cosign-system", Name: "ca"}}, Identities: []Identity{{Issuer: "i", Subject: "s"}}},
				Log:     &Log{TrustRoot: "private"}, Timestamp: &Timestamp{},
			},
		},
		Rule:            &Rule{Type: "rego", ConfigMap: &Reference{Namespace: "cosign-system", Name: "rules", Key: "both.rego"}},
		FetchConfigFile: true, IncludeObjectMeta: true, IncludeTypeMeta: true,
	}
	for _, version := range []string{"v1beta1", "v1alpha1"} {
		got := mustParse(t, strings.Replace(whole(t), "v1beta1", version, 1))
		if diff := cmp.Diff([]*Policy{want}, got, alike); diff != "" {
			t.Errorf("%s (-want +got):\n%s", version, diff)
		}
	}
}

// What is written and empty is what is left out, where that trusts nobody else and demands no less. All other empties
// are faults: TestAuthorityRefused has them.
func TestEmptyIsTheDefault(t *testing.T) {
	plain := doc("images: [{glob: '**'}]\nauthorities: [{key: {secretRef: {name: a}}}]")
	empty := doc("mode: ''\nmatch: []\nimages: [{glob: '**'}]\nauthorities: [{name: '', signatureFormat: '', source: [], attestations: [], key: {data: '', kms: '', hashAlgorithm: '', secretRef: {name: a}}}]")
	if a, b := mustSet(t, plain), mustSet(t, empty); a.Revision() != b.Revision() {
		t.Errorf("%+v\n%+v", a.policies[0], b.policies[0])
	}
}

func TestNeedsLog(t *testing.T) {
	key, keyless := &Key{}, &Keyless{}
	for rule, c := range map[string]struct {
		a    Authority
		want bool
	}{
		"key":                         {Authority{Key: key}, false},
		"key, ctlog: {}":              {Authority{Key: key, Log: &Log{}}, false},
		"key, ctlog with url":         {Authority{Key: key, Log: &Log{URL: "https://rekor.example"}}, true},
		"key, ctlog with a root":      {Authority{Key: key, Log: &Log{TrustRoot: "r"}}, true},
		"keyless":                     {Authority{Keyless: keyless}, true},
		"keyless, ctlog: {}":          {Authority{Keyless: keyless, Log: &Log{}}, false},
		"keyless, ctlog with a root":  {Authority{Keyless: keyless, Log: &Log{TrustRoot: "r"}}, true},
		"keyless, ctlog with its url": {Authority{Keyless: keyless, Log: &Log{URL: "https://rekor.example"}}, true},
	} {
		if got := c.a.NeedsLog(); got != c.want {
			t.Errorf("%s: %t, want %t", rule, got, c.want)
		}
	}
}

func TestSourceIsCanonical(t *testing.T) {
	for written, want := range map[string]string{
		"docker.io/library/x":               "docker.io/library/x",
		"docker.io/x":                       "docker.io/library/x",
		"index.docker.io/team/x":            "docker.io/team/x",
		"INDEX.docker.io/library/x":         "docker.io/library/x",
		"GHCR.io/team/signatures":           "ghcr.io/team/signatures",
		"localhost:5000/a":                  "localhost:5000/a",
		"localhost/a/b":                     "localhost/a/b",
		"127.0.0.1:5000/a/b/c":              "127.0.0.1:5000/a/b/c",
		"[::1]:5000/a":                      "[::1]:5000/a",
		"registry.example/team/a__b/c.d-e":  "registry.example/team/a__b/c.d-e",
		"europe-docker.pkg.dev/p/r/s":       "europe-docker.pkg.dev/p/r/s",
		"registry.example:443/team/sigs":    "registry.example:443/team/sigs",
		"registry.example/team/signatures2": "registry.example/team/signatures2",
	} {
		p := mustParse(t, doc("images: [{glob: a}]\nauthorities: [{key: {kms: 'hashivault://k'}, source: [{oci: '"+written+"'}]}]"))
		if got := p[0].Authorities[0].Source.Repository; got != want {
			t.Errorf("%s: %s, want %s", written, got, want)
		}
	}
}

func TestSelects(t *testing.T) {
	pod := func(labels ...string) *Pod {
		p := &Pod{Labels: map[string]string{}}
		for i := 0; i < len(labels); i += 2 {
			p.Labels[labels[i]] = labels[i+1]
		}
		return p
	}
	for _, c := range []struct {
		rule, match string
		pod         *Pod
		want        bool
	}{
		{"no match is every pod", "", pod(), true},
		{"an empty list is every pod", "match: []", pod(), true},
		{"an entry for pods", "match: [{resource: pods, version: v1}]", pod(), true},
		{"an entry for another resource applies to what it made", "match: [{resource: deployments, group: apps, version: v1}]", pod(), true},
		{"an empty entry", "match: [{}]", pod(), true},
		{"an empty selector", "match: [{resource: pods, selector: {}}]", pod(), true},
		{"a label that is there", "match: [{resource: pods, selector: {matchLabels: {a: b}}}]", pod("a", "b", "c", "d"), true},
		{"a label with another value", "match: [{resource: pods, selector: {matchLabels: {a: b}}}]", pod("a", "c"), false},
		{"a label that is missing", "match: [{resource: pods, selector: {matchLabels: {a: b}}}]", pod(), false},
		{"a pod that is not known", "match: [{resource: pods, selector: {matchLabels: {a: b}}}]", nil, true},
		{"all requirements count", "match: [{resource: pods, selector: {matchLabels: {a: b}, matchExpressions: [{key: c, operator: Exists}]}}]", pod("a", "b"), false},
		{"any entry suffices", "match: [{resource: pods, selector: {matchLabels: {a: b}}}, {resource: pods, selector: {matchLabels: {a: c}}}]", pod("a", "c"), true},
		{"In", "match: [{resource: pods, selector: {matchExpressions: [{key: a, operator: In, values: [b, c]}]}}]", pod("a", "c"), true},
		{"NotIn of a missing label", "match: [{resource: pods, selector: {matchExpressions: [{key: a, operator: NotIn, values: [b]}]}}]", pod(), true},
		{"NotIn", "match: [{resource: pods, selector: {matchExpressions: [{key: a, operator: NotIn, values: [b]}]}}]", pod("a", "b"), false},
		{"DoesNotExist", "match: [{resource: pods, selector: {matchExpressions: [{key: a, operator: DoesNotExist}]}}]", pod("a", ""), false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			p := mustParse(t, doc("images: [{glob: '**'}]\n"+staticPass+"\n"+c.match))
			if got := p[0].Selects(c.pod); got != c.want {
				t.Errorf("%t, want %t", got, c.want)
			}
		})
	}
}
