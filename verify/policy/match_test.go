package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

const testDigest = digest.Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")

// globSet is a set with one policy for each glob, named p0, p1 and so on.
func globSet(t testing.TB, globs ...string) *Set {
	t.Helper()
	var policies []*Policy
	for i, g := range globs {
		compiled, err := CompileGlob(g)
		if err != nil {
			t.Fatal(err)
		}
		policies = append(policies, &Policy{
			Name: fmt.Sprintf("p%d", i), Globs: []Glob{compiled},
			Authorities: []Authority{{Name: "a", Static: &Static{}}},
		})
	}
	s, err := setOf(policies...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		rule, image, glob string
		digest            digest.Digest
		want              bool
	}{
		// As policy-controller.
		{"a short name is index.docker.io/library and :latest", "foo", "index.docker.io/library/foo:latest", "", true},
		{"* runs over the tag", "foo", "index.docker.io/library/*", "", true},
		{"* stands before a tag", "foo", "index.docker.io/library/*:latest", "", true},
		{"* in two places", "foo", "index.docker.io/*/*", "", true},
		{"** runs over slashes", "foo", "index.docker.io/**", "", true},
		{"** within a host", "foo", "index.docker.**", "", true},
		{"** within a word", "foo", "inde**", "", true},
		{"** alone is everything", "foo", "**", "", true},
		{"the name as written", "foo", "foo", "", true},
		{"* may stand for nothing", "foo", "foo*", "", true},
		{"** may stand for nothing", "foo", "foo**", "", true},
		{"a user's name is index.docker.io", "myuser/myapp", "index.docker.io/myuser/myapp:latest", "", true},
		{"a user's name as written", "myuser/myapp", "myuser/myapp", "", true},
		{"* alone is Docker Hub's library", "foo", "*", "", true},
		{"* alone is no user's image", "myuser/myapp", "*", "", false},
		{"* alone is no other registry", "ghcr.io/foo", "*", "", false},
		{"*/* is Docker Hub", "myuser/myapp", "*/*", "", true},
		{"*/* is no other registry", "ghcr.io/foo", "*/*", "", false},
		{"docker.io is index.docker.io", "docker.io/library/foo", "index.docker.io/library/*", "", true},
		{"one segment for each *", "ghcr.io/foo", "ghcr.io/*/*", "", false},
		{"no segment more than *", "ghcr.io/foo/bar/baz", "ghcr.io/*/*", "", false},
		{"*/** needs one slash", "ghcr.io/foo", "*/**", "", true},
		{"the glob begins at the beginning", "prefix-ghcr.io/foo", "ghcr.io/foo**", "", false},
		{"the glob ends at the end", "ghcr.io/foo-suffix", "ghcr.io/foo", "", false},
		{"a dot is a dot", "ghcrxio/foo", "ghcr.io/**", "", false},
		{"a tag that differs", "ghcr.io/foo:2", "ghcr.io/foo:1", "", false},
		{"tag and digest: the tag counts as written", "ghcr.io/foo:1@" + string(testDigest), "ghcr.io/foo:1*", "", true},
		{"tag and digest: the full name has no tag", "ghcr.io/foo:1@" + string(testDigest), "ghcr.io/foo:1", "", false},
		{"a digest in the reference", "ghcr.io/foo@" + string(testDigest), "ghcr.io/foo*", "", true},

		// Beyond it.
		{"the digest that is judged", "ghcr.io/foo:1", "ghcr.io/foo*" + string(testDigest), testDigest, true},
		{"no digest, no match by digest", "ghcr.io/foo:1", "ghcr.io/foo*" + string(testDigest), "", false},
		{"the digest goes with the full repository", "foo", "index.docker.io/library/foo*" + string(testDigest), testDigest, true},
		{"capitals in the host are no way out", "GHCR.io/foo:1", "ghcr.io/**", "", true},
		{"capitals and a digest neither", "GHCR.IO/foo@" + string(testDigest), "ghcr.io/foo*sha256**", "", true},
		{"capitals and the digest that is judged", "GHCR.IO/foo", "ghcr.io/foo*sha256**", testDigest, true},
		{"https' own port is no way out", "ghcr.io:443/foo:1", "ghcr.io/foo:1", "", true},
		{"another port is another registry", "ghcr.io:444/foo:1", "ghcr.io/**", "", false},
		{"Docker Hub's other hosts are no way out", "registry-1.docker.io/library/foo", "index.docker.io/library/foo:latest", "", true},
		{"nor with capitals", "DOCKER.IO/foo", "index.docker.io/library/foo:latest", "", true},
		{"a glob in the spelling of the image still matches", "GHCR.io/foo:1", "GHCR.io/**", "", true},
	} {
		t.Run(c.rule, func(t *testing.T) {
			got, err := globSet(t, c.glob).Match(c.image, c.digest)
			if err != nil {
				t.Fatal(err)
			}
			if (len(got) == 1) != c.want {
				t.Errorf("image %q, glob %q: got %d policies, want match %t", c.image, c.glob, len(got), c.want)
			}
		})
	}
}

