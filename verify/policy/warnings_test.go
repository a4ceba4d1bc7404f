package policy

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const images = "images: [{glob: ghcr.io/team/*}]\n"

func warningsOf(t *testing.T, spec string) (all []string) {
	t.Helper()
	for _, w := range mustSet(t, doc(spec)).Warnings() {
		all = append(all, w.String())
	}
	return all
}

func TestWarningsOfAuthorities(t *testing.T) {
	id := "identities: [{issuer: 'https://i.example', subject: s}]"
	keyless := "keyless: {" + id + "}"
	key := "key: {kms: 'hashivault://k'}"
	fresh, expired := testChain(t, false), testChain(t, true)
	for _, c := range []struct{ rule, spec, want string }{
		{"insecureIgnoreSCT", "authorities: [{keyless: {insecureIgnoreSCT: true, " + id + "}}]", "keyless.insecureIgnoreSCT: accepts certificates that no transparency log has seen"},
		{"keyless without log and timestamp", "authorities: [{" + keyless + ", ctlog: {}}]", "spec.authorities[0].ctlog: is {}, so nothing proves when"},
		{"keyless without log, with timestamp", "authorities: [{" + keyless + ", ctlog: {}, rfc3161timestamp: {trustRootRef: r}}]", ""},
		{"timestamp by nobody that is named", "authorities: [{" + keyless + ", rfc3161timestamp: {}}]", "spec.authorities[0].rfc3161timestamp: is {}, which policy-controller does not look at"},
		{"keyless", "authorities: [{" + keyless + "}]", ""},
		{"keyless of the public-good instance by its url", "authorities: [{keyless: {url: 'https://fulcio.sigstore.dev', " + id + "}}]", ""},
		{"keyless of another url", "authorities: [{keyless: {url: 'https://fulcio.example', " + id + "}}]", "keyless.url: certificates are checked with the public-good instance's"},
		{"keyless of another url with its root", "authorities: [{keyless: {url: 'https://fulcio.example', trustRootRef: r, " + id + "}}]", ""},
		{"ctlog of another url", "authorities: [{" + key + ", ctlog: {url: 'https://rekor.example'}}]", "ctlog.url: proofs by this log are checked with the public-good instance's keys"},
		{"ctlog of another url with its root", "authorities: [{" + key + ", ctlog: {url: 'https://rekor.example', trustRootRef: r}}]", ""},
		{"ctlog of the public-good instance", "authorities: [{" + key + ", ctlog: {url: 'https://rekor.sigstore.dev'}}]", ""},
		{"ctlog by http", "authorities: [{" + key + ", ctlog: {url: 'http://rekor.svc', trustRootRef: r}}]", "ctlog.url: is not asked: logs are asked by https"},
		{"ctlog by http at home", "authorities: [{" + key + ", ctlog: {url: 'http://127.0.0.1:3000', trustRootRef: r}}]", ""},
		{"ctlog of a root without url", "authorities: [{" + key + ", ctlog: {trustRootRef: r}}]", "spec.authorities[0].ctlog: proofs must come along with signatures: write url to have the log asked"},
		{"no log", "authorities: [{" + key + ", ctlog: {}}]", ""},
		{"ca-cert expired", "authorities: [{keyless: {ca-cert: {data: " + expired.ca + "}, " + id + "}}]", `ca-cert.data: certificate 1, "CN=test root", expired on 2021-02-03`},
		{"ca-cert", "authorities: [{keyless: {ca-cert: {data: " + fresh.ca + "}, " + id + "}}]", ""},
		{"secret of a namespace", "authorities: [{key: {secretRef: {name: a, namespace: b}}}]", "key.secretRef.namespace: is where it is looked for here"},
		{"secret", "authorities: [{key: {secretRef: {name: a}}}]", ""},
		{"secret of a ca-cert", "authorities: [{keyless: {ca-cert: {secretRef: {name: a, namespace: b}}, " + id + "}}]", "ca-cert.secretRef.namespace: is where"},
		{"ConfigMap of a namespace", "authorities: [{" + key + "}]\npolicy: {type: cue, configMapRef: {name: a, namespace: b, key: c}}", "spec.policy.configMapRef.namespace: is where"},
		{"ConfigMap of an attestation", "authorities: [{" + key + ", attestations: [{name: a, predicateType: vuln, policy: {type: cue, configMapRef: {name: a, namespace: b, key: c}}}]}]", "attestations[0].policy.configMapRef.namespace: is where"},
		{"attestations of one name", "authorities: [{" + key + ", attestations: [{name: a, predicateType: vuln}, {name: a, predicateType: link}]}]", `attestations[1].name: attestation 0 is called "a" too`},
		{"source that says nothing", "authorities: [{" + key + ", source: [{}]}]", "source[0]: says nothing"},
		{"static fail beside a key", "authorities: [{static: {action: fail}}, {" + key + "}]", "spec.authorities[0].static: refuses, but any other authority"},
		{"static pass beside a key with a rule over both", "authorities: [{static: {action: pass}}, {" + key + "}]\npolicy: {type: cue, data: 'a: 1'}", ""},
		{"match for another resource", staticFail + "\nmatch: [{group: apps, version: v1, resource: deployments}]", "spec.match[0].resource: applies to pods as well, whoever made them: a node sees pods alone, not deployments"},
		{"match for pods", staticFail + "\nmatch: [{version: v1, resource: pods}]", ""},
		{"match for a group", staticFail + "\nmatch: [{group: apps}]", "spec.match[0].group: is not looked at"},
		{"match by labels", staticFail + "\nmatch: [{resource: pods, selector: {matchLabels: {a: b}}}]", "spec.match[0].selector: whoever writes a pod's labels can opt out"},
		{"match by no labels", staticFail + "\nmatch: [{resource: pods, selector: {}}]", ""},
	} {
		t.Run(c.rule, func(t *testing.T) {
			all := warningsOf(t, images+c.spec)
			if c.want == "" && len(all) == 0 || len(all) == 1 && c.want != "" && strings.Contains(all[0], c.want) {
				return
			}
			t.Errorf("got %q\nwant %q", all, c.want)
		})
	}
}

