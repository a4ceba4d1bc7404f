package critest

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const absent = "there-is-no-such-thing"

// requests are what the suite sends: for each method calls that change nothing on
// a node, because they only read, or name what is not there.
var requests = map[string][]proto.Message{
	"Version":                   {&runtimeapi.VersionRequest{}, &runtimeapi.VersionRequest{Version: "0.1.0"}},
	"RunPodSandbox":             {&runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{}}},
	"StopPodSandbox":            {&runtimeapi.StopPodSandboxRequest{PodSandboxId: absent}},
	"RemovePodSandbox":          {&runtimeapi.RemovePodSandboxRequest{PodSandboxId: absent}},
	"PodSandboxStatus":          {&runtimeapi.PodSandboxStatusRequest{PodSandboxId: absent}},
	"ListPodSandbox":            {&runtimeapi.ListPodSandboxRequest{}, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{Id: absent}}},
	"StreamPodSandboxes":        {&runtimeapi.StreamPodSandboxesRequest{}},
	"StartContainer":            {&runtimeapi.StartContainerRequest{ContainerId: absent}},
	"StopContainer":             {&runtimeapi.StopContainerRequest{ContainerId: absent}},
	"RemoveContainer":           {&runtimeapi.RemoveContainerRequest{ContainerId: absent}},
	"ListContainers":            {&runtimeapi.ListContainersRequest{}, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: absent}}},
	"StreamContainers":          {&runtimeapi.StreamContainersRequest{}},
	"ContainerStatus":           {&runtimeapi.ContainerStatusRequest{ContainerId: absent}, &runtimeapi.ContainerStatusRequest{}},
	"UpdateContainerResources":  {&runtimeapi.UpdateContainerResourcesRequest{ContainerId: absent}},
	"ReopenContainerLog":        {&runtimeapi.ReopenContainerLogRequest{ContainerId: absent}},
	"ExecSync":                  {&runtimeapi.ExecSyncRequest{ContainerId: absent, Cmd: []string{"true"}}},
	"Exec":                      {&runtimeapi.ExecRequest{ContainerId: absent, Cmd: []string{"true"}}},
	"Attach":                    {&runtimeapi.AttachRequest{ContainerId: absent}},
	"PortForward":               {&runtimeapi.PortForwardRequest{PodSandboxId: absent}},
	"ContainerStats":            {&runtimeapi.ContainerStatsRequest{ContainerId: absent}},
	"ListContainerStats":        {&runtimeapi.ListContainerStatsRequest{}},
	"StreamContainerStats":      {&runtimeapi.StreamContainerStatsRequest{}},
	"PodSandboxStats":           {&runtimeapi.PodSandboxStatsRequest{PodSandboxId: absent}},
	"ListPodSandboxStats":       {&runtimeapi.ListPodSandboxStatsRequest{}},
	"StreamPodSandboxStats":     {&runtimeapi.StreamPodSandboxStatsRequest{}},
	"UpdateRuntimeConfig":       {&runtimeapi.UpdateRuntimeConfigRequest{}},
	"Status":                    {&runtimeapi.StatusRequest{}, &runtimeapi.StatusRequest{Verbose: true}},
	"CheckpointContainer":       {&runtimeapi.CheckpointContainerRequest{ContainerId: absent}},
	"CheckpointPod":             {&runtimeapi.CheckpointPodRequest{}},
	"GetContainerEvents":        {&runtimeapi.GetEventsRequest{}},
	"ListMetricDescriptors":     {&runtimeapi.ListMetricDescriptorsRequest{}},
	"ListPodSandboxMetrics":     {&runtimeapi.ListPodSandboxMetricsRequest{}},
	"StreamPodSandboxMetrics":   {&runtimeapi.StreamPodSandboxMetricsRequest{}},
	"RuntimeConfig":             {&runtimeapi.RuntimeConfigRequest{}},
	"UpdatePodSandboxResources": {&runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: absent}},
	"ListImages":                {&runtimeapi.ListImagesRequest{}},
	"StreamImages":              {&runtimeapi.StreamImagesRequest{}},
	"ImageStatus":               {&runtimeapi.ImageStatusRequest{}, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: absent}}, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: absent}, Verbose: true}},
	"RemoveImage":               {&runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: absent}}},
	"ImageFsInfo":               {&runtimeapi.ImageFsInfoRequest{}},
}

