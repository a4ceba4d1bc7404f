package policy

import (
	"slices"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// resources are those that policy-controller admits.
var resources = []string{"pods", "replicasets", "deployments", "statefulsets", "daemonsets", "jobs", "cronjobs"}

var operators = map[string]selection.Operator{
	"In": selection.In, "NotIn": selection.NotIn, "Exists": selection.Exists, "DoesNotExist": selection.DoesNotExist,
}

// matches reads match. An empty list is none, and selects every pod.
func (r *reader) matches(spec object) []Match {
	var all []Match
	path := join(spec.path, "match")
	for i, item := range r.list(spec, "match", MaxMatches) {
		o, ok := r.object(item, index(path, i), "group", "version", "resource", "selector")
		if r.exhausted() {
			return nil
		}
		if !ok {
			continue
		}
		m := Match{
			Group:    r.kubernetesName(o, "group", r.text(o, "group", maxNameLen)),
			Version:  r.kubernetesName(o, "version", r.text(o, "version", maxNameLen)),
			Resource: r.text(o, "resource", maxNameLen),
		}
		if m.Resource != "" && !slices.Contains(resources, m.Resource) {
			r.fault(o.line("resource"), join(o.path, "resource"), "%s is not a resource that policies are about: use %s", quote(m.Resource), enumerate(resources, "or"))
		}
		if field, ok := o.fields["selector"]; ok {
			if m.Resource == "" {
				r.fault(field, join(o.path, "selector"), "needs a resource beside it: say resource: pods")
			}
			m.Labels = r.selector(field, join(o.path, "selector"))
		}
		all = append(all, m)
	}
	return all
}

// selector reads a Kubernetes label selector. An empty one selects everything.
func (r *reader) selector(n *yaml.Node, path string) labels.Selector {
	o, ok := r.object(n, path, "matchLabels", "matchExpressions")
	if !ok {
		return labels.Nothing()
	}
	requirements := r.matchLabels(o)
	path = join(path, "matchExpressions")
	for i, item := range r.list(o, "matchExpressions", maxLabels) {
		at := index(path, i)
		e, ok := r.object(item, at, "key", "operator", "values")
		if r.exhausted() {
			return labels.Nothing()
		}
		if !ok {
			continue
		}
		before := len(r.faults)
		key := r.needed(e, "key", maxNameLen*2, "name the label")
		written := r.needed(e, "operator", maxMessage, "use In, NotIn, Exists or DoesNotExist")
		values := r.texts(e, "values")
		operator, known := operators[written]
		if written != "" && !known {
			r.fault(e.line("operator"), join(at, "operator"), "%s is not an operator: use In, NotIn, Exists or DoesNotExist", quote(written))
		}
		if len(r.faults) > before || r.exhausted() {
			continue
		}
		requirements = r.require(requirements, e.node, at, key, operator, values)
	}
	if len(requirements) == 0 {
		return labels.Everything()
	}
	return labels.NewSelector().Add(requirements...)
}

func (r *reader) matchLabels(o object) (requirements labels.Requirements) {
	field, ok := o.fields["matchLabels"]
	if !ok {
		return nil
	}
	n, path := r.resolve(field), join(o.path, "matchLabels")
	if n.Kind != yaml.MappingNode || len(n.Content)/2 > maxLabels {
		if !r.exhausted() {
			r.fault(field, path, "must be a mapping of at most %d labels", maxLabels)
		}
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := r.resolve(n.Content[i]), r.resolve(n.Content[i+1])
		switch {
		case r.exhausted():
			return nil
		case key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge":
			// lint has said so
		case value.Kind != yaml.ScalarNode || value.ShortTag() != "!!str":
			r.fault(n.Content[i+1], join(path, key.Value), "must be a string, not %s", describe(value))
		default:
			requirements = r.require(requirements, n.Content[i], join(path, key.Value), key.Value, selection.Equals, []string{value.Value})
		}
	}
	return requirements
}

func (r *reader) require(all labels.Requirements, n *yaml.Node, path, key string, operator selection.Operator, values []string) labels.Requirements {
	requirement, err := labels.NewRequirement(key, operator, values)
	if err != nil {
		r.fault(n, path, "is no requirement that Kubernetes takes: %s", oneLine(err.Error()))
		return all
	}
	return append(all, *requirement)
}

// texts reads a list of strings.
func (r *reader) texts(o object, name string) []string {
	var all []string
	for i, item := range r.list(o, name, maxLabels) {
		n := r.resolve(item)
		if r.exhausted() {
			return nil
		}
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" || len(n.Value) > maxNameLen {
			r.fault(item, index(join(o.path, name), i), "must be a string, not %s", describe(n))
			continue
		}
		all = append(all, n.Value)
	}
	return all
}
