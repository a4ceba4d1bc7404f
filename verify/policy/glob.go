package policy

import (
	"fmt"
	"regexp"
	"strings"
)

// validGlob is the alphabet of globs; what looks like a regular expression is
// refused rather than taken literally.
var validGlob = regexp.MustCompile(`^[a-zA-Z0-9_:/*.-]+$`)

// Glob is a pattern of image names. "*" stands for any run of characters
// without "/", "**" for any run at all, everything else for itself; the whole
// name must match. The zero Glob matches nothing.
//
// These are the rules of policy-controller's pkg/apis/glob, which states them as a
// rewriting to a regular expression: "**" is read before "*" and from the left,
// so "***" is "**" followed by "*". The matcher here gives the same
// answers without backtracking into earlier wildcards.
type Glob struct {
	written string
	literal string // what every matching name begins with
	rest    string // the remaining pattern, anyPath and anySegment for wildcards
	must    string // the longest literal in rest; a name without it cannot match
}

// Wildcards in Glob.rest; bytes that cannot occur in a valid glob.
const (
	anySegment = '\x01' // "*"
	anyPath    = '\x02' // "**"
)

func isWildcard(c rune) bool { return c == anySegment || c == anyPath }

// CompileGlob reads a glob. "*" alone means index.docker.io/library/* and
// "*/*" means index.docker.io/*/*, as in policy-controller.
func CompileGlob(glob string) (Glob, error) {
	pattern := glob
	switch glob {
	case "":
		return Glob{}, fmt.Errorf("glob is empty")
	case "*":
		pattern = "index.docker.io/library/*"
	case "*/*":
		pattern = "index.docker.io/*/*"
	}
	if len(pattern) > maxGlobLen {
		return Glob{}, fmt.Errorf("glob %s is longer than %d bytes", quote(glob), maxGlobLen)
	}
	if !validGlob.MatchString(pattern) {
		return Glob{}, fmt.Errorf("glob %s may hold only letters, digits and - _ : / . * (it is not a regular expression)", quote(glob))
	}
	pattern = strings.ReplaceAll(pattern, "**", string(rune(anyPath)))
	pattern = strings.ReplaceAll(pattern, "*", string(rune(anySegment)))
	g := Glob{written: glob, literal: pattern}
	if i := strings.IndexFunc(pattern, isWildcard); i >= 0 {
		g.literal, g.rest = pattern[:i], pattern[i:]
	}
	for _, part := range strings.FieldsFunc(g.rest, isWildcard) {
		if len(part) > len(g.must) {
			g.must = part
		}
	}
	return g, nil
}

// String returns the glob as it was written.
func (g Glob) String() string { return g.written }

// Match reports whether the whole of s matches. Names hold no line breaks; a
// string that does never matches.
func (g Glob) Match(s string) bool {
	if g.written == "" || !strings.HasPrefix(s, g.literal) {
		return false
	}
	s = s[len(g.literal):]
	if g.rest == "" {
		return s == ""
	}
	return strings.Contains(s, g.must) && strings.IndexByte(s, '\n') < 0 && matchWild(g.rest, s)
}

// matchWild matches s against a pattern with wildcards, each of which first
// takes nothing and then, when what follows does not fit, one byte more.
//
// Only the last wildcard of each kind needs to grow. What lies before a "**"
// is best matched as early as possible, because "**" can take whatever
// is left between. What lies before a "*" likewise: a later place for the
// text between two "*" is reachable only without crossing a "/", and then the second "*"
// reaches it too.
func matchWild(pattern, s string) bool {
	p, i := 0, 0
	segment, segmentAt := -1, 0 // after the last "*" since the last "**"
	path, pathAt := -1, 0       // after the last "**"
	for {
		if p < len(pattern) {
			switch c := pattern[p]; {
			case c == anyPath:
				p++
				path, pathAt, segment = p, i, -1
				continue
			case c == anySegment:
				p++
				segment, segmentAt = p, i
				continue
			case i < len(s) && s[i] == c:
				p++
				i++
				continue
			}
		} else if i == len(s) {
			return true
		}
		switch {
		case segment >= 0 && segmentAt < len(s) && s[segmentAt] != '/':
			segmentAt++
			p, i = segment, segmentAt
		case path >= 0 && pathAt < len(s):
			pathAt++
			p, i, segment = path, pathAt, -1
		default:
			return false
		}
	}
}
