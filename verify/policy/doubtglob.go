package policy

import (
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

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