// notCompared are the methods that a proxy answers otherwise on purpose.
var notCompared = map[string]string{
	"PullImage":       "is judged",
	"CreateContainer": "is judged",
	"RestorePod":      "is refused",
}

// Run makes the same calls on a runtime's own connection and on one through a
// proxy, and compares all that a client can see: messages, status with its
// details, headers and trailers. It covers every method of the vendored API that
// a proxy must not touch, and changes nothing on the runtime, so that a real
// one may be used. Numbers that a busy runtime changes by itself are not
// compared.
func Run(t *testing.T, direct, proxied *grpc.ClientConn) {
	for md := range methods() {
		name := string(md.Name())
		reqs, ok := requests[name]
		if _, skip := notCompared[name]; !ok && !skip {
			t.Errorf("the suite has no request for %s", name)
		}
		for _, req := range reqs {
			t.Run(name, func(t *testing.T) { compare(t, direct, proxied, md, req) })
		}
	}
}

// methods yields every method of the CRI.
func methods() func(yield func(protoreflect.MethodDescriptor) bool) {
	return func(yield func(protoreflect.MethodDescriptor) bool) {
		services := runtimeapi.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto.Services()
		for i := range services.Len() {
			for j := range services.Get(i).Methods().Len() {
				if !yield(services.Get(i).Methods().Get(j)) {
					return
				}
			}
		}
	}
}

// compare allows for a runtime whose state moves between two calls: an answer
// counts as equal if it is so within a few attempts.
func compare(t *testing.T, direct, proxied *grpc.ClientConn, md protoreflect.MethodDescriptor, req proto.Message) {
	var diff string
	for range 5 {
		want, got := call(t, direct, md, req), call(t, proxied, md, req)
		if diff = cmp.Diff(want, got, comparison...); diff == "" {
			return
		}
	}
	t.Errorf("%s(%v) differs through the proxy (-direct +proxied):\n%s", md.Name(), req, diff)
}

var comparison = []cmp.Option{
	protocmp.Transform(),
	protocmp.IgnoreMessages(&runtimeapi.UInt64Value{}),
	cmp.FilterPath(func(p cmp.Path) bool {
		mi, ok := p.Last().(cmp.MapIndex)
		return ok && mi.Key().String() == "timestamp"
	}, cmp.Ignore()),
}

// answer is what a client sees of a call.
type answer struct {
	Messages        []proto.Message
	Status          proto.Message
	Header, Trailer metadata.MD
}

func call(t *testing.T, conn *grpc.ClientConn, md protoreflect.MethodDescriptor, req proto.Message) answer {
	t.Helper()
	timeout := 30 * time.Second
	if md.Name() == "GetContainerEvents" {
		timeout = 200 * time.Millisecond // it never ends by itself: how it is cut off is compared
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "echo-text", "one", "echo-text", "two", "echo-raw-bin", "\x00\xff")

	full := "/" + string(md.Parent().FullName()) + "/" + string(md.Name())
	desc := &grpc.StreamDesc{ServerStreams: md.IsStreamingServer()}
	cs, err := conn.NewStream(ctx, desc, full)
	if err != nil {
		return answer{Status: status.Convert(err).Proto()}
	}
	if err := cs.SendMsg(req); err != nil {
		t.Fatalf("sending to %s: %v", full, err)
	}
	var a answer
	a.Header, _ = cs.Header()
	for err == nil {
		resp := newMessage(t, md.Output())
		if err = cs.RecvMsg(resp); err == nil {
			a.Messages = append(a.Messages, resp)
			if !desc.ServerStreams {
				break // the end was read with the message
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		a.Status = status.Convert(err).Proto()
	}
	a.Trailer = cs.Trailer()
	return a
}

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return mt.New().Interface()
}
