package policy

import "slices"

// globIndex finds the globs that may match a name without trying all of them: those whose literal beginning the name
// has. A thousand policies for a thousand registries cost little more than one then.
type globIndex struct {
	lengths   []int // of the literals, each once, ascending
	byLiteral map[string][]indexed
}

// indexed is one glob of the policy with that number.
type indexed struct {
	glob   Glob
	policy int
}

func indexGlobs(policies []*Policy) globIndex {
	x := globIndex{byLiteral: map[string][]indexed{}}
	for i, p := range policies {
		for _, g := range p.Globs {
			x.byLiteral[g.literal] = append(x.byLiteral[g.literal], indexed{g, i})
			x.lengths = append(x.lengths, len(g.literal))
		}
	}
	slices.Sort(x.lengths)
	x.lengths = slices.Compact(x.lengths)
	return x
}

// under returns the policies of which some glob matches some name, in order.
func (s *Set) under(names []string) []*Policy {
	var found []int
	for _, name := range names {
		for _, n := range s.index.lengths {
			if n > len(name) {
				break
			}
			for _, x := range s.index.byLiteral[name[:n]] {
				if x.glob.Match(name) {
					found = append(found, x.policy)
				}
			}
		}
	}
	slices.Sort(found)
	var matching []*Policy
	for _, i := range slices.Compact(found) {
		matching = append(matching, s.policies[i])
	}
	return matching
}
