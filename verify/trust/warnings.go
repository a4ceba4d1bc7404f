package trust

import (
	"errors"
	"fmt"
	"time"

	"github.com/cosentry/cosentry/verify/policy"
)

// expiresSoon is how long ahead `policy check` tells of a certificate authority's end.
const expiresSoon = 30 * 24 * time.Hour

// Reference is one place where something is referred to or described that is not written out there, with how things stand.
type Reference struct {
	// Kind and Name are those of a State.
	Kind, Name string
	// Err is why it cannot be used; nil: it can.
	Err error
	// Warning says where it is, and what is to be said of it: why it cannot be used, or that it soon cannot. Its Text is empty
	// if all is well, and its Policy where a trust root is described.
	policy.Warning
}

// References are all places where policies of a set refer to something, in order of the policies' names, and then
// the descriptions of trust roots that cannot be used. The end of a root is told at the first place that names it.
func (s *Snapshot) References(set *policy.Set) []Reference {
	if set == nil {
		return nil
	}
	var all []Reference
	told := map[string]bool{}
	for _, p := range set.Policies() {
		for _, u := range uses(p) {
			r := s.look(u, told)
			r.Policy, r.Source, r.Field = p.Name, p.At(u.field), u.field
			all = append(all, r)
		}
	}
	if s == nil {
		return all
	}
	for _, name := range sortedNames(s.roots) {
		// Those that policies name have been told of where they are named; this is where they are described.
		if r := s.roots[name]; r.err != nil && r.source != "" {
			all = append(all, Reference{KindRoot, rootName(name), r.err, policy.Warning{Source: r.source, Field: r.field, Text: brief(r.err)}})
		}
	}
	return all
}

// Warnings says what the policies of a set refer to and cannot have now, or soon will not have.
func (s *Snapshot) Warnings(set *policy.Set) []policy.Warning {
	var all []policy.Warning
	for _, r := range s.References(set) {
		if r.Text != "" {
			all = append(all, r.Warning)
		}
	}
	return all
}

// look says how things stand with one reference.
func (s *Snapshot) look(u use, told map[string]bool) (r Reference) {
	switch {
	case u.key != nil:
		r.Kind, r.Name = KindKMS, u.key.KMS
		if u.key.Secret != nil {
			r.Kind, r.Name = KindSecret, referenceName(*u.key.Secret)
		}
		_, r.Err = s.Keys(u.key)
	case u.rule != nil:
		if u.rule.Remote != nil {
			r.Kind, r.Name = KindRemote, u.rule.Remote.URL
		} else {
			r.Kind, r.Name = KindConfigMap, referenceName(*u.rule.ConfigMap)
		}
		_, r.Err = s.Rule(u.rule)
	case u.cert != nil:
		r.Kind, r.Name = KindSecret, "ca-cert"
		if u.cert.Secret != nil {
			r.Name = referenceName(*u.cert.Secret)
		}
		var a *authorities
		if a, r.Err = s.authorities(u.cert); r.Err == nil {
			r.Text = s.end("the last of its certificate authorities", a.expires, expiresSoon)
		}
	case u.root != nil:
		name := *u.root
		r.Kind, r.Name = KindRoot, rootName(name)
		if _, r.Err = s.Root(name); r.Err == nil && !told[name] {
			told[name] = true
			r.Text = s.rootEnd(name)
		}
	}
	if r.Err != nil {
		r.Text = brief(r.Err)
		if !errors.Is(r.Err, errNotAsked) {
			r.Text += ": what needs it fails until this is mended"
		}
	}
	return r
}

// rootEnd says that a root will soon be over, or one of its authorities.
func (s *Snapshot) rootEnd(name string) string {
	what, r := "trust root "+quote(rootName(name)), s.roots[name].root
	if text := s.end(what, r.Expires, soon); text != "" {
		return text
	}
	return s.end("an authority of "+what, r.Ends, soon)
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
