package criproxy_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/criproxy/critest"
)

const (
	pullMethod   = runtimeapi.ImageService_PullImage_FullMethodName
	createMethod = runtimeapi.RuntimeService_CreateContainer_FullMethodName
)

type (
	pullForward   = criproxy.Forward[*runtimeapi.PullImageRequest, *runtimeapi.PullImageResponse]
	createForward = criproxy.Forward[*runtimeapi.CreateContainerRequest, *runtimeapi.CreateContainerResponse]
)

// testGate remembers what it was asked, and does as it is told; without orders it
// forwards.
type testGate struct {
	pull   func(context.Context, *runtimeapi.PullImageRequest, pullForward) (*runtimeapi.PullImageResponse, error)
	create func(context.Context, *runtimeapi.CreateContainerRequest, createForward) (*runtimeapi.CreateContainerResponse, error)

	mu   sync.Mutex
	seen []proto.Message
}

func (g *testGate) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest, forward pullForward) (*runtimeapi.PullImageResponse, error) {
	g.saw(req)
	if g.pull != nil {
		return g.pull(ctx, req, forward)
	}
	return forward(ctx, req)
}

func (g *testGate) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest, forward createForward) (*runtimeapi.CreateContainerResponse, error) {
	g.saw(req)
	if g.create != nil {
		return g.create(ctx, req, forward)
	}
	return forward(ctx, req)
}

func (g *testGate) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest, forward criproxy.Forward[*runtimeapi.RunPodSandboxRequest, *runtimeapi.RunPodSandboxResponse]) (*runtimeapi.RunPodSandboxResponse, error) {
	g.saw(req)
	return nil, status.Error(codes.Unknown, "SignatureValidationFailed: the image of sandboxes")
}

func (g *testGate) saw(m proto.Message) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen = append(g.seen, proto.Clone(m))
}

func (g *testGate) asked() []proto.Message {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen
}

func TestGateRefuses(t *testing.T) {
	refusal, err := status.New(codes.Unknown, "SignatureValidationFailed: not signed").WithDetails(&runtimeapi.ImageSpec{Image: "app"})
	if err != nil {
		t.Fatal(err)
	}
	g := &testGate{
		pull: func(context.Context, *runtimeapi.PullImageRequest, pullForward) (*runtimeapi.PullImageResponse, error) {
			return nil, refusal.Err()
		},
		create: func(context.Context, *runtimeapi.CreateContainerRequest, createForward) (*runtimeapi.CreateContainerResponse, error) {
			return nil, errors.New("not a status")
		},
	}
	runtime := critest.NewRuntime(0)
	_, conn, _ := start(t, runtime, criproxy.Options{Gate: g})
	_, err = runtimeapi.NewImageServiceClient(conn).PullImage(t.Context(), &runtimeapi.PullImageRequest{})
	if diff := cmp.Diff(refusal.Proto(), status.Convert(err).Proto(), protocmp.Transform()); diff != "" {
		t.Errorf("the refusal changed on its way (-want +got):\n%s", diff)
	}
	_, err = runtimeapi.NewRuntimeServiceClient(conn).CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: "p"})
	if words := wantCode(t, err, codes.Unknown); words != "not a status" {
		t.Errorf("refused with %q", words)
	}
	if len(runtime.Pulled())+len(runtime.Created()) != 0 {
		t.Error("a refused call reached the runtime")
	}
}

