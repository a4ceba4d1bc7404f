package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"
)

// Set is an immutable set of policies with one revision. It is safe for
// concurrent use.
type Set struct {
	policies   []*Policy    // by name
	trustRoots []*TrustRoot // by name
	revision   string
}

// NewSet makes a set of documents, which must not be changed afterwards. It
// refuses two policies of one name, and policies that could not have come from
// a valid document: without globs or authorities, or with an authority that is
// neither key nor static, or both. An error is of type Errors.
func NewSet(all ...Documents) (*Set, error) {
	var policies []*Policy
	for _, d := range all {
		policies = append(policies, d.Policies...)
	}
	if faults := check(policies); len(faults) > 0 {
		return nil, faults
	}
	s := &Set{policies: policies}
	slices.SortFunc(s.policies, func(a, b *Policy) int { return cmp.Compare(a.Name, b.Name) })
	s.revision = revision(s.policies)
	return s, nil
}

// Policies returns the policies in order of their names.
func (s *Set) Policies() []*Policy { return slices.Clone(s.policies) }

// TrustRoots returns the TrustRoots in order of their names.
func (s *Set) TrustRoots() []*TrustRoot { return slices.Clone(s.trustRoots) }

// TrustRoot returns the TrustRoot of a name. A policy may name one that is not there, or not in a document.
func (s *Set) TrustRoot(name string) (*TrustRoot, bool) {
	for _, t := range s.trustRoots {
		if t.Name == name {
			return t, true
		}
	}
	return nil, false
}

// Documents returns what the set was made of.
func (s *Set) Documents() Documents {
	return Documents{Policies: s.Policies(), TrustRoots: s.TrustRoots()}
}

// Revision is a hash of what all policies of the set mean: 16 hex digits, equal
// for sets that decide alike whichever files and order they were read from, and
// different when any name, mode, glob, authority or key differs.
func (s *Set) Revision() string { return s.revision }

func check(policies []*Policy) (faults Errors) {
	if len(policies) > MaxPolicies {
		return Errors{{Text: fmt.Sprintf("%d policies: at most %d are read", len(policies), MaxPolicies)}}
	}
	first := make(map[string]*Policy, len(policies))
	for _, p := range policies {
		if p == nil {
			faults.add(Fault{Text: "policy is nil"})
			continue
		}
		f := Fault{}
		f.File, f.Line = splitSource(p.Source)
		if f.Text = p.problem(); f.Text != "" {
			faults.add(f)
		}
		if other, twice := first[p.Name]; twice {
			f.Field = "metadata.name"
			f.Text = fmt.Sprintf("policy %s is already defined in %s: rename or remove one", quote(p.Name), plain(other.Source))
			faults.add(f)
			continue
		}
		first[p.Name] = p
	}
	return faults
}

// problem says why a policy cannot be judged; Parse returns none of which
// this would be true.
func (p *Policy) problem() string {
	name := quote(p.Name)
	switch {
	case p.Name == "":
		return "a policy has no name"
	case p.Mode != Enforce && p.Mode != Warn:
		return fmt.Sprintf("policy %s has the unknown mode %d", name, int(p.Mode))
	case len(p.Globs) == 0 || slices.Contains(p.Globs, Glob{}):
		return fmt.Sprintf("policy %s has no glob, or an empty one", name)
	case len(p.Authorities) == 0:
		return fmt.Sprintf("policy %s has no authorities", name)
	}
	for i, a := range p.Authorities {
		switch {
		case (a.Key == nil) == (a.Static == nil):
			return fmt.Sprintf("policy %s, authority %d: exactly one of key and static is needed", name, i)
		case a.Key != nil && len(a.Key.PublicKeys) == 0:
			return fmt.Sprintf("policy %s, authority %d: no public key", name, i)
		case a.Format != AnyFormat && a.Format != LegacyFormat && a.Format != BundleFormat:
			return fmt.Sprintf("policy %s, authority %d: unknown signature format", name, i)
		}
		if a.Key == nil {
			continue
		}
		for _, k := range a.Key.PublicKeys {
			if k.Key == nil || k.Hash == 0 || k.Fingerprint == "" {
				return fmt.Sprintf("policy %s, authority %d: a public key without key, hash or fingerprint", name, i)
			}
		}
	}
	return ""
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

// revision hashes the policies, which are in order of their names. Every string
// goes in with its length and every list with its count, so that no two
// meanings share an encoding.
func revision(policies []*Policy) string {
	h := meaning{sha256.New()}
	h.text("cosentry policy set 1")
	h.number(len(policies))
	for _, p := range policies {
		h.text(p.Name)
		h.text(p.Mode.String())
		h.number(len(p.Globs))
		for _, g := range p.Globs {
			h.text(g.written)
		}
		h.number(len(p.Authorities))
		for _, a := range p.Authorities {
			h.authority(a)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

type meaning struct{ hash.Hash }

func (h meaning) number(n int) { h.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) }

func (h meaning) text(s string) {
	h.number(len(s))
	h.Write([]byte(s))
}

func (h meaning) authority(a Authority) {
	h.text(a.Name)
	h.text(string(a.Format))
	switch {
	case a.Key != nil:
		h.text("key")
		h.number(len(a.Key.PublicKeys))
		for _, k := range a.Key.PublicKeys {
			h.text(k.Fingerprint)
			h.text(k.Hash.String())
		}
	case a.Static != nil:
		h.text("static")
		h.text(strconv.FormatBool(a.Static.Pass))
		h.text(a.Static.Message)
	}
}
