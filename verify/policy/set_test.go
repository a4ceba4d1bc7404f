package policy

import (
	"crypto"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

func TestDuplicateNamesNameBothPlaces(t *testing.T) {
	a, err := Parse("a.yaml", []byte(keyPolicy(t, "same", "a", "P-256")))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Parse("b.yaml", []byte("\n\n"+keyPolicy(t, "same", "b", "P-256")))
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSet(a, b)
	if err == nil || s != nil {
		t.Fatal("accepted")
	}
	if want := `b.yaml:3: metadata.name: policy "same" is already defined in a.yaml:1: rename or remove one`; err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
}

// A policy that was put together by hand must not be one that the judge would
// find nothing wrong with because there is nothing in it.
func TestNewSetRefusesWhatParseWouldNotReturn(t *testing.T) {
	for rule, spoil := range map[string]func(p *Policy){
		"no name":          func(p *Policy) { p.Name = "" },
		"unknown mode":     func(p *Policy) { p.Mode = 2 },
		"no globs":         func(p *Policy) { p.Globs = nil },
		"zero glob":        func(p *Policy) { p.Globs = append(p.Globs, Glob{}) },
		"no authorities":   func(p *Policy) { p.Authorities = nil },
		"empty authority":  func(p *Policy) { p.Authorities = append(p.Authorities, Authority{}) },
		"both":             func(p *Policy) { p.Authorities[0].Static = &Static{Pass: true} },
		"no keys":          func(p *Policy) { p.Authorities[0].Key = &Key{} },
		"key is nil":       func(p *Policy) { p.Authorities[0].Key.PublicKeys[0].Key = nil },
		"no hash":          func(p *Policy) { p.Authorities[0].Key.PublicKeys[0].Hash = 0 },
		"no fingerprint":   func(p *Policy) { p.Authorities[0].Key.PublicKeys[0].Fingerprint = "" },
		"unknown format":   func(p *Policy) { p.Authorities[0].Format = "x" },
		"second authority": func(p *Policy) { p.Authorities = append(p.Authorities, Authority{Key: &Key{}}) },
	} {
		p := mustParse(t, keyPolicy(t, "p", "**", "P-256"))[0]
		if _, err := setOf(p); err != nil {
			t.Fatalf("unspoilt: %v", err)
		}
		spoil(p)
		if s, err := setOf(p); err == nil || s != nil {
			t.Errorf("%s: accepted", rule)
		}
	}
	if s, err := setOf(nil, mustParse(t, keyPolicy(t, "p", "**", "P-256"))[0]); err == nil || s != nil {
		t.Error("nil policy: accepted")
	}
	if s, err := setOf(make([]*Policy, MaxPolicies+1)...); err == nil || s != nil {
		t.Error("too many policies: accepted")
	}
}

func TestRevisionIsIndependentOfFilesAndOrder(t *testing.T) {
	var data []string
	for i := range 20 {
		data = append(data, keyPolicy(t, fmt.Sprintf("p%d", i), fmt.Sprintf("r%d/**", i), "P-256"))
	}
	want := mustSet(t, data...).Revision()
	if !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(want) {
		t.Errorf("revision %q", want)
	}
	for range 20 {
		rand.Shuffle(len(data), func(i, j int) { data[i], data[j] = data[j], data[i] })
		if got := mustSet(t, data...).Revision(); got != want {
			t.Fatalf("revision %s, want %s", got, want)
		}
	}
	if got := mustSet(t, strings.Join(data, "---\n")).Revision(); got != want {
		t.Errorf("in one file: revision %s, want %s", got, want)
	}
	p := strings.NewReplacer("v1beta1", "v1alpha1", "  name: p3\n", "  labels: {a: b}\n  name: p3\n")
	for i := range data {
		data[i] = "# comment\n" + p.Replace(data[i]) + "  mode: enforce\n"
	}
	if got := mustSet(t, data...).Revision(); got != want {
		t.Errorf("written differently: revision %s, want %s", got, want)
	}
}

func TestRevisionOfNoPolicies(t *testing.T) {
	s, err := NewSet()
	if err != nil {
		t.Fatal(err)
	}
	if s.Revision() == "" || s.Revision() == mustSet(t, keyPolicy(t, "p", "**", "P-256")).Revision() {
		t.Errorf("revision %q", s.Revision())
	}
}

func TestRevisionChangesWithEveryField(t *testing.T) {
	glob := func(s string) Glob {
		g, err := CompileGlob(s)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	other := mustParse(t, keyPolicy(t, "p", "**", "other P-256"))[0].Authorities[0].Key.PublicKeys[0]
	seen := map[string]string{}
	for _, c := range []struct {
		field  string
		change func(p *Policy)
	}{
		{"nothing", func(p *Policy) {}},
		{"name", func(p *Policy) { p.Name = "q" }},
		{"mode", func(p *Policy) { p.Mode = Warn }},
		{"glob", func(p *Policy) { p.Globs[0] = glob("***") }},
		{"another glob", func(p *Policy) { p.Globs = append(p.Globs, glob("a")) }},
		{"glob of two", func(p *Policy) { p.Globs = []Glob{glob("**a")} }},
		{"authority name", func(p *Policy) { p.Authorities[0].Name = "b" }},
		{"format bundle", func(p *Policy) { p.Authorities[0].Format = BundleFormat }},
		{"format legacy", func(p *Policy) { p.Authorities[0].Format = LegacyFormat }},
		{"key", func(p *Policy) { p.Authorities[0].Key.PublicKeys[0] = other }},
		{"another key", func(p *Policy) { p.Authorities[0].Key.PublicKeys = append(p.Authorities[0].Key.PublicKeys, other) }},
		{"another authority with it", func(p *Policy) {
			p.Authorities = append(p.Authorities, Authority{Name: "x", Key: &Key{PublicKeys: []PublicKey{other}}})
		}},
		{"hash", func(p *Policy) { p.Authorities[0].Key.PublicKeys[0].Hash = crypto.SHA512 }},
		{"static fail", func(p *Policy) { p.Authorities[0] = Authority{Name: "release-key", Static: &Static{}} }},
		{"static pass", func(p *Policy) { p.Authorities[0] = Authority{Name: "release-key", Static: &Static{Pass: true}} }},
		{"static message", func(p *Policy) {
			p.Authorities[0] = Authority{Name: "release-key", Static: &Static{Message: "m"}}
		}},
	} {
		p := mustParse(t, keyPolicy(t, "p", "**", "P-256"))[0]
		c.change(p)
		s, err := setOf(p)
		if err != nil {
			t.Fatalf("%s: %v", c.field, err)
		}
		if twin, ok := seen[s.Revision()]; ok {
			t.Errorf("%s and %s have one revision", c.field, twin)
		}
		seen[s.Revision()] = c.field
	}
}

func TestPoliciesIsACopy(t *testing.T) {
	s := mustSet(t, keyPolicy(t, "b", "**", "P-256"), keyPolicy(t, "a", "**", "P-256"))
	p := s.Policies()
	if len(p) != 2 || p[0].Name != "a" || p[1].Name != "b" {
		t.Fatalf("%v", p)
	}
	p[0] = nil
	if got, err := s.Match("foo", ""); err != nil || len(got) != 2 || got[0] == nil {
		t.Errorf("the set changed: %v, %v", got, err)
	}
}

func TestWarnings(t *testing.T) {
	key := "key: {data: " + fmt.Sprintf("%q", publicPEM(t, "P-256")) + "}"
	for _, c := range []struct{ rule, spec, want string }{
		{"static pass for everything", "images: [{glob: a/*}, {glob: '**'}]\n" + staticPass, `spec.authorities[0].static: passes every image there is without a signature, by the glob "**"`},
		{"in other words", "images: [{glob: '***'}]\n" + staticPass, "passes every image there is"},
		{"static pass beside a key", "images: [{glob: a/*}]\nauthorities: [{" + key + "}, {static: {action: pass}}]", "spec.authorities[1].static: passes every image of this policy"},
		{"message of pass", "images: [{glob: a/*}]\nauthorities: [{static: {action: pass, message: x}}]", "static.message: is shown for action fail only"},
		{"names twice", "images: [{glob: a/*}]\nauthorities: [{name: authority-1, " + key + "}, {" + key + "}]", `spec.authorities[1].name: authority 0 is called "authority-1" too`},
		{"capitals in a path", "images: [{glob: ghcr.io/Foo/*}, {glob: a/*}]\nauthorities: [{" + key + "}]", `spec.images[0].glob: "ghcr.io/Foo/*" matches no image name`},
		{"a scheme", "images: [{glob: 'https://ghcr.io/**'}, {glob: a/*}]\nauthorities: [{" + key + "}]", "matches no image name"},
		{"docker.io", "images: [{glob: docker.io/library/*}]\nauthorities: [{" + key + "}]", `"index.docker.io/library/*" matches every spelling`},
		{"no tag", "images: [{glob: ghcr.io/a/b}]\nauthorities: [{" + key + "}]", `"ghcr.io/a/b*" matches every tag`},
	} {
		t.Run(c.rule, func(t *testing.T) {
			var all []string
			for _, w := range mustSet(t, doc(c.spec)).Warnings() {
				if w.Policy != "p" || !strings.HasPrefix(w.Source, "test.yaml:") || !strings.HasPrefix(w.Field, "spec.") || w.Source == "test.yaml:1" {
					t.Errorf("warning says not where: %+v", w)
				}
				all = append(all, w.String())
			}
			if len(all) != 1 || !strings.Contains(all[0], c.want) {
				t.Errorf("got %q\nwant %s", all, c.want)
			}
		})
	}
}

func TestNoWarningForOrdinaryPolicies(t *testing.T) {
	for _, glob := range []string{"**", "*", "*/*", "ghcr.io/**", "ghcr.io/a/b:*", "ghcr.io/a/b:V1", "localhost:5000/**", "**:5000/x*", "*.example:*/a/*", "**/app:*", "ghcr.io**", "gcr.io/a/*:v1.*", "inde**"} {
		if w := mustSet(t, keyPolicy(t, "p", glob, "P-256")).Warnings(); len(w) > 0 {
			t.Errorf("glob %q: %v", glob, w)
		}
	}
	if w := mustSet(t, doc("images: [{glob: '**'}]\nauthorities: [{static: {action: fail, message: no}}]")).Warnings(); len(w) > 0 {
		t.Errorf("static fail: %v", w)
	}
}
