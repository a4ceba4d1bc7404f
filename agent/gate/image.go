package gate

import (
	"strconv"
	"strings"
	"unicode"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/agent/node"
)

// maxReference is longer than any reference that kubelet lets pass.
const maxReference = 1024

// Reference is an image reference, understood as the runtime understands it.
type Reference struct {
	Repository string        // registry host and path: "docker.io/library/busybox"
	Tag        string        // empty if there is a digest
	Digest     digest.Digest // sha256, or empty if there is a tag

	named reference.Named // without tag and digest
}

// ParseReference understands s as containerd does: Docker's normalisation, "latest" where neither tag
// nor digest is given, a tag beside a digest left aside. What is not a registry reference is refused:
// some runtimes take a path for a checkpoint archive to restore a process from.
func ParseReference(s string) (Reference, error) {
	switch {
	case s == "":
		return Reference{}, refuse("no image is named")
	case len(s) > maxReference:
		return Reference{}, refuse("its name is longer than any image name")
	case isPath(s):
		return Reference{}, refuse("it is a path, not an image: a file on the node cannot be judged by its signature")
	case node.IsID(s):
		return Reference{}, refuse("it is an image ID, not an image name")
	}
	parsed, err := reference.ParseDockerRef(s)
	if err != nil {
		return Reference{}, refuse("its name is not an image reference: " + err.Error())
	}
	named := reference.TrimNamed(parsed)
	ref := Reference{Repository: named.Name(), named: named}
	switch p := parsed.(type) {
	case reference.Digested:
		ref.Digest = p.Digest()
		if ref.Digest.Algorithm() != digest.SHA256 {
			return Reference{}, refuse("its digest is " + ref.Digest.Algorithm().String() + "; cosign signs sha256 digests")
		}
	case reference.Tagged:
		ref.Tag = p.Tag()
	}
	return ref, ref.agrees(s)
}

// agrees refuses a reference that policy and runtime would read differently: policies match
// the name as go-containerregistry reads it, the runtime acts on Docker's reading.
func (r Reference) agrees(s string) error {
	other, err := name.ParseReference(s, name.WeakValidation)
	if err != nil {
		return refuse("its name is not an image reference: " + err.Error())
	}
	registry := other.Context().RegistryStr()
	if registry == name.DefaultRegistry {
		registry = "docker.io"
	}
	mine := reference.Domain(r.named)
	if i := strings.LastIndexByte(mine, ':'); i > strings.LastIndexByte(mine, ']') {
		host, port := mine[:i], mine[i+1:]
		// "host:0443" and "host:443" are one registry to whoever dials it and two to policies.
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
			return refuse("the port in its name is not written as ports are; write " + host + ":443 or another port without leading zeros")
		}
	}
	if mine == name.DefaultRegistry {
		mine = "docker.io"
	}
	if registry != mine || other.Context().RepositoryStr() != reference.Path(r.named) {
		return refuse("its name can be read in two ways, as " + r.Repository + " and as " + other.Context().Name())
	}
	return nil
}

// isPath recognises what a runtime might open as a file.
func isPath(s string) bool {
	return strings.HasPrefix(s, "/") || strings.HasPrefix(s, ".") || strings.HasPrefix(s, "~") ||
		strings.Contains(s, "://") || strings.Contains(s, "/../") || strings.Contains(s, "\\") ||
		strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) })
}

func (r Reference) pinned(d digest.Digest) string { return r.Repository + "@" + d.String() }
func (r Reference) tagged() string                { return r.Repository + ":" + r.Tag }

// sameRepository reports whether a name on the node is of r's repository.
func (r Reference) sameRepository(s string) bool { return node.InRepository(s, r.Repository) }

// short is a digest as people compare it by eye.
func short(d digest.Digest) string {
	s := d.String()
	if len(s) > len("sha256:")+12 {
		return s[:len("sha256:")+12] + "…"
	}
	return s
}
