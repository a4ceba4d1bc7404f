package config

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// The values of namespaces.enforce that are no list.
const (
	ScopeAll      = "all"
	ScopeLabelled = "labelled"
)

// Scope is the setting namespaces.enforce: one word or a list. Exactly one of its fields is set.
type Scope struct {
	// Mode is ScopeAll or ScopeLabelled.
	Mode  string
	Globs Globs
}

// UnmarshalYAML reads a Scope.
func (e *Scope) UnmarshalYAML(n *yaml.Node) error {
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Value != ScopeAll && n.Value != ScopeLabelled {
			return fault("line %d: namespaces.enforce: %q is not one of %s, %s, or a list such as [prod, \"team-*\"]", n.Line, n.Value, ScopeAll, ScopeLabelled)
		}
		*e = Scope{Mode: n.Value}
		return nil
	case yaml.SequenceNode:
		*e = Scope{}
		if err := n.Decode(&e.Globs); err != nil {
			return err
		}
		switch {
		case len(e.Globs) == 0:
			return fault("line %d: namespaces.enforce: an empty list would judge nothing; mode: observe refuses nothing", n.Line)
		case e.Globs.has(ScopeAll), e.Globs.has(ScopeLabelled):
			// Its owner means the word. Taken for a name it would leave every other namespace alone.
			return fault("line %d: namespaces.enforce: %s and %s are not written in a list, which holds names of namespaces", n.Line, ScopeAll, ScopeLabelled)
		}
		return nil
	}
	return fault("line %d: namespaces.enforce: a group of settings stands where a word or a list belongs", n.Line)
}

func (e Scope) String() string {
	if e.Mode != "" {
		return e.Mode
	}
	return e.Globs.String()
}

// Globs are patterns of namespace names.
type Globs []string

func (g Globs) String() string {
	if len(g) == 0 {
		return "none"
	}
	return strings.Join(g, ", ")
}

func (g Globs) has(name string) bool {
	for _, s := range g {
		if s == name {
			return true
		}
	}
	return false
}

// RootFiles are the setting trust.roots.
type RootFiles []RootFile

func (r RootFiles) String() string {
	if len(r) == 0 {
		return "none"
	}
	names := make([]string, 0, len(r))
	for _, f := range r {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

const (
	// maxNamespace is the length of a namespace's name, a DNS label.
	maxNamespace = 63
	maxRoots     = 64
)

type (
	faulter func(field, format string, args ...any)
	pather  func(field, value string)
)

func (n Namespaces) validate(fault faulter, path pather) {
	n.Enforce.Globs.validate("namespaces.enforce", fault)
	n.Exempt.validate("namespaces.exempt", fault)
	for _, glob := range n.Exempt {
		if glob != "" && strings.Trim(glob, "*") == "" {
			fault("namespaces.exempt", "%q exempts every namespace, so nothing would be judged; mode: observe refuses nothing", glob)
		}
	}
	path("namespaces.file", n.File)
}

// validate refuses what can never match a namespace: an entry that is misspelt would be one that its owner believes in.
func (g Globs) validate(field string, fault faulter) {
	for _, glob := range g {
		plain := func(r rune) bool { return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '*' }
		if glob == "" || strings.ContainsFunc(glob, func(r rune) bool { return !plain(r) }) ||
			strings.HasPrefix(glob, "-") || strings.HasSuffix(glob, "-") || len(strings.ReplaceAll(glob, "*", "")) > maxNamespace {
			fault(field, "%q matches no name of a namespace, which are small letters, digits and -; * stands for any run of them", glob)
		}
	}
}
