package namespaces

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// maxSize bounds the file in bytes. kubectl prints 500 to 800 bytes for a namespace, and ten thousand are more than a
// cluster is made for.
const maxSize = 8 << 20

// include and included are policy-controller's label.
const include, included = "policy.sigstore.dev/include", "true"

// object is as much of a Kubernetes object as is read. The rest of it is passed over.
type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name   string            `yaml:"name"`
		Labels map[string]string `yaml:"labels"`
	} `yaml:"metadata"`
	Items []object `yaml:"items"`
}

// Parse reads namespaces as `kubectl get namespaces -o yaml` or `-o json` prints them, a List; as the API gives them, a
// NamespaceList; or as documents of single Namespaces. It returns their names, and whether each is labelled.
//
// A file that was cut off must not be taken for one that tells of fewer labels. kubectl prints a list's kind after its
// items, and a namespace's name after its labels; whatever has no kind, and whatever has no name, is an error.
//
// YAML is for root's own files: what others can write is JSON, see decodeJSON.
func Parse(data []byte, roots bool) (map[string]bool, error) {
	if len(data) > maxSize {
		return nil, fmt.Errorf("larger than %d bytes", maxSize)
	}
	objects, err := decode(data, roots)
	if err != nil {
		return nil, err
	}
	listed := map[string]bool{}
	for _, o := range objects {
		if o.APIVersion != "v1" {
			return nil, fmt.Errorf("apiVersion %.64q, kind %.64q: only namespaces of v1 are read", o.APIVersion, o.Kind)
		}
		switch o.Kind {
		case "Namespace":
			err = add(listed, *o)
		case "List", "NamespaceList":
			for i, item := range o.Items {
				// In a NamespaceList the kind may go without saying.
				if item.Kind != "Namespace" && (item.Kind != "" || o.Kind == "List") {
					err = fmt.Errorf("item %d is of kind %.64q, not Namespace", i, item.Kind)
				} else if ferr := add(listed, item); ferr != nil {
					err = fmt.Errorf("item %d: %w", i, ferr)
				}
				if err != nil {
					break
				}
			}
		default:
			err = fmt.Errorf("kind %.64q: want what kubectl get namespaces -o yaml prints", o.Kind)
		}
		if err != nil {
			return nil, err
		}
	}
	return listed, nil
}

// add takes a namespace up. One that is told of twice is labelled if it is so once.
func add(listed map[string]bool, o object) error {
	name := o.Metadata.Name
	if name == "" {
		return errors.New("a namespace without a name")
	}
	listed[name] = listed[name] || o.Metadata.Labels[include] == included
	return nil
}

// decode reads all documents of data, at least one.
func decode(data []byte, roots bool) (objects []*object, err error) {
	switch {
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")):
		objects, err = decodeJSON(data)
	case roots:
		objects, err = decodeYAML(data)
	default:
		return nil, errors.New("others than root can write it, so it has to be JSON, as sync writes it and kubectl get namespaces -o json prints it")
	}
	if err != nil {
		return nil, fmt.Errorf("neither YAML nor JSON of namespaces: %w", err)
	}
	if len(objects) == 0 {
		return nil, errors.New("no namespaces in it")
	}
	return objects, nil
}

func decodeYAML(data []byte) (objects []*object, err error) {
	documents := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var o *object
		if err := documents.Decode(&o); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		if o != nil { // a document may be empty
			objects = append(objects, o)
		}
	}
}
