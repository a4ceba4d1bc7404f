// Package critest holds what tests of a CRI proxy share: a small runtime that
// lives in memory, and a suite of calls that is made to a runtime directly and
// through a proxy, and must come out the same.
package critest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Runtime is a CRI runtime in memory, served by cri-api's own generated code. It
// has a fixed set of containers and images, remembers the gated requests that
// reached it, and sends metadata whose key begins with "echo-" back in both
// headers and trailers. What it does not have is Unimplemented. Tests that need
// more embed it.
type Runtime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	containers []*runtimeapi.Container

	mu      sync.Mutex
	pulled  []*runtimeapi.PullImageRequest
	created []*runtimeapi.CreateContainerRequest
}

// NewRuntime returns a runtime with n containers that look like kubelet's.
func NewRuntime(n int) *Runtime {
	r := &Runtime{}
	for i := range n {
		r.containers = append(r.containers, container(i))
	}
	return r
}

func container(i int) *runtimeapi.Container {
	id := fmt.Sprintf("%064x", i+1)
	pod := fmt.Sprintf("web-%08x", i)
	return &runtimeapi.Container{
		Id:           id,
		PodSandboxId: fmt.Sprintf("%064x", 1<<20+i),
		Metadata:     &runtimeapi.ContainerMetadata{Name: "app", Attempt: uint32(i % 3)},
		Image:        &runtimeapi.ImageSpec{Image: "sha256:" + id, UserSpecifiedImage: "registry.example/team/app:1.2"},
		ImageRef:     "sha256:" + id,
		ImageId:      "sha256:" + id,
		State:        runtimeapi.ContainerState_CONTAINER_RUNNING,
		CreatedAt:    1_700_000_000_000_000_000 + int64(i),
		Labels: map[string]string{
			"io.kubernetes.container.name": "app",
			"io.kubernetes.pod.name":       pod,
			"io.kubernetes.pod.namespace":  "default",
			"io.kubernetes.pod.uid":        id[:36],
		},
		Annotations: map[string]string{
			"io.kubernetes.container.hash":                     id[:8],
			"io.kubernetes.container.restartCount":             "0",
			"io.kubernetes.container.terminationMessagePath":   "/dev/termination-log",
			"io.kubernetes.container.terminationMessagePolicy": "File",
			"io.kubernetes.pod.terminationGracePeriod":         "30",
		},
	}
}

// Pulled returns the PullImage requests that reached the runtime.
func (r *Runtime) Pulled() []*runtimeapi.PullImageRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*runtimeapi.PullImageRequest(nil), r.pulled...)
}

// Created returns the CreateContainer requests that reached the runtime.
func (r *Runtime) Created() []*runtimeapi.CreateContainerRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*runtimeapi.CreateContainerRequest(nil), r.created...)
}

func (r *Runtime) Version(ctx context.Context, req *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	echo(ctx)
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "critest", RuntimeVersion: "v1", RuntimeApiVersion: "v1"}, nil
}

func (r *Runtime) Status(_ context.Context, req *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	resp := &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: runtimeapi.RuntimeReady, Status: true}}}}
	if req.Verbose {
		resp.Info = map[string]string{"config": `{"sandboxImage":"registry.k8s.io/pause:3.10"}`}
	}
	return resp, nil
}

func (r *Runtime) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	resp := &runtimeapi.ListContainersResponse{}
	for _, c := range r.containers {
		if id := req.GetFilter().GetId(); id == "" || id == c.Id {
			resp.Containers = append(resp.Containers, c)
		}
	}
	return resp, nil
}

func (r *Runtime) StreamContainers(_ *runtimeapi.StreamContainersRequest, s grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	echo(s.Context())
	for _, c := range r.containers {
		if err := s.Send(&runtimeapi.StreamContainersResponse{Containers: []*runtimeapi.Container{c}}); err != nil {
			return err
		}
	}
	return nil
}