// An image must never be under fewer policies here than in policy-controller.
func FuzzMatchIsNoLaxer(f *testing.F) {
	for _, image := range []string{"foo", "a/b:c", "GHCR.io:443/a/b@" + string(testDigest), "localhost:5000/x:y@" + string(testDigest), "[::1]:5000/x", "registry-1.docker.io/a/b", "a@b", ""} {
		f.Add(image, "**", true)
		f.Add(image, "*/*", false)
	}
	f.Fuzz(func(t *testing.T, image, glob string, judged bool) {
		g, err := CompileGlob(glob)
		if err != nil {
			return
		}
		var dgst digest.Digest
		if judged {
			dgst = testDigest
		}
		got, err := globSet(t, glob, "**").Match(image, dgst)
		ref, refErr := name.ParseReference(image, name.WeakValidation)
		if err != nil {
			if !errors.Is(err, ErrImageName) || got != nil {
				t.Fatalf("image %q: got %d policies, error %v", image, len(got), err)
			}
			return
		}
		if refErr != nil {
			t.Fatalf("image %q is accepted: %v", image, refErr)
		}
		if last := got[len(got)-1]; last.Name != "p1" {
			t.Errorf("image %q is not under a policy for **", image)
		}
		if want := g.Match(ref.Name()) || g.Match(image); want && len(got) != 2 {
			t.Errorf("image %q, glob %q: policy-controller matches", image, glob)
		}
	})
}

func TestMatchRefusesWhatIsNoImageName(t *testing.T) {
	s := globSet(t, "**")
	for _, image := range []string{
		"", " ", "invalid&name", "UPPER", "a b", "/var/lib/checkpoint.tar", "ghcr.io//var/x", "../x", "./x", "a/../b", "ghcr.io/a/", "_/x", "foo@sha256:12", "foo:", "http://ghcr.io/foo",
		"foo\n", "foo\x00", "ghcr.io/foo:tag@", strings.Repeat("a", MaxImageName+1),
	} {
		got, err := s.Match(image, "")
		if err == nil || got != nil {
			t.Errorf("%q: %d policies, error %v", image, len(got), err)
			continue
		}
		if !errors.Is(err, ErrImageName) {
			t.Errorf("%q: %v is not ErrImageName", image, err)
		}
		if strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 1024 {
			t.Errorf("%q: error is not escaped and cut: %q", image, err)
		}
	}
}

func TestMatchRefusesABadDigest(t *testing.T) {
	s := globSet(t, "**")
	for _, d := range []digest.Digest{"sha256:12", "latest", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:" + digest.Digest(strings.Repeat("G", 64))} {
		if got, err := s.Match("foo", d); err == nil || got != nil {
			t.Errorf("%q: %d policies, error %v", d, len(got), err)
		}
	}
}

func TestMatchOrderIsStable(t *testing.T) {
	s := globSet(t, "**", "nothing", "index.docker.io/**", "*", "foo")
	got, err := s.Match("foo", testDigest)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range got {
		names = append(names, p.Name)
	}
	if diff := cmp.Diff([]string{"p0", "p2", "p3", "p4"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The index must find what trying every glob finds: a policy that it passed over would not be enforced.
func TestIndexFindsWhatEachGlobMatches(t *testing.T) {
	globs := []string{"**", "*", "*/*", "ghcr.io/**", "ghcr.io/team/*", "ghcr.io/team/app:1.2", "ghcr.io/team/app", "ghcr.io**", "g*", "index.docker.io/library/*", "**/app:*", "registry.example:5000/**", "a"}
	s := globSet(t, globs...)
	for _, image := range []string{"app", "ghcr.io/team/app:1.2", "ghcr.io/team/app", "GHCR.io/team/app", "registry.example:5000/x", "a", "team/app", "ghcr.iox/team/app@" + string(testDigest)} {
		for _, dgst := range []digest.Digest{"", testDigest} {
			names, err := spellings(image, dgst)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, p := range s.policies {
				if slices.ContainsFunc(names, func(n string) bool { return slices.ContainsFunc(p.Globs, func(g Glob) bool { return g.Match(n) }) }) {
					want = append(want, p.Name)
				}
			}
			var got []string
			for _, p := range s.under(names) {
				got = append(got, p.Name)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, digest %q (-want +got):\n%s", image, dgst, diff)
			}
		}
	}
}

func BenchmarkMatch1000(b *testing.B) {
	for _, c := range []struct{ name, glob string }{
		{"registries", "registry-%d.example/team/**"},
		{"one registry", "registry.example/team-%d/*"},
		{"leading wildcard", "**/team-%d/app:*"},
	} {
		b.Run(c.name, func(b *testing.B) {
			globs := []string{"registry.example/team-500/app*"}
			for i := range 999 {
				globs = append(globs, fmt.Sprintf(c.glob, i))
			}
			s := globSet(b, globs...)
			for b.Loop() {
				got, err := s.Match("registry.example/team-500/app:1.2", testDigest)
				if err != nil || len(got) == 0 {
					b.Fatal(len(got), err)
				}
			}
		})
	}
}
