package policy

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/distribution/reference"
	"go.yaml.in/yaml/v3"
)

// tagPrefix is what may stand before the rest of a tag.
var tagPrefix = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]*$`)

func (r *reader) authorities(spec object) []Authority {
	path := join(spec.path, "authorities")
	before := len(r.faults)
	list := r.list(spec, "authorities", MaxAuthorities)
	// policy-controller can be told to let a policy without authorities through.
	// Here it would accept nothing and say nothing about why.
	if len(list) == 0 && len(r.faults) == before && !r.exhausted() {
		r.fault(spec.line("authorities"), path, "missing: say whose signature counts, by key, keyless or static")
	}
	var authorities []Authority
	for i, item := range list {
		a := r.authority(item, index(path, i))
		if r.exhausted() {
			return nil
		}
		if a.Name == "" {
			a.Name = fmt.Sprintf("authority-%d", i)
		}
		authorities = append(authorities, a)
	}
	return authorities
}

func (r *reader) authority(n *yaml.Node, path string) (a Authority) {
	o, ok := r.object(n, path, "name", "key", "keyless", "static", "source", "ctlog", "rfc3161timestamp", "attestations", "signatureFormat")
	if !ok {
		return a
	}
	a.Name = r.printable(o, "name", r.text(o, "name", maxNameLen))
	a.Format = r.format(o)
	a.Source = r.source(o)
	a.Log = r.ctlog(o)
	a.Timestamp = r.timestamp(o)
	a.Attestations = r.attestations(o)
	// All three are read for their own faults, even if there is one too many.
	r.oneOf(o, "key", "keyless", "static")
	if field, ok := o.fields["key"]; ok {
		a.Key = r.key(field, join(path, "key"))
	}
	if field, ok := o.fields["keyless"]; ok {
		a.Keyless = r.keyless(field, join(path, "keyless"))
	}
	if field, ok := o.fields["static"]; ok {
		a.Static = r.static(field, join(path, "static"))
		r.besideStatic(o)
	}
	return a
}

// besideStatic faults what asks something about signatures. An empty list asks nothing.
func (r *reader) besideStatic(o object) {
	for _, name := range []string{"attestations", "source", "ctlog", "rfc3161timestamp", "signatureFormat"} {
		field, ok := o.fields[name]
		if n := r.resolveIf(field); ok && !(n.Kind == yaml.SequenceNode && len(n.Content) == 0) {
			r.fault(field, join(o.path, name), "says nothing beside static, which looks at no signature: remove it")
		}
	}
}

func (r *reader) resolveIf(n *yaml.Node) *yaml.Node {
	if n == nil {
		return null
	}
	return r.resolve(n)
}

// printable faults text that would be shown and cannot be.
func (r *reader) printable(o object, name, value string) string {
	if strings.ContainsFunc(value, func(c rune) bool { return !unicode.IsPrint(c) }) {
		r.fault(o.line(name), join(o.path, name), "%s holds characters that cannot be printed", quote(value))
	}
	return value
}

func (r *reader) format(o object) Format {
	switch f := Format(r.text(o, "signatureFormat", maxMessage)); f {
	case AnyFormat, LegacyFormat, BundleFormat:
		return f
	default:
		r.fault(o.line("signatureFormat"), join(o.path, "signatureFormat"), "%s is not a signature format: use legacy or bundle, or leave it out to accept both", quote(string(f)))
		return AnyFormat
	}
}

// ctlog reads which transparency log is asked for. {} asks for none, but a name or URL that is empty is a fault: it is
// what a template leaves behind, and would switch the log off.
func (r *reader) ctlog(o object) *Log {
	field, ok := o.fields["ctlog"]
	if !ok {
		return nil
	}
	c, ok := r.object(field, join(o.path, "ctlog"), "url", "trustRootRef")
	if !ok {
		return nil
	}
	return &Log{URL: r.address(c, "url", "https", "http"), TrustRoot: r.trustRoot(c)}
}

func (r *reader) timestamp(o object) *Timestamp {
	field, ok := o.fields["rfc3161timestamp"]
	if !ok {
		return nil
	}
	t, ok := r.object(field, join(o.path, "rfc3161timestamp"), "trustRootRef")
	if !ok {
		return nil
	}
	return &Timestamp{TrustRoot: r.trustRoot(t)}
}

// source reads the one source there may be. Each of its fields may stand alone, as in policy-controller: without oci,
// signatures are looked for beside the image, with the prefix and the secrets.
func (r *reader) source(o object) *Source {
	path := join(o.path, "source")
	list := r.list(o, "source", MaxAuthorities)
	if len(list) > 1 {
		r.fault(o.line("source"), path, "has %d entries: only a single source is read, as in policy-controller", len(list))
	}
	var first *Source
	for i, item := range list { // all of them, for their own faults
		s := r.oneSource(item, index(path, i))
		if r.exhausted() {
			return nil
		}
		if i == 0 {
			first = s
		}
	}
	return first
}

func (r *reader) oneSource(n *yaml.Node, path string) *Source {
	s, ok := r.object(n, path, "oci", "tagPrefix", "signaturePullSecrets")
	if !ok {
		return nil
	}
	source := &Source{Repository: r.repository(s), TagPrefix: r.text(s, "tagPrefix", maxTagPrefix)}
	if source.TagPrefix != "" && !tagPrefix.MatchString(source.TagPrefix) {
		r.fault(s.line("tagPrefix"), join(s.path, "tagPrefix"), "%s cannot begin a tag: use letters, digits, _, . and -", quote(source.TagPrefix))
	}
	for i, item := range r.list(s, "signaturePullSecrets", MaxPullSecrets) {
		secret, ok := r.object(item, index(join(s.path, "signaturePullSecrets"), i), "name")
		if r.exhausted() {
			return nil
		}
		if ok {
			source.PullSecrets = append(source.PullSecrets, r.secretName(secret))
		}
	}
	return source
}

func (r *reader) secretName(o object) string {
	return r.kubernetesName(o, "name", r.needed(o, "name", maxNameLen, "name the secret"))
}

// repository reads source.oci in its canonical form: the registry's host in lower case, docker.io for each way to
// write it, library for Docker Hub's own images. As in policy-controller the host must be written out; the name of a
// registry alone, which policy-controller takes and then looks for on Docker Hub, is refused.
func (r *reader) repository(s object) string {
	written := r.written(s, "oci", maxNameLen*2)
	if written == "" {
		return ""
	}
	host, rest, path := strings.Cut(written, "/")
	refuse := func(why string) string {
		r.fault(s.line("oci"), join(s.path, "oci"), "%s %s: write a repository such as registry.example/team/signatures", quote(written), why)
		return ""
	}
	switch {
	case strings.Contains(written, "://"):
		return refuse("has a scheme")
	case !path || rest == "":
		return refuse("names no repository")
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		return refuse("names no registry")
	}
	named, err := reference.ParseNormalizedNamed(strings.ToLower(host) + "/" + rest)
	if err != nil {
		return refuse("is not a repository's name")
	}
	if !reference.IsNameOnly(named) {
		return refuse("has a tag or digest")
	}
	return named.Name()
}

func (r *reader) static(n *yaml.Node, path string) *Static {
	o, ok := r.object(n, path, "action", "message")
	if !ok {
		return nil
	}
	s := &Static{Message: r.text(o, "message", maxMessage)}
	before := len(r.faults)
	switch action := r.text(o, "action", maxMessage); action {
	case "pass":
		s.Pass = true
	case "fail":
	case "":
		if len(r.faults) == before && !r.exhausted() {
			r.fault(o.line("action"), join(path, "action"), "missing: use pass or fail")
		}
	default:
		r.fault(o.line("action"), join(path, "action"), "%s is not an action: use pass or fail", quote(action))
	}
	return s
}
