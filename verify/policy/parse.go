package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

const group = "policy.sigstore.dev/"

// dnsSubdomain is what the API server takes for metadata.name.
var dnsSubdomain = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// Parse reads the policies of one file, YAML or JSON, any number of documents.
// A file without documents holds nothing. An error is of type Errors and
// lists every fault of the file; nothing is returned then.
func Parse(file string, data []byte) (Documents, error) {
	policies, faults := parse(file, data)
	if len(faults) > 0 {
		return Documents{}, faults
	}
	return Documents{Policies: policies}, nil
}

func parse(file string, data []byte) ([]*Policy, Errors) {
	r := &reader{file: file}
	if len(data) > plainSize {
		r.fault(nil, "", "the file is larger than %d bytes: split it", MaxFileSize)
		return nil, r.faults
	}
	var policies []*Policy
	for dec := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			r.syntax(err)
			break
		}
		for _, n := range doc.Content {
			if isNull(n) {
				continue
			}
			r.lint(n, "", 0)
			policies = append(policies, r.document(n, "")...)
		}
		if len(policies) > MaxPolicies {
			r.fault(nil, "", "the file holds more than %d policies", MaxPolicies)
			break
		}
	}
	if len(r.faults) > 0 {
		return nil, r.faults
	}
	return policies, nil
}

// document reads one document, or one item of a list of them.
func (r *reader) document(n *yaml.Node, path string) []*Policy {
	n = r.resolve(n)
	if r.exhausted() {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		r.fault(n, path, "must be a ClusterImagePolicy (a mapping), not %s", describe(n))
		return nil
	}
	apiVersion, kind := r.peek(n, "apiVersion"), r.peek(n, "kind")
	ours := apiVersion == group+"v1alpha1" || apiVersion == group+"v1beta1"
	switch {
	case ours && kind == "ClusterImagePolicy":
		if p := r.policy(n, path); p != nil {
			return []*Policy{p}
		}
	case path == "" && (apiVersion == "v1" && kind == "List" || ours && kind == "ClusterImagePolicyList"):
		return r.items(n)
	case kind == "TrustRoot" && strings.HasPrefix(apiVersion, group):
		r.fault(n, path, "kind TrustRoot is not judged by this build yet: remove the document, or use a build that judges it")
	default:
		r.fault(n, path, "apiVersion %s, kind %s: only ClusterImagePolicy of %sv1alpha1 or v1beta1 is read", quote(apiVersion), quote(kind), group)
	}
	return nil
}

// peek returns a top-level string before it is known which fields to expect.
func (r *reader) peek(n *yaml.Node, name string) string {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if key := r.resolve(n.Content[i]); key.Kind == yaml.ScalarNode && key.Value == name {
			if v := r.resolve(n.Content[i+1]); v.Kind == yaml.ScalarNode && v.ShortTag() == "!!str" {
				return v.Value
			}
			return ""
		}
	}
	return ""
}

// items reads a list as kubectl get -o yaml prints it.
func (r *reader) items(n *yaml.Node) []*Policy {
	o, ok := r.object(n, "", []string{"apiVersion", "kind", "metadata", "items"}, nil)
	if !ok {
		return nil
	}
	var policies []*Policy
	for i, item := range r.list(o, "items", MaxPolicies) {
		if r.exhausted() {
			break
		}
		policies = append(policies, r.document(item, index("items", i))...)
	}
	return policies
}

func (r *reader) policy(n *yaml.Node, path string) *Policy {
	o, ok := r.object(n, path, []string{"apiVersion", "kind", "metadata", "spec", "status"}, nil)
	if !ok {
		return nil
	}
	p := &Policy{Source: fmt.Sprintf("%s:%d", r.file, n.Line), Name: r.metadata(o)}
	field, ok := o.fields["spec"]
	if !ok {
		r.fault(n, join(path, "spec"), "missing: say which images and which authorities")
		return nil
	}
	spec, ok := r.object(field, join(path, "spec"),
		[]string{"images", "authorities", "mode"}, []string{"policy", "match"})
	if !ok {
		return nil
	}
	switch mode := r.text(spec, "mode", maxMessage); mode {
	case "", "enforce":
		p.Mode = Enforce
	case "warn":
		p.Mode = Warn
	default:
		r.fault(spec.line("mode"), join(spec.path, "mode"), "%s is not a mode: use enforce or warn", quote(mode))
	}
	p.Globs = r.images(spec)
	p.Authorities = r.authorities(spec)
	return p
}

// metadata returns the name. The rest is Kubernetes' bookkeeping and says
// nothing about images, so it is let be.
func (r *reader) metadata(o object) string {
	path := join(o.path, "metadata")
	field, ok := o.fields["metadata"]
	if !ok {
		r.fault(o.node, join(path, "name"), "missing: give the policy a name")
		return ""
	}
	n := r.resolve(field)
	if n.Kind != yaml.MappingNode {
		if !r.exhausted() {
			r.fault(field, path, "must be a mapping, not %s", describe(n))
		}
		return ""
	}
	meta := object{node: n, path: path, fields: map[string]*yaml.Node{}}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if key := r.resolve(n.Content[i]); key.Kind == yaml.ScalarNode && key.Value == "name" && !isNull(r.resolve(n.Content[i+1])) {
			meta.fields["name"] = n.Content[i+1]
		}
	}
	before := len(r.faults)
	name := r.text(meta, "name", maxNameLen)
	if len(r.faults) > before || r.exhausted() {
		return ""
	}
	switch {
	case name == "":
		r.fault(meta.line("name"), join(path, "name"), "missing: give the policy a name")
	case !dnsSubdomain.MatchString(name):
		r.fault(meta.line("name"), join(path, "name"), "%s is not a name Kubernetes takes: use lower-case letters, digits, - and .", quote(name))
	}
	return name
}

