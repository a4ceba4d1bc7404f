package policy

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxLines bounds what is remembered of one document, in which aliases can stand for much.
const maxLines = 8192

// fieldLines says in which line of its file each field of a document is, by its path, as far as that is another line
// than that of what it is in. It is for messages alone and part of no revision.
type fieldLines map[string]int

// line is that of a field, or of the nearest that it is in.
func (l fieldLines) line(field string) int {
	for {
		n, ok := l[field]
		if ok || field == "" {
			return n
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
}

// at is source, which is a document's file:line, with the line of a field of it.
func (l fieldLines) at(source, field string) string {
	file, _ := splitSource(source)
	if n := l.line(field); n > 0 {
		return file + ":" + strconv.Itoa(n)
	}
	return source
}

// At is where a field is written, as file:line, or where the policy is if that is not known. The path is that of a
// Warning, such as spec.authorities[0].key.
func (p *Policy) At(field string) string { return p.lines.at(p.Source, field) }

// remember begins to keep the lines of the document at path.
func (r *reader) remember(n *yaml.Node, path string) {
	r.lines, r.root = fieldLines{"": n.Line}, path
}

// note keeps the line of a field of the document.
func (r *reader) note(n *yaml.Node, path string) {
	path = strings.TrimPrefix(strings.TrimPrefix(path, r.root), ".")
	if r.lines != nil && n.Line > 0 && len(r.lines) < maxLines && r.lines.line(path) != n.Line {
		r.lines[path] = n.Line
	}
}
