package policy

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/cosentry/cosentry/verify/rules"
)

// Warning is something in a sound policy that is legal and probably not what
// its owner means.
type Warning struct {
	// Policy is the policy's name; empty where the warning is about a TrustRoot or the whole set.
	Policy string
	// Source is where the field is written, as file:line, or the file or folder.
	Source string
	// Field is the path to the field, such as spec.images[0].glob; empty where the warning is about a file or folder.
	Field string
	Text  string
}

// String is the warning as source: field: text.
func (w Warning) String() string {
	if w.Field == "" {
		return plain(w.Source) + ": " + w.Text
	}
	return fmt.Sprintf("%s: %s: %s", plain(w.Source), w.Field, w.Text)
}

// Warnings returns what is legal and dangerous in the set, in order of the policies' names, the TrustRoots' after them,
// and what was left out of the folder it was loaded from.
// What policies refer to is not looked at.
func (s *Set) Warnings() []Warning { return s.warnings(time.Now()) }

func (s *Set) warnings(now time.Time) []Warning {
	var all []Warning
	possible := false
	for _, p := range s.policies {
		d := doubts{all: &all, policy: p.Name, source: p.Source, lines: p.lines, now: now}
		possible = d.images(p) || possible
		d.matches(p)
		d.authorities(p)
	}
	if len(s.policies) > 0 && !possible {
		p := s.policies[0]
		all = append(all, Warning{Source: p.At("spec.images"), Field: "spec.images", Text: "no policy of this set matches any image name: nothing is checked"})
	}
	for _, t := range s.trustRoots {
		d := doubts{all: &all, source: t.Source, lines: t.lines, now: now}
		d.trustRoot(t)
	}
	return append(all, s.unread...)
}

// doubts collects the warnings about one document.
type doubts struct {
	all            *[]Warning
	policy, source string
	lines          fieldLines
	now            time.Time
}

func (d doubts) add(field, format string, args ...any) {
	*d.all = append(*d.all, Warning{Policy: d.policy, Source: d.lines.at(d.source, field), Field: field, Text: fmt.Sprintf(format, args...)})
}

// images reports whether some glob matches some name.
func (d doubts) images(p *Policy) (possible bool) {
	for i, g := range p.Globs {
		if text := g.doubt(); text != "" {
			d.add(index("spec.images", i)+".glob", "%s", text)
		}
		possible = possible || g.possible()
	}
	return possible
}

func (d doubts) matches(p *Policy) {
	for i, m := range p.Match {
		at := index("spec.match", i)
		switch {
		case m.Resource != "" && m.Resource != "pods":
			d.add(at+".resource", "applies to pods as well, whoever made them: a node sees pods alone, not %s", m.Resource)
		case m.Group != "":
			d.add(at+".group", "is not looked at: a node sees pods alone")
		}
		if m.Labels != nil && !m.Labels.Empty() {
			d.add(at+".selector", "whoever writes a pod's labels can opt out of this policy: a pod that does not match is not checked by it")
		}
	}
}

func (d doubts) authorities(p *Policy) {
	names := map[string]int{}
	for i := range p.Authorities {
		a, at := &p.Authorities[i], index("spec.authorities", i)
		if first, again := names[a.Name]; again {
			d.add(at+".name", "authority %d is called %s too: reports cannot tell them apart, and a rule sees one of them", first, quote(a.Name))
		} else {
			names[a.Name] = i
		}
		switch {
		case a.Static != nil:
			d.static(p, a.Static, at+".static")
		case a.Key != nil:
			d.reference(at+".key.secretRef", a.Key.Secret)
		default:
			d.keyless(a, at)
		}
		d.signatures(a, at)
	}
	if p.Rule != nil {
		d.reference("spec.policy.configMapRef", p.Rule.ConfigMap)
		for _, text := range rules.Warnings(p.Rule.Type, p.Rule.Text) {
			d.add("spec.policy.data", "%s", text)
		}
	}
}

