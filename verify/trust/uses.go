package trust

import (
	"fmt"

	"github.com/cosentry/cosentry/verify/policy"
)

// use is one place in a policy that refers to something. Exactly one of key, cert, rule and root is set.
type use struct {
	field string
	key   *policy.Key          // by secret or KMS
	cert  *policy.Certificates // ca-cert, written out or in a secret
	rule  *policy.Rule         // remote or in a ConfigMap
	root  *string              // the name of a trust root
}

// uses are all places in a policy that refer to something.
func uses(p *policy.Policy) []use {
	var all []use
	add := func(u use, format string, args ...any) {
		u.field = fmt.Sprintf(format, args...)
		all = append(all, u)
	}
	rule := func(r *policy.Rule, at string) {
		switch {
		case r == nil:
		case r.Remote != nil:
			add(use{rule: r}, "%s.remote", at)
		case r.ConfigMap != nil:
			add(use{rule: r}, "%s.configMapRef", at)
		}
	}
	for i := range p.Authorities {
		a := &p.Authorities[i]
		at := fmt.Sprintf("spec.authorities[%d]", i)
		switch {
		case a.Key != nil && a.Key.Secret != nil:
			add(use{key: a.Key}, "%s.key.secretRef", at)
		case a.Key != nil && a.Key.KMS != "":
			add(use{key: a.Key}, "%s.key.kms", at)
		}
		if k := a.Keyless; k != nil {
			if k.CA != nil {
				add(use{cert: k.CA}, "%s.keyless.ca-cert", at)
			}
			// Without ctlog, a keyless authority's transparency log is its root's.
			if k.CA == nil || !k.IgnoreSCT || a.Log == nil {
				add(use{root: &k.TrustRoot}, "%s.keyless%s", at, trustRootRef(k.TrustRoot))
			}
		}
		if a.Log != nil && a.NeedsLog() {
			add(use{root: &a.Log.TrustRoot}, "%s.ctlog%s", at, trustRootRef(a.Log.TrustRoot))
		}
		if a.Timestamp != nil {
			add(use{root: &a.Timestamp.TrustRoot}, "%s.rfc3161timestamp%s", at, trustRootRef(a.Timestamp.TrustRoot))
		}
		for j := range a.Attestations {
			rule(a.Attestations[j].Rule, fmt.Sprintf("%s.attestations[%d].policy", at, j))
		}
	}
	rule(p.Rule, "spec.policy")
	return all
}

// trustRootRef ends the path to a field that may leave the name of the root out.
func trustRootRef(name string) string {
	if name == "" {
		return ""
	}
	return ".trustRootRef"
}

// Fetched is how many things the policies of a set would have a Keeper fetch: keys of key management services, remote rules
// and trust roots on servers. The public-good instance's own is not among them.
func Fetched(set *policy.Set) int {
	w := gather(set)
	n := len(w.kms) + len(w.remotes)
	for _, t := range set.TrustRoots() {
		if t.Remote != nil {
			n++
		}
	}
	return n
}