// The gate changes the request; headers, trailers, status and details of the
// runtime's answer reach the client as if there were no gate.
func TestGateForwards(t *testing.T) {
	runtime := critest.NewRuntime(0)
	g := &testGate{
		pull: func(ctx context.Context, req *runtimeapi.PullImageRequest, forward pullForward) (*runtimeapi.PullImageResponse, error) {
			// Metadata for the gate's own calls must not leak into the client's.
			ctx = metadata.AppendToOutgoingContext(ctx, "echo-gate", "leaked")
			req.Image.Image = "app@sha256:1"
			resp, err := forward(ctx, req)
			if err == nil {
				resp.ImageRef += "!"
			}
			return resp, err
		},
	}
	direct, proxied, _ := start(t, runtime, criproxy.Options{Gate: g})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "echo-x", "1", "echo-x", "2")

	var header, trailer metadata.MD
	resp, err := runtimeapi.NewImageServiceClient(proxied).PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "app:1"}}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		t.Fatal(err)
	}
	if got := runtime.Pulled()[0].Image.Image; got != "app@sha256:1" {
		t.Errorf("the runtime was told to pull %q", got)
	}
	if resp.ImageRef != "sha256:1!" {
		t.Errorf("the client got %q", resp.ImageRef)
	}
	for what, md := range map[string]metadata.MD{"headers": header, "trailers": trailer} {
		if diff := cmp.Diff([]string{"1", "2"}, md.Get("echo-x")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
		if got := md.Get("echo-gate"); got != nil {
			t.Errorf("%s carry the gate's own metadata: %q", what, got)
		}
	}

	create := func(c *grpc.ClientConn) (*status.Status, metadata.MD) {
		var trailer metadata.MD
		_, err := runtimeapi.NewRuntimeServiceClient(c).CreateContainer(ctx, &runtimeapi.CreateContainerRequest{}, grpc.Trailer(&trailer))
		return status.Convert(err), trailer
	}
	wantStatus, wantTrailer := create(direct)
	gotStatus, gotTrailer := create(proxied)
	if len(wantStatus.Details()) == 0 {
		t.Fatal("the runtime's error has no details")
	}
	if diff := cmp.Diff(wantStatus.Proto(), gotStatus.Proto(), protocmp.Transform()); diff != "" {
		t.Errorf("status (-direct +proxied):\n%s", diff)
	}
	if diff := cmp.Diff(wantTrailer, gotTrailer); diff != "" {
		t.Errorf("trailers (-direct +proxied):\n%s", diff)
	}
}

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A gate with a fault refuses. The runtime sees at most one call, and neither
// answer nor log quote the request.
func TestGateMisbehaves(t *testing.T) {
	type (
		req  = runtimeapi.PullImageRequest
		resp = runtimeapi.PullImageResponse
	)
	for _, tc := range []struct {
		name  string
		pull  func(context.Context, *req, pullForward) (*resp, error)
		pulls int
		logs  string
	}{
		{"panics before", func(_ context.Context, r *req, _ pullForward) (*resp, error) { panic("oops " + r.Auth.Password) }, 0, "panicked"},
		{"panics with nil", func(context.Context, *req, pullForward) (*resp, error) { panic(nil) }, 0, "panicked"},
		{"dereferences nil", func(context.Context, *req, pullForward) (*resp, error) { var r *req; r.Image = nil; return nil, nil }, 0, "nil pointer"},
		{"panics after", func(ctx context.Context, r *req, f pullForward) (*resp, error) { _, _ = f(ctx, r); panic(r) }, 1, "panicked"},
		{"answers nothing", func(context.Context, *req, pullForward) (*resp, error) { return nil, nil }, 0, "neither"},
		{"forwards nothing", func(ctx context.Context, _ *req, f pullForward) (*resp, error) { return f(ctx, nil) }, 0, ""},
		{"forwards what cannot be encoded", func(ctx context.Context, r *req, f pullForward) (*resp, error) {
			r.Image.Image = "hunter2\xff"
			return f(ctx, r)
		}, 0, ""},
		{"forwards twice", func(ctx context.Context, r *req, f pullForward) (*resp, error) {
			if _, err := f(ctx, r); err != nil {
				return nil, err
			}
			return f(ctx, r)
		}, 1, "more than once"},
		{"forwards twice and hides it", func(ctx context.Context, r *req, f pullForward) (*resp, error) {
			resp, err := f(ctx, r)
			_, _ = f(ctx, r)
			return resp, err
		}, 1, "more than once"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			runtime, log := critest.NewRuntime(0), &lockedBuffer{}
			_, conn, _ := start(t, runtime, criproxy.Options{Gate: &testGate{pull: tc.pull}, Log: slog.New(slog.NewTextHandler(log, nil))})
			_, err := runtimeapi.NewImageServiceClient(conn).PullImage(t.Context(), &req{Image: &runtimeapi.ImageSpec{}, Auth: &runtimeapi.AuthConfig{Password: "hunter2"}})
			words := wantCode(t, err, codes.Internal)
			if got := len(runtime.Pulled()); got != tc.pulls {
				t.Errorf("the runtime was called %d times, want %d", got, tc.pulls)
			}
			if !strings.Contains(log.String(), tc.logs) {
				t.Errorf("the log does not say %q:\n%s", tc.logs, log)
			}
			if strings.Contains(words+log.String(), "hunter2") {
				t.Errorf("answer or log quote the request:\n%s\n%s", words, log)
			}
			if err := version(t.Context(), conn); err != nil {
				t.Errorf("the call after it: %v", err)
			}
		})
	}
}

