package policy

import (
	"fmt"
	"slices"
)

// problem says why a policy cannot be judged; Parse returns none of which this would be true. A policy that was put
// together otherwise must not be one that nothing is found wrong with because there is nothing in it.
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
	if why := p.Rule.problem(); why != "" {
		return fmt.Sprintf("policy %s: %s", name, why)
	}
	for i := range p.Authorities {
		if why := p.Authorities[i].problem(); why != "" {
			return fmt.Sprintf("policy %s, authority %d: %s", name, i, why)
		}
	}
	return ""
}

func (a *Authority) problem() string {
	switch {
	case count(a.Key != nil, a.Keyless != nil, a.Static != nil) != 1:
		return "exactly one of key, keyless and static is needed"
	case a.Format != AnyFormat && a.Format != LegacyFormat && a.Format != BundleFormat:
		return "unknown signature format"
	case a.Static != nil && (a.Source != nil || a.Log != nil || a.Timestamp != nil || len(a.Attestations) > 0):
		return "static beside what asks for signatures"
	}
	for _, att := range a.Attestations {
		if att.Name == "" || att.PredicateType == "" {
			return "an attestation without name or predicate type"
		}
		if why := att.Rule.problem(); why != "" {
			return why
		}
	}
	if a.Source != nil && slices.Contains(a.Source.PullSecrets, "") {
		return "a pull secret without a name"
	}
	if a.Key != nil {
		return a.Key.problem()
	}
	return a.Keyless.problem()
}

func (k *Key) problem() string {
	if count(len(k.PublicKeys) > 0, k.Secret != nil, k.KMS != "") != 1 {
		return "no public key: exactly one of data, secretRef and kms is needed"
	}
	if len(k.PublicKeys) == 0 && k.Hash == 0 {
		return "no hash algorithm for a key that is read later"
	}
	for _, p := range k.PublicKeys {
		if p.Key == nil || p.Hash == 0 || p.Fingerprint == "" {
			return "a public key without key, hash or fingerprint"
		}
	}
	return k.Secret.problem()
}

func (k *Keyless) problem() string {
	if k == nil {
		return ""
	}
	if len(k.Identities) == 0 {
		return "no identity: everybody could sign"
	}
	for _, id := range k.Identities {
		if count(id.Issuer != "", id.IssuerRegExp != nil) != 1 || count(id.Subject != "", id.SubjectRegExp != nil) != 1 {
			return "an identity needs an issuer and a subject, each exact or by regular expression"
		}
	}
	if k.CA == nil {
		return ""
	}
	if count(k.CA.PEM != "", k.CA.Secret != nil) != 1 {
		return "ca-cert needs exactly one of data and secretRef"
	}
	return k.CA.Secret.problem()
}

func (r *Rule) problem() string {
	switch {
	case r == nil:
		return ""
	case r.Type != "cue" && r.Type != "rego":
		return "a rule of unknown type"
	case count(r.Text != "", r.Remote != nil, r.ConfigMap != nil) != 1:
		return "a rule needs exactly one of data, remote and configMapRef"
	case r.Remote != nil && (r.Remote.URL == "" || !sha256Hex.MatchString(r.Remote.SHA256)):
		return "a remote rule without URL or SHA-256"
	}
	return r.ConfigMap.problem()
}

// problem of a reference is one that could lead out of the folder it is looked up in, too.
func (r *Reference) problem() string {
	switch {
	case r == nil:
		return ""
	case !dnsSubdomain.MatchString(r.Name) || !dnsSubdomain.MatchString(r.Namespace):
		return "a reference without name or namespace"
	case r.Key != "" && !validKey(r.Key):
		return "a reference to an impossible key"
	}
	return ""
}

func (t *TrustRoot) problem() string {
	name := quote(t.Name)
	switch {
	case t.Name == "":
		return "a TrustRoot has no name"
	case count(t.Keys != nil, t.Repository != nil, t.Remote != nil, len(t.JSON) > 0) != 1:
		return fmt.Sprintf("TrustRoot %s: exactly one of sigstoreKeys, repository, remote and trustedRootJSON is needed", name)
	case t.Keys != nil && len(t.Keys.CertificateAuthorities)+len(t.Keys.TimestampAuthorities) == 0:
		return fmt.Sprintf("TrustRoot %s holds no authority", name)
	case t.Repository != nil && (len(t.Repository.Root) == 0 || len(t.Repository.MirrorFS) == 0 || t.Repository.Target == ""),
		t.Remote != nil && (len(t.Remote.Root) == 0 || t.Remote.Mirror == "" || t.Remote.Target == ""):
		return fmt.Sprintf("TrustRoot %s: a TUF repository needs a root, a mirror and a target", name)
	}
	return ""
}

func count(conditions ...bool) (n int) {
	for _, c := range conditions {
		if c {
			n++
		}
	}
	return n
}
