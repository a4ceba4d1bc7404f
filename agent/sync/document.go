package sync

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cosentry/cosentry/agent/cluster"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rescue"
)

// kindOf are the kinds of documents by the names of their resources.
func kindOf(resource string) string {
	if resource == policies {
		return cluster.KindPolicy
	}
	return cluster.KindTrustRoot
}

// document makes an object's file: the bytes that were signed where it carries them, and else what its owner wrote. The
// object is written as JSON, which YAML reads too, in one way for one content: there is no second way to quote a string.
//
// An object whose annotation cannot be read is not one without: its owner meant another document. lenient says that
// whoever reads it leaves out what is not signed.
func document(kind string, o metav1.Object, lenient bool) (cluster.File, error) {
	d := cluster.File{Kind: kind, Name: o.GetName()}
	written, isSigned := o.GetAnnotations()[cluster.DocumentAnnotation]
	signature, hasSignature := o.GetAnnotations()[cluster.SignatureAnnotation]
	if isSigned && hasSignature {
		data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(written))
		if err == nil {
			d.Data, d.Signature = data, []byte(signature)
			return d, nil
		}
		if !lenient {
			return d, fmt.Errorf("annotation %s: not base64: make it with cosentry policy signed", cluster.DocumentAnnotation)
		}
	}
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return d, fmt.Errorf("a %T is no whole object", o)
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	// The rest is the cluster's bookkeeping, which changes by itself.
	err := e.Encode(struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   map[string]any `json:"metadata"`
		Spec       any            `json:"spec,omitempty"`
	}{u.GetAPIVersion(), kind, map[string]any{"name": o.GetName()}, u.Object["spec"]})
	d.Data = buf.Bytes()
	return d, err
}

// parsedKey is what makes a document the same as one that was parsed before. Compiling a policy's rules is the dearest
// part of a round, and most rounds are about namespaces.
type parsedKey struct {
	kind, name string
	sum        [sha256.Size]byte
}

type parsed struct {
	found policy.Documents
	err   error
}

// parse reads documents to see what they refer to. That each is the one that its file says is for the loader to see.
func (s *Sync) parse(documents []cluster.File) ([]*policy.Policy, error) {
	kept := map[parsedKey]parsed{}
	var all []*policy.Policy
	var errs []error
	for _, d := range documents {
		key := parsedKey{d.Kind, d.Name, sha256.Sum256(d.Data)}
		p, done := s.parsed[key]
		if !done {
			p = parseOne(d)
		}
		kept[key] = p
		if p.err != nil {
			errs = append(errs, p.err)
		}
		all = append(all, p.found.Policies...)
	}
	s.parsed = kept
	return all, errors.Join(errs...)
}

func parseOne(d cluster.File) (p parsed) {
	what := d.Kind + " " + d.Name
	p.err = rescue.Do(nil, "reading "+what, func() (err error) {
		p.found, err = policy.Parse(what, d.Data)
		return err
	})
	return p
}

// include is policy-controller's label, the only one that goes by.
const include = "policy.sigstore.dev/include"

// namespaceList makes the namespaces file: names, and the label.
func namespaceList(objects map[cluster.Object]metav1.Object) ([]byte, error) {
	type metadata struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels,omitempty"`
	}
	type item struct {
		Metadata metadata `json:"metadata"`
	}
	list := struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Items      []item `json:"items"`
	}{"v1", "NamespaceList", []item{}}
	byName := map[string]metav1.Object{}
	for id, o := range objects {
		byName[id.Name] = o
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		m := metadata{Name: name}
		if value, ok := byName[name].GetLabels()[include]; ok {
			m.Labels = map[string]string{include: value}
		}
		list.Items = append(list.Items, item{m})
	}
	data, err := json.MarshalIndent(list, "", " ")
	return append(data, '\n'), err
}
