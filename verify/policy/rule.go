package policy

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/cosentry/cosentry/verify/rules"
)

// predicateTypes are the short names of cosign verify-attestation --type. policy-controller knows those without
// slsaprovenance02, slsaprovenance1 and openvex, and URIs.
var predicateTypes = []string{
	"custom", "slsaprovenance", "slsaprovenance02", "slsaprovenance1", "spdx", "spdxjson", "cyclonedx", "link", "vuln", "openvex",
}

var (
	sha256Hex = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
	// configMapKey is what the API server takes for a key of a ConfigMap; not . and .. either.
	configMapKey = regexp.MustCompile(`^[-._a-zA-Z0-9]{1,253}$`)
)

// ruleChecks remembers which rules compile, because the same one often stands in many policies.
type ruleChecks struct{ done map[[2]string]error }

func (c *ruleChecks) check(kind, text string) error {
	if err, ok := c.done[[2]string{kind, text}]; ok {
		return err
	}
	if c.done == nil {
		c.done = map[[2]string]error{}
	}
	err := rules.Check(kind, text)
	c.done[[2]string{kind, text}] = err
	return err
}

// policyRule reads spec.policy: the rule, and what it is given beside the authorities' results.
func (r *reader) policyRule(spec object, p *Policy) {
	field, ok := spec.fields["policy"]
	if !ok {
		return
	}
	o, ok := r.object(field, join(spec.path, "policy"), "type", "data", "remote", "configMapRef",
		"fetchConfigFile", "includeSpec", "includeObjectMeta", "includeTypeMeta")
	if !ok {
		return
	}
	p.Rule = r.rule(o)
	p.FetchConfigFile = r.flag(o, "fetchConfigFile")
	p.IncludeObjectMeta = r.flag(o, "includeObjectMeta")
	p.IncludeTypeMeta = r.flag(o, "includeTypeMeta")
	if r.flag(o, "includeSpec") {
		r.fault(o.line("includeSpec"), join(o.path, "includeSpec"), "a node does not see the spec of what it runs, so a rule about it cannot be judged here: remove it, or leave this policy to the admission controller")
	}
}

// attestationRule reads the policy of an attestation, which is given the attestation and nothing else.
func (r *reader) attestationRule(a object) *Rule {
	field, ok := a.fields["policy"]
	if !ok {
		return nil
	}
	only := []string{"fetchConfigFile", "includeSpec", "includeObjectMeta", "includeTypeMeta"}
	o, ok := r.object(field, join(a.path, "policy"), append(only, "type", "data", "remote", "configMapRef")...)
	if !ok {
		return nil
	}
	for _, name := range only {
		if field, ok := o.fields[name]; ok {
			r.fault(field, join(o.path, name), "belongs to spec.policy alone, which is evaluated over all authorities: remove it here")
		}
	}
	return r.rule(o)
}

// rule reads each form that is there, if there are several as well: each may have faults of its own.
func (r *reader) rule(o object) *Rule {
	rule := &Rule{Type: r.needed(o, "type", maxMessage, "use cue or rego")}
	if rule.Type != "" && rule.Type != rules.CUE && rule.Type != rules.Rego {
		r.fault(o.line("type"), join(o.path, "type"), "%s is not a type of policy: use cue or rego", quote(rule.Type))
		rule.Type = ""
	}
	r.oneOf(o, "data", "remote", "configMapRef")
	if rule.Text = r.text(o, "data", rules.MaxText); rule.Text != "" && rule.Type != "" {
		if err := r.rules.check(rule.Type, rule.Text); err != nil {
			r.fault(o.line("data"), join(o.path, "data"), "%s", oneLine(err.Error()))
		}
	}
	if field, ok := o.fields["remote"]; ok {
		rule.Remote = r.remote(field, join(o.path, "remote"))
	}
	if field, ok := o.fields["configMapRef"]; ok {
		rule.ConfigMap = r.configMap(field, join(o.path, "configMapRef"))
	}
	return rule
}

func (r *reader) remote(n *yaml.Node, path string) *Remote {
	o, ok := r.object(n, path, "url", "sha256sum")
	if !ok {
		return nil
	}
	if _, ok := o.fields["url"]; !ok {
		r.fault(o.node, join(path, "url"), "missing: say where the rule is, by https")
	}
	remote := &Remote{URL: r.address(o, "url", "https")}
	sum := r.needed(o, "sha256sum", maxMessage, "say which bytes are meant (sha256sum FILE)")
	if sum != "" && !sha256Hex.MatchString(sum) {
		r.fault(o.line("sha256sum"), join(path, "sha256sum"), "%s is not a SHA-256 of 64 hex digits", quote(sum))
	}
	remote.SHA256 = strings.ToLower(sum)
	return remote
}

// configMap reads a configMapRef, whose key policy-controller demands. Its namespace is like that of a secret.
func (r *reader) configMap(n *yaml.Node, path string) *Reference {
	o, ok := r.object(n, path, "name", "namespace", "key")
	if !ok {
		return nil
	}
	ref := &Reference{
		Name:      r.kubernetesName(o, "name", r.needed(o, "name", maxNameLen, "name the ConfigMap")),
		Namespace: r.namespace(o),
		Key:       r.needed(o, "key", maxNameLen, "say which key of the ConfigMap holds the rule"),
	}
	if ref.Key != "" && !validKey(ref.Key) {
		r.fault(o.line("key"), join(path, "key"), "%s is not a key that a ConfigMap can have", quote(ref.Key))
	}
	return ref
}

func validKey(key string) bool {
	return configMapKey.MatchString(key) && !strings.HasPrefix(key, "..") && key != "."
}

func (r *reader) attestations(authority object) []Attestation {
	var all []Attestation
	path := join(authority.path, "attestations")
	for i, item := range r.list(authority, "attestations", MaxAttestations) {
		o, ok := r.object(item, index(path, i), "name", "predicateType", "policy")
		if r.exhausted() {
			return nil
		}
		if !ok {
			continue
		}
		a := Attestation{
			Name:          r.printable(o, "name", r.needed(o, "name", maxNameLen, "give the attestation a name")),
			PredicateType: r.needed(o, "predicateType", maxIdentity, "say which, such as slsaprovenance1 or a URI"),
			Rule:          r.attestationRule(o),
		}
		if a.PredicateType != "" && !validPredicate(a.PredicateType) {
			r.fault(o.line("predicateType"), join(o.path, "predicateType"), "%s is not a predicate type: use %s, or a URI", quote(a.PredicateType), enumerate(predicateTypes, "or"))
		}
		all = append(all, a)
	}
	return all
}

func validPredicate(s string) bool {
	if slices.Contains(predicateTypes, s) {
		return true
	}
	u, err := url.ParseRequestURI(s)
	return err == nil && u.Scheme != ""
}

// oneLine shows words of several lines, some of them foreign, as one: nothing in them can forge a line of a log.
func oneLine(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("; ")
		}
		for _, c := range line {
			if c < unicode.MaxASCII && unicode.IsPrint(c) {
				b.WriteRune(c)
			} else {
				b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(c), "'"))
			}
		}
		if b.Len() > maxRuleWords {
			return b.String()[:maxRuleWords] + "…"
		}
	}
	return b.String()
}
