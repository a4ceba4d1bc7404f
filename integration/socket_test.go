package integration

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/integration/harness"
)

// TestOnlyCRIIsOnTheSocket: through containerd's own services anything could be started.
func TestOnlyCRIIsOnTheSocket(t *testing.T) {
	w := newWorld(t, nil)
	for socket, want := range map[string]codes.Code{w.Containerd.Socket: codes.OK, w.agent.Socket: codes.Unimplemented} {
		conn, err := harness.DialCRI(socket)
		must(t, err)
		defer conn.Close()
		for _, method := range []string{
			"/containerd.services.version.v1.Version/Version",
			"/containerd.services.introspection.v1.Introspection/Server",
		} {
			err := conn.Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{})
			if got := status.Code(err); got != want {
				t.Errorf("%s on %s: code %s, want %s", method, socket, got, want)
			}
		}
	}
	client, err := containerd.New(w.agent.Socket, containerd.WithDefaultNamespace("k8s.io"), containerd.WithTimeout(2*time.Second))
	if err == nil {
		defer client.Close()
		if images, err := client.ImageService().List(t.Context()); err == nil {
			t.Errorf("containerd's image service answers through cosentry: %v", images)
		}
	}
	conn, err := harness.DialCRI(w.agent.Socket)
	must(t, err)
	defer conn.Close()
	for _, method := range []string{
		"/runtime.v1.RuntimeService/RestorePod", "/runtime.v1.RuntimeService/NoSuchMethod",
		"/runtime.v1.ImageService/pullimage", "/runtime.v1.ImageService/PullImage/", "//runtime.v1.ImageService/PullImage",
		"/runtime.v1alpha2.ImageService/PullImage", "/runtime.v1.RuntimeService/PullImage",
	} {
		err := conn.Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{})
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v, want Unimplemented", method, err)
		}
	}
}

// TestSocketFile: only root's group may connect, and a stale file is no obstacle.
func TestSocketFile(t *testing.T) {
	w := newWorld(t, nil)
	for range 2 {
		info, err := os.Stat(w.agent.Socket)
		must(t, err)
		owner := info.Sys().(*syscall.Stat_t)
		if info.Mode().Perm() != 0o660 || owner.Uid != 0 || owner.Gid != 0 {
			t.Errorf("the socket is %s of %d:%d, want 0660 of root", info.Mode(), owner.Uid, owner.Gid)
		}
		w.agent.Kill() // leaves the file
		must(t, w.agent.Start())
	}
}

// TestEventsStream: a server stream brings the life of a container as it happens.
func TestEventsStream(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "signed")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := w.kubelet.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	must(t, err)
	seen := make(chan []runtimeapi.ContainerEventType, 1)
	id := make(chan string, 1)
	go func() {
		events := map[string][]runtimeapi.ContainerEventType{}
		defer func() { seen <- events[<-id] }()
		for {
			event, err := stream.Recv()
			if err != nil {
				return
			}
			events[event.ContainerId] = append(events[event.ContainerId], event.ContainerEventType)
			if event.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT {
				return
			}
		}
	}()
	pod := w.pod()
	out, err := w.kubelet.Run(ctx, pod, harness.Container{Name: "main", Image: w.image("app:1")})
	must(t, err)
	id <- out.ID
	_, err = w.kubelet.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: out.ID})
	must(t, err)
	got := <-seen
	want := []runtimeapi.ContainerEventType{
		runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT,
		runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT,
	}
	if len(got) != len(want) {
		t.Fatalf("events are %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("event %d is %s, want %s", i, got[i], want[i])
		}
	}
}
