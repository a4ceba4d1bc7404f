package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Set is an immutable set of policies with one revision. It is safe for
// concurrent use.
type Set struct {
	policies   []*Policy    // by name
	trustRoots []*TrustRoot // by name
	index      globIndex
	revision   string
	unread     []Warning // of the folder it was loaded from
}

// NewSet makes a set of documents, which must not be changed afterwards. It refuses two policies, or two TrustRoots, of
// one name, and what could not have come from a valid document: policies without globs or authorities, and authorities
// that are not exactly one of key, keyless and static, or that leave open whom they trust. An error is of type Errors.
func NewSet(all ...Documents) (*Set, error) {
	var found Documents
	for _, d := range all {
		found.Policies = append(found.Policies, d.Policies...)
		found.TrustRoots = append(found.TrustRoots, d.TrustRoots...)
	}
	if faults := check(found); len(faults) > 0 {
		return nil, faults
	}
	s := &Set{policies: found.Policies, trustRoots: found.TrustRoots}
	slices.SortFunc(s.policies, func(a, b *Policy) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.trustRoots, func(a, b *TrustRoot) int { return cmp.Compare(a.Name, b.Name) })
	s.index = indexGlobs(s.policies)
	s.revision = revision(s)
	return s, nil
}

// Policies returns the policies in order of their names.
func (s *Set) Policies() []*Policy { return slices.Clone(s.policies) }

// TrustRoots returns the TrustRoots in order of their names. A policy may name one that is not among them.
func (s *Set) TrustRoots() []*TrustRoot { return slices.Clone(s.trustRoots) }

// Documents returns what the set was made of.
func (s *Set) Documents() Documents {
	return Documents{Policies: s.Policies(), TrustRoots: s.TrustRoots()}
}

// Parts is how many globs, authorities, identities, attestations and keys there are, which is what the memory that documents
// take grows with.
func (d Documents) Parts() (n int) {
	for _, p := range d.Policies {
		n += len(p.Globs) + len(p.Match) + len(p.Authorities)
		for i := range p.Authorities {
			a := &p.Authorities[i]
			n += len(a.Attestations)
			if a.Key != nil {
				n += len(a.Key.PublicKeys)
			}
			if a.Keyless != nil {
				n += len(a.Keyless.Identities)
			}
		}
	}
	return n + len(d.TrustRoots)
}

// Revision is a hash of what all documents of the set mean: 16 hex digits, equal for sets that decide alike whichever
// files and order they were read from, and different when any name, mode, glob, authority, key, rule or trust root
// differs. What they refer to, such as secrets, is not in it.
func (s *Set) Revision() string { return s.revision }

func check(all Documents) (faults Errors) {
	if len(all.Policies) > MaxPolicies || len(all.TrustRoots) > MaxTrustRoots {
		return Errors{{Text: fmt.Sprintf("%d policies and %d TrustRoots: at most %d and %d are read",
			len(all.Policies), len(all.TrustRoots), MaxPolicies, MaxTrustRoots)}}
	}
	policies := register{"policy", map[string]string{}, &faults}
	for _, p := range all.Policies {
		if p == nil {
			faults.add(Fault{Text: "policy is nil"})
			continue
		}
		policies.check(p.Name, p.Source, p.problem())
	}
	roots := register{"TrustRoot", map[string]string{}, &faults}
	for _, t := range all.TrustRoots {
		if t == nil {
			faults.add(Fault{Text: "TrustRoot is nil"})
			continue
		}
		roots.check(t.Name, t.Source, t.problem())
	}
	return faults
}

// register holds the names of one kind of document, with where each was read.
type register struct {
	kind   string
	first  map[string]string
	faults *Errors
}

func (n register) check(name, source, problem string) {
	f := Fault{Text: problem}
	f.File, f.Line = splitSource(source)
	if f.Text != "" {
		n.faults.add(f)
	}
	if other, twice := n.first[name]; twice {
		f.Field = "metadata.name"
		f.Text = fmt.Sprintf("%s %s is already defined in %s: rename or remove one", n.kind, quote(name), plain(other))
		n.faults.add(f)
		return
	}
	n.first[name] = source
}

func splitSource(source string) (file string, line int) {
	i := strings.LastIndexByte(source, ':')
	if i < 0 {
		return source, 0
	}
	line, err := strconv.Atoi(source[i+1:])
	if err != nil {
		return source, 0
	}
	return source[:i], line
}
