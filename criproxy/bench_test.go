package criproxy_test

import (
	"testing"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/criproxy/critest"
)

// benchmark measures call directly and through the proxy, in one process with
// client, proxy and runtime.
func benchmark(b *testing.B, containers int, call func(*testing.B, *grpc.ClientConn)) {
	direct, proxied, _ := start(b, critest.NewRuntime(containers), criproxy.Options{})
	for _, way := range []struct {
		name string
		conn *grpc.ClientConn
	}{{"direct", direct}, {"proxied", proxied}} {
		b.Run(way.name, func(b *testing.B) {
			call(b, way.conn) // connected and warm
			b.ReportAllocs()
			for b.Loop() {
				call(b, way.conn)
			}
		})
	}
}

func BenchmarkVersion(b *testing.B) {
	benchmark(b, 0, func(b *testing.B, conn *grpc.ClientConn) {
		if err := version(b.Context(), conn); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkListContainers200(b *testing.B) {
	benchmark(b, 200, func(b *testing.B, conn *grpc.ClientConn) {
		resp, err := runtimeapi.NewRuntimeServiceClient(conn).ListContainers(b.Context(), &runtimeapi.ListContainersRequest{})
		if err != nil || len(resp.Containers) != 200 {
			b.Fatalf("%d containers, %v", len(resp.GetContainers()), err)
		}
	})
}

// BenchmarkCreateContainer has a gate that decides at once: what remains is the
// cost of decoding and encoding for it.
func BenchmarkCreateContainer(b *testing.B) {
	benchmark(b, 0, func(b *testing.B, conn *grpc.ClientConn) {
		req := &runtimeapi.CreateContainerRequest{PodSandboxId: "p", Config: &runtimeapi.ContainerConfig{Image: &runtimeapi.ImageSpec{Image: "sha256:1"}}}
		if _, err := runtimeapi.NewRuntimeServiceClient(conn).CreateContainer(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	})
}
