package nodetest

import (
	"context"
	"encoding/json"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Sandboxes is what the runtime tells of the sandboxes of pods.
type Sandboxes struct {
	// Settings is the image that Status names in the runtime's settings, as containerd did before 2.0; empty: none.
	Settings string
	// Pinned are the names of pinned images.
	Pinned []string
	// Made are the images of which sandboxes were made, the oldest first.
	Made []string
	// Ended are those of Made whose sandboxes are removed as soon as they were listed.
	Ended []string
}

// SetSandboxes changes what is told.
func (r *Runtime) SetSandboxes(s Sandboxes) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sandboxes = s
}

func (r *Runtime) told() Sandboxes {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sandboxes
}

func inJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // only for what is no text
	}
	return string(data)
}

func (s runtimeService) Status(_ context.Context, req *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	resp := &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{}}
	if req.GetVerbose() {
		config := map[string]any{"containerd": map[string]string{"defaultRuntimeName": "runc"}}
		if image := s.r.told().Settings; image != "" {
			config["sandboxImage"] = image
		}
		resp.Info = map[string]string{"golang": `"go1.26"`, "config": inJSON(config)}
	}
	return resp, nil
}

func (s runtimeService) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	resp := &runtimeapi.ListPodSandboxResponse{}
	for i, image := range s.r.told().Made {
		// In no order of time.
		resp.Items = slices.Insert(resp.Items, i/2, &runtimeapi.PodSandbox{Id: image, CreatedAt: int64(i + 1)})
	}
	return resp, nil
}

func (s runtimeService) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	if told := s.r.told(); !slices.Contains(told.Made, req.GetPodSandboxId()) || slices.Contains(told.Ended, req.GetPodSandboxId()) {
		return nil, status.Errorf(codes.NotFound, "no sandbox %q", req.GetPodSandboxId())
	}
	resp := &runtimeapi.PodSandboxStatusResponse{Status: &runtimeapi.PodSandboxStatus{Id: req.GetPodSandboxId()}}
	if req.GetVerbose() {
		resp.Info = map[string]string{"info": inJSON(map[string]any{"pid": 1, "image": req.GetPodSandboxId()})}
	}
	return resp, nil
}

func (s imageService) ListImages(ctx context.Context, _ *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	s.r.mu.Lock()
	ids := map[string]bool{}
	for _, id := range s.r.view {
		ids[id] = true
	}
	pinned := s.r.sandboxes.Pinned
	s.r.mu.Unlock()
	resp := &runtimeapi.ListImagesResponse{}
	for id := range ids {
		st, err := s.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: id}})
		if err != nil || st.Image == nil {
			continue
		}
		st.Image.Pinned = slices.ContainsFunc(pinned, func(name string) bool { return slices.Contains(st.Image.RepoTags, name) })
		resp.Images = append(resp.Images, st.Image)
	}
	return resp, nil
}
