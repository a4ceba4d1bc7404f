package policy

import (
	"regexp"
	"strings"
	"testing"
)

// specification is the glob's meaning as policy-controller states it: a regular
// expression over the whole name.
func specification(t testing.TB, glob string) *regexp.Regexp {
	t.Helper()
	switch glob {
	case "*":
		glob = "index.docker.io/library/*"
	case "*/*":
		glob = "index.docker.io/*/*"
	}
	var b strings.Builder
	for rest := glob; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "**"):
			b.WriteString(".*")
			rest = rest[2:]
		case rest[0] == '*':
			b.WriteString("[^/]*")
			rest = rest[1:]
		default:
			b.WriteString(regexp.QuoteMeta(rest[:1]))
			rest = rest[1:]
		}
	}
	re, err := regexp.Compile("^" + b.String() + "$")
	if err != nil {
		t.Fatalf("specification of %q: %v", glob, err)
	}
	return re
}

// TestGlobEqualsSpecification tries every pattern and every name over a small alphabet up
// to a length at which all ways for wildcards to meet have occurred.
func TestGlobEqualsSpecification(t *testing.T) {
	names := words("ab/", 5)
	for _, pattern := range words("a/*", 6) {
		if pattern == "" {
			continue
		}
		g, err := CompileGlob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		re := specification(t, pattern)
		for _, n := range names {
			if got, want := g.Match(n), re.MatchString(n); got != want {
				t.Fatalf("glob %q, name %q: got %t, want %t", pattern, n, got, want)
			}
		}
	}
}

func words(alphabet string, length int) []string {
	all, last := []string{""}, []string{""}
	for range length {
		var longer []string
		for _, w := range last {
			for _, c := range alphabet {
				longer = append(longer, w+string(c))
			}
		}
		all, last = append(all, longer...), longer
	}
	return all
}

func FuzzGlob(f *testing.F) {
	for _, seed := range [][2]string{
		{"**", "index.docker.io/library/foo:latest"},
		{"*", "index.docker.io/library/foo:latest"},
		{"*/*", "index.docker.io/a/b:c"},
		{"***", "a/b"},
		{"****a*", "a/b/a"},
		{"ghcr.io/**/x:*", "ghcr.io/a/b/x:1"},
		{"*a/b*c", "xa/bya/bc"},
		{"a.b", "axb"},
		{"*-*.dkr.ecr.*.amazonaws.com/**:v1.*", "12-3.dkr.ecr.eu-1.amazonaws.com/a/b:v1.2"},
		{"a**\x01", "a"},
		{"*a**", "é/aß"},
	} {
		f.Add(seed[0], seed[1])
	}
	alphabet := regexp.MustCompile(`^[a-zA-Z0-9-_:\/\*\.]+$`) // as policy-controller writes it
	f.Fuzz(func(t *testing.T, glob, s string) {
		g, err := CompileGlob(glob)
		if valid := alphabet.MatchString(glob) && len(glob) <= maxGlobLen; valid != (err == nil) {
			t.Fatalf("glob %q: valid %t, error %v", glob, valid, err)
		}
		if err != nil {
			if g.Match(s) || g.Match("") {
				t.Fatalf("a refused glob matches %q", s)
			}
			return
		}
		want := specification(t, glob).MatchString(s) && !strings.Contains(s, "\n")
		if got := g.Match(s); got != want {
			t.Errorf("glob %q, name %q: got %t, want %t", glob, s, got, want)
		}
	})
}

func TestGlobRefused(t *testing.T) {
	for _, glob := range []string{"", " ", ".+", "[a-z]*", "foo?", "a\\b", "repo@sha256:00", "a b", "ä", "a\n", "\x01", "\x02", "a,b", "{a}", strings.Repeat("a", maxGlobLen+1)} {
		if g, err := CompileGlob(glob); err == nil {
			t.Errorf("%q is accepted", glob)
		} else if g.Match(glob) {
			t.Errorf("%q is refused and matches", glob)
		}
	}
}

func TestZeroGlobMatchesNothing(t *testing.T) {
	for _, s := range []string{"", "a", "\x01"} {
		if (Glob{}).Match(s) {
			t.Errorf("matches %q", s)
		}
	}
}

// A pattern of many wildcards must not make matching slow: names come from pods.
func BenchmarkGlobHostile(b *testing.B) {
	g, err := CompileGlob(strings.Repeat("**a*", 100) + "b")
	if err != nil {
		b.Fatal(err)
	}
	name := strings.Repeat("a", 255)
	for b.Loop() {
		if g.Match(name) {
			b.Fatal("matches")
		}
	}
}
