package policy

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// reader walks the nodes of one file by schema and collects what is wrong.
//
// It works on nodes rather than decoding into structs because a fault needs its line,
// a field name must match in its exact case, and two fields of one name must
// not end with the last one winning: what a reviewer reads first would not be
// what is enforced.
type reader struct {
	file   string
	faults Errors
	spent  int
	budget int
	rules  *ruleChecks
	// lines are those of the document that is read, which is at root.
	lines fieldLines
	root  string
}

// object is a mapping's fields by name. Fields that are null are left out:
// null is unset, as in Kubernetes.
type object struct {
	node   *yaml.Node
	path   string
	fields map[string]*yaml.Node
}

func (r *reader) fault(n *yaml.Node, path, format string, args ...any) {
	if len(path) > maxFieldPath {
		path = path[:maxFieldPath] + "…"
	}
	f := Fault{File: r.file, Field: path, Text: fmt.Sprintf(format, args...)}
	if n != nil {
		f.Line = n.Line
	}
	r.faults.add(f)
}

var null = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}

// resolve follows an alias. What is visited is counted, so that
// aliases of aliases of aliases cost no more than a file that is written out
// could: a file without aliases never comes near the limit.
func (r *reader) resolve(n *yaml.Node) *yaml.Node {
	for hops := 0; n.Kind == yaml.AliasNode && n.Alias != nil && hops < 8; hops++ {
		n = n.Alias
	}
	if r.exhausted() {
		return null
	}
	if r.spent += 1 + len(n.Value); r.exhausted() {
		r.fault(n, "", "aliases in this file stand for more than %d bytes: write the values out", r.budget)
		return null
	}
	return n
}

func (r *reader) exhausted() bool { return r.spent > r.budget }

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// object reads a mapping whose fields are known. Everything else is a fault.
func (r *reader) object(n *yaml.Node, path string, known ...string) (object, bool) {
	r.note(n, path)
	n = r.resolve(n)
	o := object{node: n, path: path, fields: map[string]*yaml.Node{}}
	if n.Kind != yaml.MappingNode {
		if !r.exhausted() {
			r.fault(n, path, "must be a mapping, not %s", describe(n))
		}
		return o, false
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := r.resolve(n.Content[i]), r.resolve(n.Content[i+1])
		if r.exhausted() {
			return o, false
		}
		name := key.Value
		switch {
		case key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge":
			// lint has said so
		case slices.Contains(known, name):
			if !isNull(value) {
				o.fields[name] = n.Content[i+1]
				r.note(n.Content[i+1], join(path, name))
			}
		default:
			r.fault(n.Content[i], join(path, name), "unknown field%s", hint(name, known))
		}
	}
	return o, true
}

// line is the node of a field, or of the object where the field is not set.
func (o object) line(name string) *yaml.Node {
	if n, ok := o.fields[name]; ok {
		return n
	}
	return o.node
}

// lint faults what is written in a way that could be read twice, anywhere below n,
// in fields that are let be as well: fields that are given twice, merge keys
// (which override or are overridden out of sight), and explicit tags (by which
// a value that is plain to see can be null). Aliases are not followed: what they
// stand for is checked where it is written.
func (r *reader) lint(n *yaml.Node, path string, depth int) {
	if depth > maxDepth {
		r.fault(n, path, "nested more than %d deep", maxDepth)
		return
	}
	if n.Style&yaml.TaggedStyle != 0 && n.ShortTag() != "!!str" {
		r.fault(n, path, "the tag %s is not read: write the value without it", quote(n.Tag))
	}
	switch n.Kind {
	case yaml.SequenceNode:
		for i, c := range n.Content {
			r.lint(c, index(path, i), depth+1)
		}
	case yaml.MappingNode:
		seen := make(map[string]int, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind == yaml.AliasNode && key.Alias != nil {
				key = key.Alias
			}
			field := join(path, key.Value)
			first, again := seen[key.Value]
			switch {
			case key.Kind != yaml.ScalarNode:
				r.fault(n.Content[i], path, "a field name must be a string, not %s", describe(key))
			case key.ShortTag() == "!!merge":
				r.fault(n.Content[i], path, "merge keys (<<) are not read: write the fields out")
			case again:
				r.fault(n.Content[i], field, "given twice, first in line %d: keep one", first)
			default:
				seen[key.Value] = n.Content[i].Line
			}
			r.lint(n.Content[i+1], field, depth+1)
		}
	}
}

// syntax turns the YAML parser's error into a fault.
func (r *reader) syntax(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	f := Fault{File: r.file}
	if _, scanErr := fmt.Sscanf(text, "line %d:", &f.Line); scanErr == nil {
		_, text, _ = strings.Cut(text, ": ")
	}
	f.Text = "not readable as YAML: " + plain(text)
	r.faults.add(f)
}

// join appends a field name to a path, cut and quoted where it is no ordinary
// name.
func join(path, name string) string {
	if name = plain(name); path == "" {
		return name
	}
	return path + "." + name
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// hint names the field that differs from name only in case.
func hint(name string, fields []string) string {
	for _, f := range fields {
		if strings.EqualFold(f, name) {
			return fmt.Sprintf(" (did you mean %s?)", f)
		}
	}
	return ""
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if isNull(n) {
			return "empty"
		}
		return quote(n.Value)
	}
	return "an alias that cannot be followed"
}