// ContainerStatus has details on its errors, to see whether they arrive.
func (r *Runtime) ContainerStatus(ctx context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	echo(ctx)
	for _, c := range r.containers {
		if c.Id == req.ContainerId {
			return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: c.Id, Metadata: c.Metadata, State: c.State, Image: c.Image}}, nil
		}
	}
	return nil, withDetails(codes.NotFound, fmt.Sprintf("container %q: not found – ¶", req.ContainerId), &runtimeapi.ContainerStatusRequest{ContainerId: req.ContainerId})
}

// GetContainerEvents sends headers, then nothing until the client leaves.
func (r *Runtime) GetContainerEvents(_ *runtimeapi.GetEventsRequest, s grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	if err := s.SendHeader(metadata.Pairs("events", "on")); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

// StreamImages ends with an error after one message.
func (r *Runtime) StreamImages(_ *runtimeapi.StreamImagesRequest, s grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	s.SetTrailer(metadata.Pairs("after", "one"))
	if err := s.Send(&runtimeapi.StreamImagesResponse{Images: []*runtimeapi.Image{image("sha256:1")}}); err != nil {
		return err
	}
	return withDetails(codes.DataLoss, "the store is gone", &runtimeapi.ImageSpec{Image: "sha256:2"})
}

func (r *Runtime) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	return &runtimeapi.ListImagesResponse{Images: []*runtimeapi.Image{image("sha256:1"), image("sha256:2")}}, nil
}

func (r *Runtime) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	if id := req.GetImage().GetImage(); strings.HasPrefix(id, "sha256:") {
		return &runtimeapi.ImageStatusResponse{Image: image(id)}, nil
	}
	return &runtimeapi.ImageStatusResponse{}, nil
}

func (r *Runtime) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	echo(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pulled = append(r.pulled, req)
	return &runtimeapi.PullImageResponse{ImageRef: "sha256:1"}, nil
}

func (r *Runtime) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	echo(ctx)
	if req.PodSandboxId == "" {
		return nil, withDetails(codes.NotFound, "sandbox \"\": not found", req)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.created = append(r.created, req)
	return &runtimeapi.CreateContainerResponse{ContainerId: fmt.Sprintf("%064x", len(r.created))}, nil
}

func image(id string) *runtimeapi.Image {
	return &runtimeapi.Image{Id: id, Size: 4711, RepoTags: []string{"registry.example/team/app:1.2"}, RepoDigests: []string{"registry.example/team/app@" + id}}
}

func withDetails(c codes.Code, msg string, details proto.Message) error {
	st, err := status.New(c, msg).WithDetails(protoadapt.MessageV1Of(details))
	if err != nil {
		return err
	}
	return st.Err()
}

// echo answers with the metadata of the call whose keys begin with "echo-".
func echo(ctx context.Context) {
	in, _ := metadata.FromIncomingContext(ctx)
	out := metadata.MD{}
	for k, v := range in {
		if strings.HasPrefix(k, "echo-") {
			out[k] = v
		}
	}
	// Both fail only where there is no call, which a test would show.
	_ = grpc.SetHeader(ctx, out)
	_ = grpc.SetTrailer(ctx, out)
}

// Server is the part of a runtime that Serve needs.
type Server interface {
	runtimeapi.RuntimeServiceServer
	runtimeapi.ImageServiceServer
}

// Serve serves s on a unix socket at path until the test ends or the returned
// server is stopped.
func Serve(tb testing.TB, path string, s Server) *grpc.Server {
	tb.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	srv := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	runtimeapi.RegisterRuntimeServiceServer(srv, s)
	runtimeapi.RegisterImageServiceServer(srv, s)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	tb.Cleanup(func() {
		srv.Stop()
		if err := <-done; err != nil {
			tb.Errorf("serving the runtime: %v", err)
		}
	})
	return srv
}

const maxMessage = 128 << 20 // wider than any proxy's, whose bound is then what shows

// Dial connects to a CRI socket as kubelet does, until the test ends.
func Dial(tb testing.TB, path string, opts ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	}, opts...)
	conn, err := grpc.NewClient("unix://"+path, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return conn
}
