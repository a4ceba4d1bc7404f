package policy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

// The documents in testdata are of the shapes that people use.
func TestExampleDocuments(t *testing.T) {
	for file, want := range map[string][]string{
		"key-and-static.yaml": {"deny-legacy", "platform", "prod-signed"},
		"list.yaml":           {"any-of-two"},
		"keyless.yaml":        {"keyless-attestations"},
		"shapes.yaml":         {"by-a-key-in-aws", "by-a-key-in-gcp", "released-by-the-ci", "two-of-them", "with-a-bill-of-materials"},
	} {
		data, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, names(mustSet(t, string(data)))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}

// FuzzParse: whatever the bytes, Parse ends with either policies that the judge
// can rely on or a list of faults that is safe to print.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, seed := range []string{
		"", "---\n", "&a [*a]", "? {a: b}\n: c\n", "{<<: [*x]}", "!!binary x", "\xff\xfe", "%YAML 1.1\n---\n{}",
		doc("images: [{glob: '**'}]\n" + staticPass), doc("images: &a\n- glob: a\nauthorities: *a"),
		whole(f), rootDoc("r", sigstoreKeys(f)), rootDoc("r", "remote: {root: "+b64(publicGood(f, "root.json"))+", mirror: 'https://tuf.example'}"),
		rootDoc("r", "repository: {root: e30=, mirrorFS: "+b64(archive(f, 10))+"}"), rootDoc("r", `trustedRootJSON: '{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'`),
		doc("images: [{glob: a}]\nauthorities: [{keyless: {ca-cert: {data: " + testChain(f, false).ca + "}, identities: [{issuerRegExp: '(', subject: s}]}}]"),
		doc("images: [{glob: a}]\n" + staticPass + "\npolicy: {type: rego, data: \"package sigstore\\nisCompliant = true\"}"),
		keyPolicy(f, "p", "***", "P-384"), keyPolicy(f, "p", "*", "RSA 2048"),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := Parse("f.yaml", data)
		policies := parsed.Policies
		if err != nil {
			checkFaults(t, policies, err)
			return
		}
		unique := map[string]bool{}
		for _, p := range policies {
			if problem := p.problem(); problem != "" {
				t.Errorf("Parse returned what NewSet refuses: %s", problem)
			}
			if !dnsSubdomain.MatchString(p.Name) || !strings.HasPrefix(p.Source, "f.yaml:") {
				t.Errorf("name %q, source %q", p.Name, p.Source)
			}
			for _, g := range p.Globs {
				if again, err := CompileGlob(g.String()); err != nil || again != g {
					t.Errorf("glob %q: %v", g, err)
				}
			}
			unique[p.Name] = true
		}
		for _, r := range parsed.TrustRoots {
			if problem := r.problem(); problem != "" {
				t.Errorf("Parse returned what NewSet refuses: %s", problem)
			}
			unique["TrustRoot "+r.Name] = true
		}
		s, err := NewSet(parsed)
		if (err == nil) != (len(unique) == len(policies)+len(parsed.TrustRoots)) {
			t.Fatalf("%d policies and %d TrustRoots, %d names: %v", len(policies), len(parsed.TrustRoots), len(unique), err)
		}
		if err != nil {
			checkFaults(t, nil, err)
			return
		}
		s.Warnings()
		again, err := Parse("other.yaml", data)
		if err != nil {
			t.Fatalf("the second time: %v", err)
		}
		if twin, err := NewSet(again); err != nil || twin.Revision() != s.Revision() {
			t.Errorf("the second time: revision differs, %v", err)
		}
	})
}

func checkFaults(t *testing.T, policies []*Policy, err error) {
	t.Helper()
	var faults Errors
	if policies != nil || !errors.As(err, &faults) || len(faults) == 0 || len(faults) > maxFaults+1 {
		t.Fatalf("%d policies with an error of type %T and %d faults", len(policies), err, len(faults))
	}
	text := err.Error()
	if len(text) > maxErrorText+64 {
		t.Errorf("error of %d bytes", len(text))
	}
	if i := strings.IndexFunc(text, func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }); i >= 0 {
		t.Errorf("unprintable text in an error: %q", text[i:min(i+40, len(text))])
	}
}
