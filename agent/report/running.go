package report

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/agent/node"
)

// Running judges every container that runs on this node as if it were created now, and sums the answers up. Policies are
// asked when a container is created and never again, so that this is the only way to see what was started before
// cosentry came, past it, or before a policy became stricter. Nothing is changed and nothing recorded.
//
// options are those of the gate that would judge a create; what it records and whether it observes is set here.
func Running(ctx context.Context, conn *grpc.ClientConn, options gate.Options) (*Report, error) {
	runtime := runtimeapi.NewRuntimeServiceClient(conn)
	pods, err := sandboxes(ctx, runtime)
	if err != nil {
		return nil, err
	}
	filter := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	list, err := runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("listing the containers that run: %w", err)
	}
	r := &Report{}
	options.Recorder, options.Observe = collector{r}, false
	g, err := gate.New(options)
	if err != nil {
		return nil, err
	}
	for _, c := range list.GetContainers() {
		req, err := createOf(ctx, runtime, c, pods[c.GetPodSandboxId()])
		if err != nil {
			return nil, err
		}
		// The refusal is in the record as well.
		_, _ = g.CreateContainer(ctx, req, forwardNothing)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("judging the containers that run: %w", err)
		}
	}
	r.Sort()
	return r, nil
}

// collector sums records up instead of writing them.
type collector struct{ to *Report }

func (c collector) Append(rec audit.Record) error {
	c.to.Add(rec)
	return nil
}

func forwardNothing(context.Context, *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	return &runtimeapi.CreateContainerResponse{}, nil
}

func sandboxes(ctx context.Context, runtime runtimeapi.RuntimeServiceClient) (map[string]*runtimeapi.PodSandbox, error) {
	list, err := runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("listing the pods on this node: %w", err)
	}
	pods := map[string]*runtimeapi.PodSandbox{}
	for _, p := range list.GetItems() {
		pods[p.GetId()] = p
	}
	return pods, nil
}

// createOf is the request that would create c again: the content that runs, under the name that its user wrote.
func createOf(ctx context.Context, runtime runtimeapi.RuntimeServiceClient, c *runtimeapi.Container, pod *runtimeapi.PodSandbox) (*runtimeapi.CreateContainerRequest, error) {
	status, err := runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.GetId()})
	if err != nil {
		return nil, fmt.Errorf("looking at container %s: %w", c.GetId(), err)
	}
	req := &runtimeapi.CreateContainerRequest{
		PodSandboxId: c.GetPodSandboxId(),
		Config: &runtimeapi.ContainerConfig{
			Metadata: c.GetMetadata(),
			Image:    imageOf(c, status.GetStatus()),
			Mounts:   status.GetStatus().GetMounts(),
		},
	}
	if pod != nil { // gone meanwhile: judged as a pod that is not known
		req.SandboxConfig = &runtimeapi.PodSandboxConfig{Metadata: pod.GetMetadata(), Labels: pod.GetLabels(), Annotations: pod.GetAnnotations()}
	}
	return req, nil
}

// imageOf names the content that runs, and beside it what was written: a tag may stand for other content by now.
func imageOf(c *runtimeapi.Container, status *runtimeapi.ContainerStatus) *runtimeapi.ImageSpec {
	spec := &runtimeapi.ImageSpec{Image: c.GetImage().GetImage(), UserSpecifiedImage: c.GetImage().GetUserSpecifiedImage()}
	if spec.UserSpecifiedImage == "" && !node.IsID(spec.Image) {
		spec.UserSpecifiedImage = spec.Image
	}
	if spec.UserSpecifiedImage == "" {
		spec.UserSpecifiedImage = status.GetImage().GetUserSpecifiedImage()
	}
	for _, id := range []string{c.GetImageId(), c.GetImageRef()} {
		if node.IsID(id) {
			spec.Image = id
			break
		}
	}
	return spec
}
