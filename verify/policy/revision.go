package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"regexp"
	"time"
)

// revision hashes the documents, which are in order of their names. Every string goes in with its length and every
// list with its count, and what may be missing with whether it is, so that no two meanings share an encoding.
func revision(s *Set) string {
	h := meaning{sha256.New()}
	h.text("cosentry policy set 2")
	h.number(len(s.policies))
	for _, p := range s.policies {
		h.policy(p)
	}
	h.number(len(s.trustRoots))
	for _, t := range s.trustRoots {
		h.trustRoot(t)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

type meaning struct{ hash.Hash }

func (h meaning) number(n int) { h.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) }

func (h meaning) text(s string) {
	h.number(len(s))
	h.Write([]byte(s))
}

// is writes whether something is there or true, and returns it.
func (h meaning) is(b bool) bool {
	if b {
		h.number(1)
	} else {
		h.number(0)
	}
	return b
}

func (h meaning) policy(p *Policy) {
	h.text(p.Name)
	h.text(p.Mode.String())
	h.number(len(p.Globs))
	for _, g := range p.Globs {
		h.text(g.written)
	}
	h.number(len(p.Match))
	for _, m := range p.Match {
		h.text(m.Group)
		h.text(m.Version)
		h.text(m.Resource)
		if h.is(m.Labels != nil) {
			h.text(m.Labels.String())
			// Nothing and Everything are written alike.
			h.is(m.Labels.Empty())
		}
	}
	h.number(len(p.Authorities))
	for i := range p.Authorities {
		h.authority(&p.Authorities[i])
	}
	h.rule(p.Rule)
	h.is(p.FetchConfigFile)
	h.is(p.IncludeObjectMeta)
	h.is(p.IncludeTypeMeta)
}

func (h meaning) authority(a *Authority) {
	h.text(a.Name)
	h.text(string(a.Format))
	if h.is(a.Key != nil) {
		h.key(a.Key)
	}
	if h.is(a.Keyless != nil) {
		h.keyless(a.Keyless)
	}
	if h.is(a.Static != nil) {
		h.is(a.Static.Pass)
		h.text(a.Static.Message)
	}
	if h.is(a.Source != nil) {
		h.text(a.Source.Repository)
		h.text(a.Source.TagPrefix)
		h.number(len(a.Source.PullSecrets))
		for _, s := range a.Source.PullSecrets {
			h.text(s)
		}
	}
	if h.is(a.Log != nil) {
		h.text(a.Log.URL)
		h.text(a.Log.TrustRoot)
	}
	if h.is(a.Timestamp != nil) {
		h.text(a.Timestamp.TrustRoot)
	}
	h.number(len(a.Attestations))
	for _, att := range a.Attestations {
		h.text(att.Name)
		h.text(att.PredicateType)
		h.rule(att.Rule)
	}
}

func (h meaning) key(k *Key) {
	h.number(len(k.PublicKeys))
	for _, p := range k.PublicKeys {
		h.text(p.Fingerprint)
		h.text(p.Hash.String())
		h.is(p.HashWritten)
	}
	h.reference(k.Secret)
	h.text(k.KMS)
	h.number(int(k.Hash))
	h.is(k.HashWritten)
}

func (h meaning) keyless(k *Keyless) {
	h.text(k.URL)
	h.text(k.TrustRoot)
	h.is(k.IgnoreSCT)
	if h.is(k.CA != nil) {
		h.text(k.CA.PEM)
		h.reference(k.CA.Secret)
	}
	h.number(len(k.Identities))
	for _, id := range k.Identities {
		h.text(id.Issuer)
		h.regexp(id.IssuerRegExp)
		h.text(id.Subject)
		h.regexp(id.SubjectRegExp)
	}
}

func (h meaning) regexp(re *regexp.Regexp) {
	if h.is(re != nil) {
		h.text(re.String())
	}
}

func (h meaning) reference(r *Reference) {
	if h.is(r != nil) {
		h.text(r.Namespace)
		h.text(r.Name)
		h.text(r.Key)
	}
}

func (h meaning) rule(r *Rule) {
	if !h.is(r != nil) {
		return
	}
	h.text(r.Type)
	h.text(r.Text)
	if h.is(r.Remote != nil) {
		h.text(r.Remote.URL)
		h.text(r.Remote.SHA256)
	}
	h.reference(r.ConfigMap)
}

func (h meaning) trustRoot(t *TrustRoot) {
	h.text(t.Name)
	h.text(string(t.JSON))
	if h.is(t.Keys != nil) {
		h.chains(t.Keys.CertificateAuthorities)
		h.chains(t.Keys.TimestampAuthorities)
		h.logs(t.Keys.TLogs)
		h.logs(t.Keys.CTLogs)
	}
	if r := t.Repository; h.is(r != nil) {
		h.text(string(r.Root))
		h.text(string(r.MirrorFS))
		h.text(r.Targets)
		h.text(r.Target)
	}
	if r := t.Remote; h.is(r != nil) {
		h.text(string(r.Root))
		h.text(r.Mirror)
		h.text(r.Targets)
		h.text(r.Target)
	}
}

func (h meaning) chains(all []CertificateAuthority) {
	h.number(len(all))
	for _, c := range all {
		h.text(c.Organization)
		h.text(c.CommonName)
		h.text(c.URI)
		h.text(string(c.CertChain))
		h.text(c.ValidFrom.UTC().Format(time.RFC3339Nano))
		h.text(c.ValidUntil.UTC().Format(time.RFC3339Nano))
	}
}

func (h meaning) logs(all []LogInstance) {
	h.number(len(all))
	for _, l := range all {
		h.text(l.BaseURL)
		h.text(l.HashAlgorithm)
		h.text(string(l.PublicKey))
	}
}
