package trust

import (
	"fmt"
	"time"

	"github.com/cosentry/cosentry/verify/policy"
)

// expiresSoon is how long ahead `policy check` tells of a certificate authority's end.
const expiresSoon = 30 * 24 * time.Hour

// Warnings says what the policies of a set refer to and cannot have now, or soon will not have, in order of the policies'
// names.
func (s *Snapshot) Warnings(set *policy.Set) []policy.Warning {
	if set == nil {
		return nil
	}
	var all []policy.Warning
	told := map[string]bool{}
	for _, p := range set.Policies() {
		for _, u := range uses(p) {
			if text := s.doubt(u, told); text != "" {
				all = append(all, policy.Warning{Policy: p.Name, Source: p.At(u.field), Field: u.field, Text: text})
			}
		}
	}
	if s == nil {
		return all
	}
	for _, name := range sortedNames(s.roots) {
		// Those that policies name have been told of where they are named; this is where they are described.
		if r := s.roots[name]; r.err != nil && r.source != "" {
			all = append(all, policy.Warning{Policy: name, Source: r.source, Field: r.field, Text: brief(r.err)})
		}
	}
	return all
}

// doubt says what is wrong with one reference. The end of a root is told once for all who name it.
func (s *Snapshot) doubt(u use, told map[string]bool) string {
	var err error
	switch {
	case u.key != nil:
		_, err = s.Keys(u.key)
	case u.rule != nil:
		_, err = s.Rule(u.rule)
	case u.cert != nil:
		a, e := s.authorities(u.cert)
		if err = e; err == nil {
			return s.end("the last of its certificate authorities", a.expires, expiresSoon)
		}
	case u.root != nil:
		name := *u.root
		if _, err = s.Root(name); err == nil && !told[name] {
			told[name] = true
			r := s.roots[name].root
			if text := s.end("trust root "+quote(rootName(name)), r.Expires, soon); text != "" {
				return text
			}
			return s.end("an authority of trust root "+quote(rootName(name)), r.Ends, soon)
		}
	}
	if err != nil {
		return brief(err) + ": what needs it fails until this is mended"
	}
	return ""
}

func (s *Snapshot) end(what string, end time.Time, ahead time.Duration) string {
	now := time.Now()
	if s != nil {
		now = s.now()
	}
	day := end.UTC().Format(time.DateOnly)
	switch {
	case end.IsZero() || now.Before(end.Add(-ahead)):
		return ""
	case now.After(end):
		return fmt.Sprintf("%s has expired on %s: it signs nothing new, and what it signed before is accepted only with proof of the time", what, day)
	}
	return fmt.Sprintf("%s expires on %s", what, day)
}