const staticFail = "authorities: [{static: {action: fail}}]"

func TestWarningsOfExpressions(t *testing.T) {
	for _, c := range []struct{ expression, want string }{
		{`^https://github\.com/team/.+$`, ""},
		{`\Ahttps://github\.com/team/[^/]+\z`, ""},
		{`^(https://a\.example/x|https://b\.example/y)$`, ""},
		{`(^https://a\.example/x$)|(^https://b\.example/y$)`, ""},
		{`^.+@team\.example$`, ""},
		{`https://github\.com/team/.*`, `is not anchored, so that it matches "https://attacker.example/https://github.com/team/" too`},
		{`^https://github\.com/team/`, `is not anchored, so that it matches "https://github.com/team/.attacker.example" too`},
		{`team\.example$`, `matches "https://attacker.example/team.example" too`},
		{`^a@team\.example`, `matches "a@team.example.attacker.example" too`},
		{`^https://a\.example/x$|https://b\.example/y`, "is not anchored"},
		{`(?m)^https://a\.example/x$`, "is not anchored"},
		{`.*`, "accepts every subject: whoever has an account there can sign"},
		{`^.+$`, "accepts every subject"},
		{`.`, "accepts every subject"},
		{`^.*$|^x$`, "accepts every subject"},
		{`^https://github.com/team/x$`, `a dot in "^https://github.com/team/x$" stands for any character, so that it matches "https://githubxcom/team/x" too`},
		{`^(?:https://github.com/team/[a-z]{3}/[0-9]+)$`, `"https://githubxcom/team/aaa/0" too`},
		{`team`, `matches "https://attacker.example/team" too`},
		{`\bteam\b`, `matches "https://attacker.example/team" too`},
	} {
		t.Run(c.expression, func(t *testing.T) {
			all := warningsOf(t, images+"authorities: [{keyless: {identities: [{issuer: 'https://i.example', subjectRegExp: '"+c.expression+"'}]}}]")
			if c.want == "" && len(all) == 0 || len(all) == 1 && c.want != "" && strings.Contains(all[0], "identities[0].subjectRegExp: ") && strings.Contains(all[0], c.want) {
				return
			}
			t.Errorf("got %q\nwant %q", all, c.want)
		})
	}
	all := warningsOf(t, images+"authorities: [{keyless: {identities: [{issuerRegExp: '.*', subject: s}]}}]")
	if len(all) != 1 || !strings.Contains(all[0], "issuerRegExp: \".*\" accepts every issuer") {
		t.Errorf("issuer: %q", all)
	}
}

