package nodetest

import (
	"context"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type runtimeService struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	r *Runtime
}

func (s runtimeService) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	name := s.r.Name
	if name == "" {
		name = "containerd"
	}
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: name, RuntimeVersion: "v2.4.2", RuntimeApiVersion: "v1"}, nil
}

// imageService is CRI's image service, over the CRI plugin's view of the records.
type imageService struct {
	runtimeapi.UnimplementedImageServiceServer
	r *Runtime
}

func (s imageService) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	id := s.r.resolve(req.GetImage().GetImage())
	if id == "" {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	img := &runtimeapi.Image{Id: id, Size: 1}
	for name, of := range s.r.view {
		if of != id {
			continue
		}
		parsed, err := reference.ParseAnyReference(name)
		if err != nil {
			continue
		}
		switch parsed.(type) {
		case reference.Canonical:
			img.RepoDigests = append(img.RepoDigests, parsed.String())
		case reference.Tagged:
			img.RepoTags = append(img.RepoTags, parsed.String())
		}
	}
	slices.Sort(img.RepoDigests)
	slices.Sort(img.RepoTags)
	if s.r.Annotations != nil {
		img.Spec = &runtimeapi.ImageSpec{Annotations: s.r.Annotations}
	}
	return &runtimeapi.ImageStatusResponse{Image: img}, nil
}

// resolve finds an image ID as the CRI plugin does: a digest is an ID; a name is looked up as
// Docker normalises it; what is neither may be a truncated ID. r.mu is held.
func (r *Runtime) resolve(ref string) string {
	if _, err := digest.Parse(ref); err != nil {
		if named, err := reference.ParseDockerRef(ref); err == nil && r.view[named.String()] != "" {
			return r.view[named.String()]
		}
	}
	var found string
	short := strings.TrimPrefix(ref, "sha256:")
	for _, id := range r.view {
		if short == "" || !strings.HasPrefix(strings.TrimPrefix(id, "sha256:"), short) {
			continue
		}
		if found != "" && found != id {
			return "" // ambiguous
		}
		found = id
	}
	return found
}

// RemoveImage takes a name away, or with an ID the whole image, as CRI-O does; containerd would take
// the other names along.
func (s imageService) RemoveImage(_ context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	ref := req.GetImage().GetImage()
	s.r.mu.Lock()
	var names []string
	for name, id := range s.r.view {
		if name == ref || id == ref {
			names = append(names, name)
		}
	}
	s.r.mu.Unlock()
	for _, name := range names {
		s.r.Untag(name)
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}
