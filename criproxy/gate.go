package criproxy

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Forward sends a request on to the runtime and returns what the runtime
// answered. An error from the runtime comes back unchanged, status details
// included, and is meant to be returned unchanged.
//
// The request that is forwarded is the message given here, encoded again:
// what a Gate judged is what the runtime reads, so no second reading of the
// client's bytes can differ from the first. Fields that the vendored API does
// not know are kept, and are not judged: a gate that must not let them by has to
// look at ProtoReflect().GetUnknown() itself.
//
// The call to the runtime carries the client's metadata and ends when the
// client's context or ctx ends, whichever is first. Metadata on ctx is not sent.
// Forward works once, and not after the Gate's method has returned; what else is
// asked of it fails with Internal and does not reach the runtime.
type Forward[Req, Resp any] func(ctx context.Context, req Req) (Resp, error)

// Gate decides on the calls by which bytes become a process or a mounted image.
// RunPodSandbox, whose image no request names, comes to it only with Options.GateSandboxes.
//
// An implementation must call forward at most once, only for a request whose
// content it accepts, and must return forward's error unchanged. An error of its own
// reaches the client as a gRPC status; it should already be one. A panic, a
// second forward, or neither response nor error is answered Internal; the
// client's call then fails although a first forward may have reached the runtime.
//
// The context given ends when the client leaves or the drain at the end of
// serving times out. An implementation must return soon after; it is left behind
// otherwise. Methods are called concurrently. The request belongs to the
// implementation, which may change it. It carries registry credentials: it must
// not be logged.
type Gate interface {
	PullImage(ctx context.Context, req *runtimeapi.PullImageRequest, forward Forward[*runtimeapi.PullImageRequest, *runtimeapi.PullImageResponse]) (*runtimeapi.PullImageResponse, error)
	CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest, forward Forward[*runtimeapi.CreateContainerRequest, *runtimeapi.CreateContainerResponse]) (*runtimeapi.CreateContainerResponse, error)
	RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest, forward Forward[*runtimeapi.RunPodSandboxRequest, *runtimeapi.RunPodSandboxResponse]) (*runtimeapi.RunPodSandboxResponse, error)
}
