package policy

import (
	"encoding/base64"
	"net"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// text reads a string field; "" where it is not set.
func (r *reader) text(o object, name string, limit int) string {
	field, ok := o.fields[name]
	if !ok {
		return ""
	}
	n, path := r.resolve(field), join(o.path, name)
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		if !r.exhausted() {
			r.fault(field, path, "must be a string, not %s", describe(n))
		}
		return ""
	}
	if len(n.Value) > limit {
		r.fault(field, path, "is %d bytes long: at most %d are read", len(n.Value), limit)
		return ""
	}
	return n.Value
}

// list reads a field that is a list; nil where it is not set.
func (r *reader) list(o object, name string, limit int) []*yaml.Node {
	field, ok := o.fields[name]
	if !ok {
		return nil
	}
	n, path := r.resolve(field), join(o.path, name)
	if n.Kind != yaml.SequenceNode {
		if !r.exhausted() {
			r.fault(field, path, "must be a list, not %s", describe(n))
		}
		return nil
	}
	if len(n.Content) > limit {
		r.fault(field, path, "has %d entries: at most %d are read", len(n.Content), limit)
		return nil
	}
	return n.Content
}

// oneOf faults fields of which not exactly one is set. An empty string is unset, as in policy-controller.
func (r *reader) oneOf(o object, names ...string) {
	var set []string
	for _, name := range names {
		if field, ok := o.fields[name]; ok && !isEmpty(r.resolve(field)) {
			set = append(set, name)
		}
	}
	switch {
	case r.exhausted():
	case len(set) == 0:
		r.fault(o.node, o.path, "missing: one of %s is needed", enumerate(names, "or"))
	case len(set) > 1:
		r.fault(o.node, o.path, "has %s: keep one of them", enumerate(set, "and"))
	}
}

func isEmpty(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Value == "" && n.ShortTag() == "!!str"
}

func enumerate(names []string, last string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	n := len(names) - 1
	return strings.Join(names[:n], ", ") + " " + last + " " + names[n]
}

// needed reads a string field that must hold something.
func (r *reader) needed(o object, name string, limit int, advice string) string {
	before := len(r.faults)
	s := r.text(o, name, limit)
	if s == "" && len(r.faults) == before && !r.exhausted() {
		r.fault(o.line(name), join(o.path, name), "missing: %s", advice)
	}
	return s
}

// written reads a string field that may be left out, but not be empty: by an empty value, which is what a template
// leaves behind that was given nothing, another authority than the one meant would be trusted.
func (r *reader) written(o object, name string, limit int) string {
	field, ok := o.fields[name]
	if ok && isEmpty(r.resolve(field)) && !r.exhausted() {
		r.fault(field, join(o.path, name), "is empty: say which, or remove it")
		return ""
	}
	return r.text(o, name, limit)
}

// flag reads true or false; false where it is not set.
func (r *reader) flag(o object, name string) bool {
	field, ok := o.fields[name]
	if !ok {
		return false
	}
	n := r.resolve(field)
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
		if !r.exhausted() {
			r.fault(field, join(o.path, name), "must be true or false, not %s", describe(n))
		}
		return false
	}
	return strings.EqualFold(n.Value, "true")
}

// kubernetesName checks a name that is part of a path later: it must not lead anywhere else.
func (r *reader) kubernetesName(o object, name, value string) string {
	if value != "" && !dnsSubdomain.MatchString(value) {
		r.fault(o.line(name), join(o.path, name), "%s is not a name Kubernetes takes: use lower-case letters, digits, - and .", quote(value))
		return ""
	}
	return value
}

// trustRoot reads a trustRootRef. Whether there is such a TrustRoot is not asked here: it may come later, and the
// authority fails until it does.
func (r *reader) trustRoot(o object) string {
	return r.kubernetesName(o, "trustRootRef", r.written(o, "trustRootRef", maxNameLen))
}

// address reads a URL. It must hold no password, which would be shown in messages.
func (r *reader) address(o object, name string, schemes ...string) string {
	written := r.written(o, name, maxURL)
	if written == "" {
		return ""
	}
	u, err := url.Parse(written)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "" || u.Fragment != "":
		r.fault(o.line(name), join(o.path, name), "%s is not a URL such as https://host/path", quote(written))
	case !slices.Contains(schemes, u.Scheme) && !(u.Scheme == "http" && slices.Contains(schemes, "loopback") && isLoopback(u.Hostname())):
		r.fault(o.line(name), join(o.path, name), "%s is not %s", quote(written), schemeWords(schemes))
	case u.User != nil:
		r.fault(o.line(name), join(o.path, name), "holds a user or password, which would be seen by whoever sees the policy: remove it")
	default:
		return written
	}
	return ""
}

func schemeWords(schemes []string) string {
	if slices.Contains(schemes, "loopback") {
		return "an https URL (http is taken for a loopback address alone)"
	}
	return "a URL of " + enumerate(schemes, "or")
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// bytes reads a field of base64, as Kubernetes writes bytes.
func (r *reader) bytes(o object, name string, limit int) []byte {
	before := len(r.faults)
	s := r.text(o, name, base64.StdEncoding.EncodedLen(limit)*5/4)
	if s == "" {
		if len(r.faults) == before && !r.exhausted() {
			r.fault(o.line(name), join(o.path, name), "missing: put base64 here")
		}
		return nil
	}
	data, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(strings.ReplaceAll(s, " ", ""), "\t", ""))
	switch {
	case err != nil:
		r.fault(o.line(name), join(o.path, name), "is not base64: %s", quote(err.Error()))
	case len(data) > limit:
		r.fault(o.line(name), join(o.path, name), "is %d bytes long: at most %d are read", len(data), limit)
	default:
		return data
	}
	return nil
}