func (d doubts) static(p *Policy, s *Static, at string) {
	if !s.Pass {
		if len(p.Authorities) > 1 {
			d.add(at, "refuses, but any other authority that accepts an image overrules it")
		}
		return
	}
	// A rule decides after it, so that this is a way to ask for what is no signature.
	if i := everything(p.Globs); i >= 0 && p.Rule == nil {
		d.add(at, "passes every image there is without a signature, by the glob %s", quote(p.Globs[i].String()))
	}
	if len(p.Authorities) > 1 && p.Rule == nil {
		d.add(at, "passes every image of this policy, so its other authorities decide nothing")
	}
	if s.Message != "" {
		d.add(at+".message", "is shown for action fail only")
	}
}

// signatures looks at what key and keyless have in common.
func (d doubts) signatures(a *Authority, at string) {
	if a.Log != nil {
		if u, err := url.Parse(a.Log.URL); err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
			d.add(at+".ctlog.url", "is not asked: logs are asked by https, or on a loopback address, so that nobody on the way sees which images run here; proofs must come along with signatures")
		}
		if a.Log.URL == "" && a.Log.TrustRoot != "" {
			d.add(at+".ctlog", "proofs must come along with signatures: write url to have the log asked for those that do not (policy-controller asks at the trust root's own URL)")
		}
		if a.Log.URL != "" && a.Log.TrustRoot == "" && a.Log.URL != publicRekor {
			d.add(at+".ctlog.url", "proofs by this log are checked with the public-good instance's keys, because there is no trustRootRef beside it")
		}
	}
	if a.Timestamp != nil && a.Timestamp.TrustRoot == "" {
		d.add(at+".rfc3161timestamp", "is {}, which policy-controller does not look at: here a timestamp by the public-good instance's authority is demanded; name a trustRootRef, or remove it")
	}
	if a.Source != nil && a.Source.Repository == "" && a.Source.TagPrefix == "" && len(a.Source.PullSecrets) == 0 {
		d.add(at+".source[0]", "says nothing: signatures are looked for beside the image")
	}
	names := map[string]int{}
	for i, att := range a.Attestations {
		here := index(at+".attestations", i)
		if first, again := names[att.Name]; again {
			d.add(here+".name", "attestation %d is called %s too: reports cannot tell them apart, and a rule sees one of them", first, quote(att.Name))
		} else {
			names[att.Name] = i
		}
		if att.Rule != nil {
			d.reference(here+".policy.configMapRef", att.Rule.ConfigMap)
		}
	}
}

// reference warns where policy-controller reads elsewhere.
func (d doubts) reference(at string, r *Reference) {
	if r != nil && r.Namespace != DefaultNamespace {
		d.add(at+".namespace", "is where it is looked for here: policy-controller looks in its own namespace, whatever is written")
	}
}

func (d doubts) trustRoot(t *TrustRoot) {
	if t.Keys != nil {
		for i, c := range t.Keys.CertificateAuthorities {
			d.expired(index("spec.sigstoreKeys.certificateAuthorities", i)+".certChain", c.CertChain)
		}
		for i, c := range t.Keys.TimestampAuthorities {
			d.expired(index("spec.sigstoreKeys.timestampAuthorities", i)+".certChain", c.CertChain)
		}
	}
	if t.Remote != nil && strings.HasPrefix(t.Remote.Mirror, "http://") {
		d.add("spec.remote.mirror", "is asked without encryption: its metadata is signed, but can be held back until it expires")
	}
}

// expired warns of certificates past their time. What was signed before may still be proved by them.
func (d doubts) expired(at string, chain []byte) {
	certificates, err := ParseCertificates(chain)
	if err != nil {
		return // Parse has refused it
	}
	for i, c := range certificates {
		if d.now.After(c.NotAfter) {
			d.add(at, "certificate %d, %s, expired on %s: what was signed since is refused", i+1, quote(c.Subject.String()), c.NotAfter.UTC().Format(time.DateOnly))
		}
	}
}
