package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

// ErrImageName is wrapped by the error of Match for a name that is no image
// reference. Such an image is under no policy because nobody can tell under which
// it would be: it must be refused, not treated as one that no policy matches.
var ErrImageName = errors.New("not an image name")

// Match returns the policies that an image is under, in order of their names.
// The image is a reference as the pod's author wrote it; dgst is the digest
// that is judged, or empty where it is not known yet.
//
// A policy matches if any of its globs matches any of these:
//   - the full name, as policy-controller makes it: index.docker.io/library/app:latest for
//     app, and repository@digest for a reference with tag and digest;
//   - the reference as written, as in policy-controller;
//   - repository@dgst, so that a tag is no way round a policy on the repository;
//   - the same again under the registry's usual name, where it was
//     written with capitals, with :443 or as one of Docker Hub's other hosts: the bytes come
//     from the same place, so the same policies hold.
func (s *Set) Match(image string, dgst digest.Digest) ([]*Policy, error) {
	names, err := spellings(image, dgst)
	if err != nil {
		return nil, err
	}
	return s.under(names), nil
}

// spellings returns the distinct names under which an image is matched.
func spellings(image string, dgst digest.Digest) ([]string, error) {
	if len(image) > MaxImageName {
		return nil, fmt.Errorf("%w: %s is longer than %d bytes", ErrImageName, quote(image), MaxImageName)
	}
	ref, err := name.ParseReference(image, name.WeakValidation)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %s", ErrImageName, quote(image), quote(err.Error()))
	}
	if !sound(ref.Context()) {
		return nil, fmt.Errorf("%w: %s is a path or a name that no registry serves", ErrImageName, quote(image))
	}
	if dgst != "" {
		if err := dgst.Validate(); err != nil {
			return nil, fmt.Errorf("match %s: digest %s: %w", quote(image), quote(string(dgst)), err)
		}
	}
	names := make([]string, 0, 5)
	add := func(n string) {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	for _, r := range []name.Reference{ref, usual(ref)} {
		add(r.Name())
		if dgst != "" {
			add(r.Context().Name() + "@" + dgst.String())
		}
	}
	add(image)
	return names, nil
}

// sound reports whether the registry's host begins, and every component of the
// repository's path begins and ends, with a letter or digit, as the distribution
// specification demands. The name package takes /var/lib/checkpoint.tar for a repository
// of Docker Hub and ../x for one of a registry named ".."; a runtime may
// take them for files.
func sound(repository name.Repository) bool {
	if host := strings.ToLower(repository.RegistryStr()); host == "" || !alphanumeric(host[0]) && host[0] != '[' {
		return false
	}
	for component := range strings.SplitSeq(repository.RepositoryStr(), "/") {
		if component == "" || !alphanumeric(component[0]) || !alphanumeric(component[len(component)-1]) {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// hubHosts are the hosts of Docker Hub beside index.docker.io and docker.io,
// which the name package treats as one.
var hubHosts = []string{"registry-1.docker.io", "registry.hub.docker.com"}

// usual returns ref under its registry's usual name, or ref itself. Host names
// have no case and 443 is https' own port; without this, GHCR.IO/app would be an
// image that a policy for ghcr.io/** does not know.
func usual(ref name.Reference) name.Reference {
	written := ref.Context().RegistryStr()
	host := strings.TrimSuffix(strings.ToLower(written), ":443")
	if slices.Contains(hubHosts, host) {
		host = name.DefaultRegistry
	}
	if host == written {
		return ref
	}
	separator := ":"
	if _, ok := ref.(name.Digest); ok {
		separator = "@"
	}
	u, err := name.ParseReference(host+"/"+ref.Context().RepositoryStr()+separator+ref.Identifier(), name.WeakValidation)
	if err != nil {
		return ref
	}
	return u
}
