package cluster

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/cosentry/cosentry/verify/limits"
)

// Contents is what a set is made of.
type Contents struct {
	Documents           []File
	Secrets, ConfigMaps map[Object]map[string][]byte // their files by key
	// Namespaces is the namespaces file; nil: the set has none, and whoever reads it takes no namespace for one that is
	// not judged.
	Namespaces []byte
}

// File is one document of a set.
type File struct {
	Kind, Name string
	Data       []byte
	Signature  []byte // nil: it is not signed
}

// Object names a Secret or a ConfigMap.
type Object struct{ Namespace, Name string }

func (o Object) String() string { return o.Namespace + "/" + o.Name }

// dataKey is what the API server takes for a key of a Secret or ConfigMap. One that begins with two dots is none.
var dataKey = regexp.MustCompile(`^[-._a-zA-Z0-9]+$`)

func checkKey(key string) error {
	if len(key) > maxName || key == "." || strings.HasPrefix(key, "..") || !dataKey.MatchString(key) {
		return fmt.Errorf("%.64q: not a key that Kubernetes takes", key)
	}
	return nil
}

func checkObject(o Object) error {
	for _, name := range []string{o.Namespace, o.Name} {
		if len(name) > maxName || !subdomain.MatchString(name) {
			return fmt.Errorf("%.64q in %.64q: not a name that Kubernetes takes", o.Name, o.Namespace)
		}
	}
	return nil
}

// files are the paths in a set, with what stands there. Every name comes from the API server, and is looked at before it
// becomes part of a path.
func (c Contents) files() (map[string][]byte, error) {
	all := map[string][]byte{}
	add := func(name string, data []byte) error {
		if _, twice := all[name]; twice {
			return fmt.Errorf("%s: twice in one set", name)
		}
		all[name] = data
		return nil
	}
	for _, d := range c.Documents {
		name, err := PolicyFile(d.Kind, d.Name)
		if err != nil {
			return nil, err
		}
		if err := add(path.Join(Policies, name), d.Data); err != nil {
			return nil, err
		}
		if d.Signature != nil {
			if err := add(path.Join(Policies, name+SignatureSuffix), d.Signature); err != nil {
				return nil, err
			}
		}
	}
	for _, part := range []struct {
		folder, kind string
		objects      map[Object]map[string][]byte
	}{{Secrets, "secret", c.Secrets}, {ConfigMaps, "ConfigMap", c.ConfigMaps}} {
		for o, data := range part.objects {
			if err := checkObject(o); err != nil {
				return nil, fmt.Errorf("%s %w", part.kind, err)
			}
			for key, value := range data {
				if err := checkKey(key); err != nil {
					return nil, fmt.Errorf("%s %s: %w", part.kind, o, err)
				}
				if err := add(path.Join(part.folder, o.Namespace, o.Name, key), value); err != nil {
					return nil, err
				}
			}
		}
	}
	if c.Namespaces != nil {
		if err := add(Namespaces, c.Namespaces); err != nil {
			return nil, err
		}
	}
	return all, checkSize(all)
}

func checkSize(files map[string][]byte) error {
	if err := limits.SyncedFiles.Check(int64(len(files))); err != nil {
		return err
	}
	var size int64
	folders := map[string]bool{Policies: true}
	for name, data := range files {
		size += int64(len(data))
		for at := path.Dir(name); at != "."; at = path.Dir(at) {
			folders[at] = true
		}
	}
	if err := limits.SyncedEntries.Check(int64(len(files) + len(folders))); err != nil {
		return err
	}
	return limits.SyncedSet.Check(size)
}

// identify is a hash of files: a set that says the same has the same name.
func identify(files map[string][]byte) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%d %s %d ", len(name), name, len(files[name]))
		h.Write(files[name])
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// Equal reports whether both say the same.
func (c Contents) Equal(other Contents) bool {
	a, aErr := c.files()
	b, bErr := other.files()
	return aErr == nil && bErr == nil && maps.EqualFunc(a, b, bytes.Equal)
}

// contents is the other way round from files.
func contents(files map[string][]byte) (Contents, error) {
	c := Contents{Secrets: map[Object]map[string][]byte{}, ConfigMaps: map[Object]map[string][]byte{}}
	documents := map[string]*File{}
	for name, data := range files {
		parts := strings.Split(name, "/")
		switch {
		case name == Namespaces:
			c.Namespaces = data
		case len(parts) == 2 && parts[0] == Policies:
			file, signature := strings.CutSuffix(parts[1], SignatureSuffix)
			d := documents[file]
			if d == nil {
				d = &File{}
				documents[file] = d
			}
			if signature {
				d.Signature = data
				continue
			}
			kind, object, err := documentOf(file)
			if err != nil {
				return Contents{}, err
			}
			d.Kind, d.Name, d.Data = kind, object, data
		case len(parts) == 4 && (parts[0] == Secrets || parts[0] == ConfigMaps):
			objects := c.Secrets
			if parts[0] == ConfigMaps {
				objects = c.ConfigMaps
			}
			o := Object{parts[1], parts[2]}
			if objects[o] == nil {
				objects[o] = map[string][]byte{}
			}
			objects[o][parts[3]] = data
		default:
			return Contents{}, fmt.Errorf("%.128q is no file of a set", name)
		}
	}
	for _, file := range slices.Sorted(maps.Keys(documents)) {
		if documents[file].Kind == "" {
			return Contents{}, fmt.Errorf("%.128q is signed and not there", file)
		}
		c.Documents = append(c.Documents, *documents[file])
	}
	slices.SortFunc(c.Documents, func(a, b File) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
	_, err := c.files() // names
	return c, err
}

// documentOf is the other way round from PolicyFile.
func documentOf(file string) (kind, name string, err error) {
	for _, kind := range []string{KindPolicy, KindTrustRoot} {
		if rest, ok := strings.CutPrefix(file, strings.ToLower(kind)+"."); ok {
			if name, ok := strings.CutSuffix(rest, ".yaml"); ok {
				return kind, name, nil
			}
		}
	}
	return "", "", fmt.Errorf("%.128q is no name of a document", file)
}
