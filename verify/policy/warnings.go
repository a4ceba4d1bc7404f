package policy

import (
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// Warning is something in a sound policy that is legal and probably not what
// its owner means.
type Warning struct {
	Policy string
	// Source is where the policy was read, as file:line.
	Source string
	// Field is the path to the field, such as spec.images[0].glob.
	Field string
	Text  string
}

// String is the warning as source: field: text.
func (w Warning) String() string {
	return fmt.Sprintf("%s: %s: %s", plain(w.Source), w.Field, w.Text)
}

// Warnings returns what is legal and dangerous in the set, in order of the
// policies' names.
func (s *Set) Warnings() []Warning {
	var all []Warning
	for _, p := range s.policies {
		add := func(field, format string, args ...any) {
			all = append(all, Warning{Policy: p.Name, Source: p.Source, Field: field, Text: fmt.Sprintf(format, args...)})
		}
		for i, g := range p.Globs {
			if text := g.doubt(); text != "" {
				add(index("spec.images", i)+".glob", "%s", text)
			}
		}
		names := map[string]int{}
		for i, a := range p.Authorities {
			at := index("spec.authorities", i)
			if first, again := names[a.Name]; again {
				add(at+".name", "authority %d is called %s too: reports cannot tell them apart", first, quote(a.Name))
			} else {
				names[a.Name] = i
			}
			if a.Static == nil || !a.Static.Pass {
				continue
			}
			if i := everything(p.Globs); i >= 0 {
				add(at+".static", "passes every image there is without a signature, by the glob %s", quote(p.Globs[i].String()))
			}
			if len(p.Authorities) > 1 {
				add(at+".static", "passes every image of this policy, so its other authorities decide nothing")
			}
			if a.Static.Message != "" {
				add(at+".static.message", "is shown for action fail only")
			}
		}
	}
	return all
}

// everything returns the index of a glob that matches all names, or -1.
func everything(globs []Glob) int {
	for i, g := range globs {
		if g.literal == "" && g.must == "" && strings.ContainsRune(g.rest, anyPath) {
			return i
		}
	}
	return -1
}

// doubt says what about a glob is likely not meant.
func (g Glob) doubt() string {
	if !g.possible() {
		return fmt.Sprintf("%s matches no image name", quote(g.written))
	}
	if strings.HasPrefix(g.written, "docker.io/") {
		return fmt.Sprintf("%s matches only where docker.io is written out: %s matches every spelling", quote(g.written), quote("index."+g.written))
	}
	last := g.written[strings.LastIndexByte(g.written, '/')+1:]
	if g.rest == "" && !strings.Contains(last, ":") {
		return fmt.Sprintf("%s matches only where the image is written just so, without tag or digest: %s matches every tag and digest (and names that go on after it)", quote(g.written), quote(g.written+"*"))
	}
	return ""
}

// possible reports whether some image name was found that the glob matches.
// Wildcards are filled with a letter, a digit (for ports) and a digest; a glob
// which needs them filled differently from each other counts as possible
// only if one of these happens to do.
func (g Glob) possible() bool {
	pattern := g.literal + g.rest
	for _, fill := range []string{"a", "1", "", "a/a"} {
		segment := fill
		if strings.Contains(fill, "/") {
			segment = "a"
		}
		s := strings.NewReplacer(string(rune(anyPath)), fill, string(rune(anySegment)), segment).Replace(pattern)
		if _, err := name.ParseReference(s, name.WeakValidation); err == nil {
			return true
		}
	}
	return false
}