func (r *reader) images(spec object) []Glob {
	path := join(spec.path, "images")
	before := len(r.faults)
	list := r.list(spec, "images", MaxGlobs)
	if len(list) == 0 && len(r.faults) == before && !r.exhausted() {
		r.fault(spec.line("images"), path, "missing: say which images the policy is about, - glob: \"**\" for all")
	}
	var globs []Glob
	for i, item := range list {
		at := index(path, i)
		o, ok := r.object(item, at, []string{"glob"}, nil)
		if r.exhausted() {
			return nil
		}
		if !ok {
			continue
		}
		before := len(r.faults)
		written := r.text(o, "glob", maxGlobLen)
		if len(r.faults) > before {
			continue
		}
		if written == "" {
			r.fault(o.line("glob"), join(at, "glob"), "missing: give a glob such as index.docker.io/library/*")
			continue
		}
		g, err := CompileGlob(written)
		if err != nil {
			r.fault(o.line("glob"), join(at, "glob"), "%v", err)
			continue
		}
		globs = append(globs, g)
	}
	return globs
}

func (r *reader) authorities(spec object) []Authority {
	path := join(spec.path, "authorities")
	before := len(r.faults)
	list := r.list(spec, "authorities", MaxAuthorities)
	// policy-controller can be told to let a policy without authorities through.
	// Here it would accept nothing and say nothing about why.
	if len(list) == 0 && len(r.faults) == before && !r.exhausted() {
		r.fault(spec.line("authorities"), path, "missing: say whose signature counts, by key or static")
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
	o, ok := r.object(n, path,
		[]string{"name", "key", "static", "ctlog", "signatureFormat"},
		[]string{"keyless", "source", "attestations", "rfc3161timestamp"})
	if !ok {
		return a
	}
	a.Name = r.text(o, "name", maxNameLen)
	if strings.ContainsFunc(a.Name, func(c rune) bool { return !unicode.IsPrint(c) }) {
		r.fault(o.line("name"), join(path, "name"), "%s holds characters that cannot be printed", quote(a.Name))
	}
	a.Format = r.format(o)
	r.ctlog(o)
	key, hasKey := o.fields["key"]
	static, hasStatic := o.fields["static"]
	switch {
	case hasKey && hasStatic:
		r.fault(o.node, path, "has both key and static: keep one")
	case hasKey:
		a.Key = r.key(key, join(path, "key"))
	case hasStatic:
		a.Static = r.static(static, join(path, "static"))
		for _, other := range []string{"ctlog", "signatureFormat"} {
			if field, ok := o.fields[other]; ok {
				r.fault(field, join(path, other), "says nothing beside static, which looks at no signature: remove it")
			}
		}
	case !has(r.resolve(n), "keyless"):
		r.fault(o.node, path, "has neither key nor static: say whose signature counts")
	}
	return a
}

// has reports whether a mapping holds a field at all.
func has(n *yaml.Node, name string) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name && !isNull(n.Content[i+1]) {
			return true
		}
	}
	return false
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

// ctlog accepts ctlog: {}, by which policy-controller asks for no transparency
// log. A key authority needs none anyway, so it changes nothing.
func (r *reader) ctlog(o object) {
	if field, ok := o.fields["ctlog"]; ok {
		r.object(field, join(o.path, "ctlog"), nil, []string{"url", "trustRootRef"})
	}
}

func (r *reader) key(n *yaml.Node, path string) *Key {
	before := len(r.faults)
	o, ok := r.object(n, path, []string{"data", "hashAlgorithm"}, []string{"kms", "secretRef"})
	if !ok {
		return nil
	}
	data := r.text(o, "data", maxKeyData)
	hash, err := parseHash(r.text(o, "hashAlgorithm", maxMessage))
	if err != nil {
		r.fault(o.line("hashAlgorithm"), join(path, "hashAlgorithm"), "%v", err)
	}
	if data == "" {
		if len(r.faults) == before && !r.exhausted() {
			r.fault(o.line("data"), join(path, "data"), "missing: put the PEM public key here")
		}
		return nil
	}
	if err != nil {
		hash, _ = parseHash("") // the key is looked at all the same, for its own faults
	}
	_, written := o.fields["hashAlgorithm"]
	keys, err := ParsePublicKeys([]byte(data), hash, written)
	if err != nil {
		r.fault(o.line("data"), join(path, "data"), "%v", err)
	}
	return &Key{PublicKeys: keys}
}

func (r *reader) static(n *yaml.Node, path string) *Static {
	o, ok := r.object(n, path, []string{"action", "message"}, nil)
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