// What a gate left running must not start what the gate refused.
func TestForwardAfterTheAnswer(t *testing.T) {
	var late pullForward
	g := &testGate{pull: func(_ context.Context, _ *runtimeapi.PullImageRequest, f pullForward) (*runtimeapi.PullImageResponse, error) {
		late = f
		return nil, status.Error(codes.PermissionDenied, "no")
	}}
	runtime := critest.NewRuntime(0)
	_, conn, _ := start(t, runtime, criproxy.Options{Gate: g})
	_, err := runtimeapi.NewImageServiceClient(conn).PullImage(t.Context(), &runtimeapi.PullImageRequest{})
	wantCode(t, err, codes.PermissionDenied)
	_, err = late(t.Context(), &runtimeapi.PullImageRequest{})
	if words := wantCode(t, err, codes.Internal); !strings.Contains(words, "after the gate had answered") {
		t.Errorf("a forward after the answer ended with %q", words)
	}
	if len(runtime.Pulled()) != 0 {
		t.Error("a forward after the answer reached the runtime")
	}
}

// slowPull is a runtime whose pulls last until their caller leaves.
type slowPull struct {
	*critest.Runtime
	begun, ended chan struct{}
}

func (s *slowPull) PullImage(ctx context.Context, _ *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	close(s.begun)
	<-ctx.Done()
	close(s.ended)
	return nil, status.FromContextError(ctx.Err()).Err()
}

// A forwarded call ends with whoever leaves first: the client, although the gate
// gave a context of its own, or the gate.
func TestForwardEnds(t *testing.T) {
	for _, who := range []string{"client", "gate"} {
		t.Run(who, func(t *testing.T) {
			runtime := &slowPull{critest.NewRuntime(0), make(chan struct{}), make(chan struct{})}
			clientCtx, clientLeaves := context.WithCancel(t.Context())
			defer clientLeaves()
			gateCtx, gateLeaves := context.WithCancel(context.Background())
			defer gateLeaves()
			forwarded := make(chan error, 1)
			g := &testGate{pull: func(_ context.Context, req *runtimeapi.PullImageRequest, f pullForward) (*runtimeapi.PullImageResponse, error) {
				resp, err := f(gateCtx, req)
				forwarded <- err
				return resp, err
			}}
			_, conn, _ := start(t, runtime, criproxy.Options{Gate: g})
			go func() {
				<-runtime.begun
				map[string]func(){"client": clientLeaves, "gate": gateLeaves}[who]()
			}()
			_, err := runtimeapi.NewImageServiceClient(conn).PullImage(clientCtx, &runtimeapi.PullImageRequest{})
			wantCode(t, err, codes.Canceled)
			wantCode(t, wait(t, "the forward to return", forwarded), codes.Canceled)
			wait(t, "the runtime's call to end", runtime.ended)
		})
	}
}

// A verification that ran out of its own time must not start what it judged.
func TestForwardWithTheGatesTimeUp(t *testing.T) {
	runtime := critest.NewRuntime(0)
	g := &testGate{pull: func(ctx context.Context, req *runtimeapi.PullImageRequest, f pullForward) (*runtimeapi.PullImageResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, 0)
		defer cancel()
		return f(ctx, req)
	}}
	_, conn, _ := start(t, runtime, criproxy.Options{Gate: g})
	_, err := runtimeapi.NewImageServiceClient(conn).PullImage(t.Context(), &runtimeapi.PullImageRequest{})
	wantCode(t, err, codes.DeadlineExceeded)
	if len(runtime.Pulled()) != 0 {
		t.Error("the pull was forwarded")
	}
}

// wait waits for c to be closed or to have something, but not for ever.
func wait[T any](tb testing.TB, what string, c <-chan T) (v T) {
	tb.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		tb.Fatalf("waited too long for %s", what)
	}
	return v
}
