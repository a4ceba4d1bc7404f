package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxSandboxImages bounds the images of sandboxes: a runtime has one, and its owner may pin a few others.
const maxSandboxImages = 16

// maxSandboxesGone bounds the sandboxes that may have ended between being listed and being asked for.
const maxSandboxesGone = 16

// SandboxImages are the names of the images of which the runtime may make pods' sandboxes, as it tells them. None is no
// error: some runtimes tell nothing before the first pod runs.
//
// containerd before 2.0 and CRI-O name the image in their settings. containerd since then does not: it is among the
// pinned images, once it is on the node, and named by the sandboxes that were made of it.
func (n *Node) SandboxImages(ctx context.Context) ([]string, error) {
	st, err := n.version.Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("asking the runtime for its settings: %w", err)
	}
	var settings struct {
		SandboxImage string `json:"sandboxImage"`
	}
	if config := st.GetInfo()["config"]; config != "" {
		// What cannot be read names nothing; the image is looked for elsewhere.
		_ = json.Unmarshal([]byte(config), &settings)
	}
	if settings.SandboxImage != "" {
		return []string{settings.SandboxImage}, nil
	}
	names, err := n.newestSandboxImage(ctx)
	if err != nil {
		return nil, err
	}
	pinned, err := n.pinnedImages(ctx)
	if err != nil {
		return nil, err
	}
	for _, of := range pinned {
		if !slices.ContainsFunc(of, func(name string) bool { return slices.Contains(names, name) }) {
			names = append(names, of[0])
		}
	}
	if len(names) > maxSandboxImages {
		return nil, fmt.Errorf("the runtime has pinned %d images, of which at most %d are looked at; name the one of sandboxes in the settings: sandbox.image", len(names), maxSandboxImages)
	}
	return names, nil
}

// newestSandboxImage is the image of the sandbox made last; older ones may be of an image that the runtime took before its
// settings were changed.
func (n *Node) newestSandboxImage(ctx context.Context) ([]string, error) {
	list, err := n.version.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking the runtime for its sandboxes: %w", err)
	}
	newestFirst := slices.SortedFunc(slices.Values(list.GetItems()), func(a, b *runtimeapi.PodSandbox) int {
		return cmp.Compare(b.GetCreatedAt(), a.GetCreatedAt())
	})
	for try, s := range newestFirst {
		st, err := n.version.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.GetId(), Verbose: true})
		if status.Code(err) == codes.NotFound && try < maxSandboxesGone {
			continue // its pod has ended since it was listed, and is no reason to refuse another
		}
		if err != nil {
			return nil, fmt.Errorf("asking the runtime for the image of sandbox %s: %w", s.GetId(), err)
		}
		return imageOfSandbox(st), nil
	}
	return nil, nil
}

// imageOfSandbox is the image that the runtime names, or none.
func imageOfSandbox(st *runtimeapi.PodSandboxStatusResponse) []string {
	var info struct {
		Image string `json:"image"`
	}
	if text := st.GetInfo()["info"]; text != "" {
		_ = json.Unmarshal([]byte(text), &info) // as above
	}
	if info.Image == "" {
		return nil
	}
	return []string{info.Image}
}

// pinnedImages are the names of each image that the runtime has pinned, at least one each.
func (n *Node) pinnedImages(ctx context.Context) (all [][]string, err error) {
	list, err := n.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("asking the runtime for its images: %w", err)
	}
	for _, img := range list.GetImages() {
		if !img.GetPinned() {
			continue
		}
		names := slices.Concat(img.GetRepoTags(), img.GetRepoDigests())
		if len(names) == 0 {
			names = []string{img.GetId()}
		}
		all = append(all, names)
	}
	return all, nil
}

// Pull has the runtime pull an image.
func (n *Node) Pull(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	return n.images.PullImage(ctx, req)
}

// Changes counts changes of images on this node, as far as the runtime tells of them.
func (n *Node) Changes() uint64 { return n.cache.generation() }
