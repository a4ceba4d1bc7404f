package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"

	"go.yaml.in/yaml/v3"
)

const group = "policy.sigstore.dev/"

// dnsSubdomain is what the API server takes for metadata.name.
var dnsSubdomain = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// Parse reads the policies and TrustRoots of one file, YAML or JSON, any number of documents. A file without documents
// holds nothing. An error is of type Errors and lists every fault of the file; nothing is returned then.
func Parse(file string, data []byte) (Documents, error) {
	found, faults := parse(file, data, &ruleChecks{})
	if len(faults) > 0 {
		return Documents{}, faults
	}
	return found, nil
}

func parse(file string, data []byte, rules *ruleChecks) (Documents, Errors) {
	r := &reader{file: file, budget: maxExpansion, rules: rules}
	if len(data) > plainSize {
		r.large(data)
	}
	if len(r.faults) > 0 {
		return Documents{}, r.faults
	}
	var found Documents
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
			r.document(n, "", &found)
		}
		if len(found.Policies) > MaxPolicies || len(found.TrustRoots) > MaxTrustRoots {
			r.fault(nil, "", "the file holds more than %d policies or %d TrustRoots", MaxPolicies, MaxTrustRoots)
			break
		}
	}
	if len(r.faults) > 0 {
		r.faults.inOrder()
		return Documents{}, r.faults
	}
	return found, nil
}

// large lets a file past plainSize only if it is long text that makes it large, as that of a TUF repository does: each
// value of a YAML file begins with one of a few characters, and costs a hundred times its bytes in memory.
func (r *reader) large(data []byte) {
	if len(data) > MaxFileSize {
		r.fault(nil, "", "the file is larger than %d bytes: split it", MaxFileSize)
		return
	}
	structure := 0
	for _, c := range data {
		switch c {
		case '[', ']', '{', '}', ',', ':', '-', '?', '&', '*', '!':
			structure++
		}
	}
	if structure > maxStructure {
		r.fault(nil, "", "the file is larger than %d bytes: split it (only the mirrorFS of a TrustRoot may be so large)", plainSize)
	}
	r.budget += 3 * len(data)
}

// document reads one document, or one item of a list of them.
func (r *reader) document(n *yaml.Node, path string, found *Documents) {
	n, r.lines = r.resolve(n), nil
	if r.exhausted() {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.fault(n, path, "must be a ClusterImagePolicy or a TrustRoot (a mapping), not %s", describe(n))
		return
	}
	apiVersion, kind := r.peek(n, "apiVersion"), r.peek(n, "kind")
	policies := apiVersion == group+"v1alpha1" || apiVersion == group+"v1beta1"
	roots := apiVersion == group+"v1alpha1"
	switch {
	case policies && kind == "ClusterImagePolicy":
		if p := r.policy(n, path); p != nil {
			found.Policies = append(found.Policies, p)
		}
	case roots && kind == "TrustRoot":
		if t := r.trustRootDocument(n, path); t != nil {
			found.TrustRoots = append(found.TrustRoots, t)
		}
	case path == "" && (apiVersion == "v1" && kind == "List" || policies && kind == "ClusterImagePolicyList" || roots && kind == "TrustRootList"):
		r.items(n, found)
	case kind == "TrustRoot" || kind == "TrustRootList":
		r.fault(n, path, "apiVersion %s, kind %s: only TrustRoot of %sv1alpha1 is read", quote(apiVersion), quote(kind), group)
	default:
		r.fault(n, path, "apiVersion %s, kind %s: only ClusterImagePolicy of %sv1alpha1 or v1beta1 and TrustRoot of v1alpha1 are read", quote(apiVersion), quote(kind), group)
	}
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
func (r *reader) items(n *yaml.Node, found *Documents) {
	o, ok := r.object(n, "", "apiVersion", "kind", "metadata", "items")
	if !ok {
		return
	}
	for i, item := range r.list(o, "items", MaxPolicies) {
		if r.exhausted() {
			break
		}
		r.document(item, index("items", i), found)
	}
}

func (r *reader) policy(n *yaml.Node, path string) *Policy {
	r.remember(n, path)
	o, ok := r.object(n, path, "apiVersion", "kind", "metadata", "spec", "status")
	if !ok {
		return nil
	}
	p := &Policy{Source: fmt.Sprintf("%s:%d", r.file, n.Line), Name: r.metadata(o), lines: r.lines}
	field, ok := o.fields["spec"]
	if !ok {
		r.fault(n, join(path, "spec"), "missing: say which images and which authorities")
		return nil
	}
	spec, ok := r.object(field, join(path, "spec"), "images", "match", "mode", "authorities", "policy")
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
	p.Match = r.matches(spec)
	p.Authorities = r.authorities(spec)
	r.policyRule(spec, p)
	return p
}

// metadata returns the name. The rest is Kubernetes' bookkeeping and says
// nothing about images, so it is let be.
func (r *reader) metadata(o object) string {
	path := join(o.path, "metadata")
	field, ok := o.fields["metadata"]
	if !ok {
		r.fault(o.node, join(path, "name"), "missing: give it a name")
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
		r.fault(meta.line("name"), join(path, "name"), "missing: give it a name")
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
		o, ok := r.object(item, at, "glob")
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