// What is said to match does, and what is said to be anchored at both ends matches nothing that is longer.
func FuzzExpressionDoubts(f *testing.F) {
	for _, s := range []string{"^a$", "a", "a.b", "(a|^b)c$", "(?m)^a$", "[^a]+", "a{3,}b?$", `\Aa\z`, "(?i)x", "()", "(|a)$", "a||b", "x*", "[[:alpha:]]", `\pL.\pL`, "(?s).", "^^a$$", "(^a$)+"} {
		f.Add(s, "b")
	}
	f.Fuzz(func(t *testing.T, expression, more string) {
		if len(expression) > 200 || len(more) > 100 {
			return
		}
		re, err := regexp.Compile(expression)
		if err != nil {
			return
		}
		var all []Warning
		doubts{all: &all, source: "f:1"}.regexp("f", "subject", re)
		for _, w := range all {
			if strings.ContainsFunc(w.Text, func(c rune) bool { return c < ' ' }) || len(w.Text) > 2000 {
				t.Errorf("%q: %q", expression, w.Text)
			}
		}
		tree, err := syntax.Parse(expression, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		tree = tree.Simplify()
		if anchored(tree, syntax.OpBeginText, false) && anchored(tree, syntax.OpEndText, true) {
			if at := re.FindStringIndex(more); at != nil && (at[0] != 0 || at[1] != len(more)) {
				t.Errorf("%q is said to be anchored and matches %q inside %q", expression, more[at[0]:at[1]], more)
			}
		}
	})
}

func TestWarningOfASetThatMatchesNothing(t *testing.T) {
	none, some := keyPolicy(t, "a", "https://ghcr.io/**", "P-256"), keyPolicy(t, "b", "ghcr.io/**", "P-256")
	said := func(s *Set) bool {
		for _, w := range s.Warnings() {
			if strings.Contains(w.Text, "no policy of this set matches any image name") && w.Policy == "" && w.Source == "test.yaml:7" {
				return true
			}
		}
		return false
	}
	if !said(mustSet(t, none)) {
		t.Error("nothing is said of a set that matches nothing")
	}
	if said(mustSet(t, none, some)) || said(mustSet(t)) {
		t.Error("said of a set that matches something, or that is empty")
	}
}

// A file of a thousand lines is mended where the warning points.
func TestWarningsPointAtTheirField(t *testing.T) {
	text := `apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata:
  name: p
spec:
  images:
  - glob: "**"
  - glob: docker.io/library/app:1
  match:
  - resource: pods
    selector:
      matchLabels:
        a: b
  - version: v1
    resource: deployments
  authorities:
  - static:
      action: fail
  - name: twin
    key:
      secretRef:
        name: a
        namespace: b
    ctlog:
      url: https://log.example
    attestations:
    - name: a
      predicateType: vuln
      policy:
        type: cue
        configMapRef: {name: a,
                       namespace: b, key: c}
  - name: twin
    source:
    - {}
    keyless:
      insecureIgnoreSCT: true
      identities:
      - issuer: https://i.example
        subject: s
      - issuer: https://i.example
        subjectRegExp: a
  policy:
    type: cue
    data: |
      authorityMatches: twin: signatures: [...]
`
	want := []string{
		"8 spec.images[1].glob", "12 spec.match[0].selector", "15 spec.match[1].resource", "18 spec.authorities[0].static", "23 spec.authorities[1].key.secretRef.namespace",
		"25 spec.authorities[1].ctlog.url", "32 spec.authorities[1].attestations[0].policy.configMapRef.namespace", "33 spec.authorities[2].name",
		"37 spec.authorities[2].keyless.insecureIgnoreSCT", "42 spec.authorities[2].keyless.identities[1].subjectRegExp", "35 spec.authorities[2].source[0]", "45 spec.policy.data",
	}
	for name, c := range map[string]struct {
		head, text string
		add        int
	}{
		"alone":              {"", text, 0},
		"the second of two":  {keyPolicy(t, "q", "**", "P-256") + "---\n", text, strings.Count(keyPolicy(t, "q", "**", "P-256"), "\n") + 1},
		"of a list":          {"apiVersion: v1\nkind: List\nitems:\n- ", strings.ReplaceAll(text, "\n", "\n  "), 3},
		"of a list, after p": {keyPolicy(t, "q", "**", "P-256") + "---\napiVersion: v1\nkind: List\nitems:\n- ", strings.ReplaceAll(text, "\n", "\n  "), strings.Count(keyPolicy(t, "q", "**", "P-256"), "\n") + 4},
	} {
		var got []string
		for _, w := range mustSet(t, c.head+c.text).Warnings() {
			file, line := splitSource(w.Source)
			if file != "test.yaml" || w.Policy != "p" {
				t.Errorf("%s: %+v", name, w)
			}
			got = append(got, fmt.Sprintf("%d %s", line-c.add, w.Field))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	p := mustParse(t, text)[0]
	for field, want := range map[string]string{"": "test.yaml:1", "spec.authorities[1].key.data": "test.yaml:21", "spec.nothing[3].such": "test.yaml:6", "nowhere": "test.yaml:1"} {
		if got := p.At(field); got != want {
			t.Errorf("%q is at %s, want %s", field, got, want)
		}
	}
	if got := (&Policy{Source: "made by hand"}).At("spec.images"); got != "made by hand" {
		t.Errorf("what was not read is at %q", got)
	}
}

// What aliases stand for is written once and read often: lines are not remembered without end.
func TestLinesAreBounded(t *testing.T) {
	one := "- keyless:\n    identities: &i\n" + strings.Repeat("    - issuer: a\n      subject: b\n", MaxIdentities)
	p := mustParse(t, doc(images+"authorities:\n"+one+strings.Repeat("- keyless:\n    identities: *i\n", MaxAuthorities-1)))[0]
	if len(p.Authorities) != MaxAuthorities || len(p.lines) > maxLines {
		t.Errorf("%d lines of %d authorities", len(p.lines), len(p.Authorities))
	}
}

func TestWarningsOfTrustRoots(t *testing.T) {
	root := b64(publicGood(t, "root.json"))
	expired := testChain(t, true)
	for _, c := range []struct{ rule, spec, want string }{
		{"remote", "remote: {root: " + root + ", mirror: 'https://tuf.example'}", ""},
		{"http", "remote: {root: " + root + ", mirror: 'http://127.0.0.1'}", "test.yaml:5: spec.remote.mirror: is asked without encryption"},
		{"keys", sigstoreKeys(t), ""},
		{"expired", "sigstoreKeys: {timestampAuthorities: [{subject: {organization: o, commonName: c}, uri: 'https://a.example', certChain: " + b64(expired.leafPEM+expired.caPEM) + "}]}", `timestampAuthorities[0].certChain: certificate 1, "CN=test leaf", expired on 2021-02-03`},
	} {
		parsed, err := Parse("test.yaml", []byte(rootDoc("r", c.spec)))
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewSet(parsed)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Warnings(); (len(got) > 0) != (c.want != "") || len(got) > 0 && !strings.Contains(got[0].String(), c.want) {
			t.Errorf("%s: got %v, want %q", c.rule, got, c.want)
		}
	}
}

// Whether a certificate has expired is asked of the clock that the caller's moment is on, not of when it was loaded.
func TestExpiryIsOfTheMoment(t *testing.T) {
	s := mustSet(t, doc(images+"authorities: [{keyless: {ca-cert: {data: "+testChain(t, false).ca+"}, identities: [{issuer: i, subject: s}]}}]"))
	now := time.Now()
	if got := s.warnings(now); len(got) != 0 {
		t.Errorf("today: %v", got)
	}
	if got := s.warnings(now.AddDate(0, 0, 2)); len(got) != 1 {
		t.Errorf("the day after tomorrow: %v", got)
	}
}

// thousand are policies as a large cluster has them, no two alike: by certificate with anchored expressions, by key, with rules and
// attestations of their own.
func thousand(t testing.TB) []string {
	key := block(publicPEM(t, "P-256"), 8)
	var docs []string
	for i := range 1000 {
		spec := fmt.Sprintf("apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: p%d}\nspec:\n  images: [{glob: registry-%d.example/team/**}, {glob: ghcr.io/team-%d/*}]\n  authorities:\n", i, i, i)
		switch i % 4 {
		case 0:
			spec += "  - key:\n      data: " + key + "\n"
		case 1:
			spec += fmt.Sprintf("  - keyless:\n      identities:\n      - {issuer: 'https://i.example', subjectRegExp: '^https://github\\.com/team-%d/.+$'}\n", i)
		case 2:
			spec += fmt.Sprintf("  - keyless: {identities: [{issuer: i, subject: s}]}\n    attestations:\n    - {name: a, predicateType: vuln, policy: {type: cue, data: 'predicate: number: <%d'}}\n", i)
		case 3:
			spec += fmt.Sprintf("  - key: {secretRef: {name: s%d}}\n  policy:\n    type: rego\n    data: |\n      package sigstore\n      isCompliant {\n        input.authorityMatches[\"authority-0\"].signatures[_].subject == \"s%d\"\n      }\n", i, i)
		}
		docs = append(docs, spec)
	}
	return docs
}

// BenchmarkLoadThousand reads a thousand policies, in files of ten, half of which hold rules or expressions to compile.
func BenchmarkLoadThousand(b *testing.B) {
	dir := b.TempDir()
	docs := thousand(b)
	for i := 0; i < len(docs); i += 10 {
		write(b, fmt.Sprintf("%s/%d.yaml", dir, i), strings.Join(docs[i:i+10], "---\n"))
	}
	for b.Loop() {
		s, err := Load(dir)
		if err != nil || len(s.Policies()) != 1000 {
			b.Fatal(err)
		}
	}
}

// BenchmarkMatchThousand is the part of them in every decision.
func BenchmarkMatchThousand(b *testing.B) {
	parsed, err := Parse("t.yaml", []byte(strings.Join(thousand(b), "---\n")))
	if err != nil {
		b.Fatal(err)
	}
	s, err := NewSet(parsed)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if got, err := s.Match("registry-500.example/team/app:1.2", testDigest); err != nil || len(got) != 1 {
			b.Fatal(len(got), err)
		}
	}
}
