package criproxy_test

import (
	"bytes"
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/criproxy/critest"
)

// deadlineRuntime tells of the deadlines and ends of the calls that it gets.
type deadlineRuntime struct {
	*critest.Runtime
	deadline chan time.Time
	ended    chan struct{}
}

func (r *deadlineRuntime) ExecSync(ctx context.Context, _ *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	return nil, r.wait(ctx)
}

func (r *deadlineRuntime) GetContainerEvents(_ *runtimeapi.GetEventsRequest, s grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	return r.wait(s.Context())
}

func (r *deadlineRuntime) wait(ctx context.Context) error {
	d, _ := ctx.Deadline()
	r.deadline <- d
	<-ctx.Done()
	r.ended <- struct{}{}
	return status.FromContextError(ctx.Err()).Err()
}

// Deadline and departure of the client reach the runtime.
func TestDeadlineAndCancel(t *testing.T) {
	runtime := &deadlineRuntime{critest.NewRuntime(0), make(chan time.Time, 1), make(chan struct{}, 1)}
	_, conn, _ := start(t, runtime, criproxy.Options{})
	client := runtimeapi.NewRuntimeServiceClient(conn)
	for name, call := range map[string]func(context.Context) error{
		"unary": func(ctx context.Context) error {
			_, err := client.ExecSync(ctx, &runtimeapi.ExecSyncRequest{})
			return err
		},
		"stream": func(ctx context.Context) error {
			s, err := client.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
	} {
		t.Run(name+", cancelled", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- call(ctx) }()
			if d := time.Until(wait(t, "the deadline", runtime.deadline)); d < 50*time.Minute || d > time.Hour {
				t.Errorf("a deadline in 1h reached the runtime as one in %v", d)
			}
			cancel()
			wait(t, "the runtime's call to end", runtime.ended)
			wantCode(t, wait(t, "the call to end", done), codes.Canceled)
		})
		t.Run(name+", without deadline", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go call(ctx) //nolint:errcheck // seen above
			if d := wait(t, "the deadline", runtime.deadline); !d.IsZero() {
				t.Errorf("the runtime got a deadline that nobody set: %v", d)
			}
			cancel()
			wait(t, "the runtime's call to end", runtime.ended)
		})
		t.Run(name+", timed out", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			wantCode(t, call(ctx), codes.DeadlineExceeded)
			wait(t, "the deadline", runtime.deadline)
			wait(t, "the runtime's call to end", runtime.ended)
		})
	}
}

// Headers of a stream come before there is a message; messages come one by one.
func TestStreamIsNotHeldBack(t *testing.T) {
	next := make(chan string)
	runtime := &steppedRuntime{critest.NewRuntime(0), next}
	_, conn, _ := start(t, runtime, criproxy.Options{})
	events, err := runtimeapi.NewRuntimeServiceClient(conn).GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	header, err := events.Header()
	if err != nil || !cmp.Equal(header.Get("step"), []string{"0"}) {
		t.Fatalf("headers %v, %v", header, err)
	}
	for _, id := range []string{"a", "b"} {
		next <- id
		ev, err := events.Recv()
		if err != nil || ev.ContainerId != id {
			t.Fatalf("got %v, %v; want %s", ev, err, id)
		}
	}
	close(next)
	if _, err := events.Recv(); err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
	if got := events.Trailer().Get("last"); !cmp.Equal(got, []string{"1"}) {
		t.Errorf("trailers %v", events.Trailer())
	}
}

type steppedRuntime struct {
	*critest.Runtime
	next chan string
}

func (r *steppedRuntime) GetContainerEvents(_ *runtimeapi.GetEventsRequest, s grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	if err := s.SendHeader(metadata.Pairs("step", "0")); err != nil {
		return err
	}
	s.SetTrailer(metadata.Pairs("last", "1"))
	for id := range r.next {
		if err := s.Send(&runtimeapi.ContainerEventResponse{ContainerId: id}); err != nil {
			return err
		}
	}
	return nil
}

func TestMessageSize(t *testing.T) {
	const limit = 64 << 20
	full, over := make([]byte, limit), make([]byte, limit+1)
	const method = "/runtime.v1.RuntimeService/ExecSync"
	for _, tc := range []struct {
		name      string
		req, resp []byte
		opts      []grpc.CallOption
		method    string
		want      codes.Code
		reaches   bool
	}{
		{name: "largest request", req: full, method: method, reaches: true},
		{name: "largest response", resp: full, method: method, reaches: true},
		{name: "request too large", req: over, method: method, want: codes.ResourceExhausted},
		{name: "response too large", resp: over, method: method, want: codes.ResourceExhausted, reaches: true},
		{name: "request too large once unpacked", req: over, opts: []grpc.CallOption{grpc.UseCompressor("gzip")}, method: pullMethod, want: codes.ResourceExhausted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &rawRuntime{answer: [][]byte{tc.resp}}
			conn := startRaw(t, r, criproxy.Options{})
			got, err := send(t.Context(), conn, tc.method, [][]byte{tc.req}, tc.opts...)
			wantCode(t, err, tc.want)
			if calls := r.take(); (len(calls) == 1) != tc.reaches {
				t.Errorf("the runtime was called %d times", len(calls))
			}
			if tc.want == codes.OK && (len(got) != 1 || !bytes.Equal(got[0], tc.resp)) {
				t.Error("the response changed on its way")
			}
		})
	}
}

func TestForwardedIsTold(t *testing.T) {
	var mu sync.Mutex
	var got []criproxy.Call
	o := criproxy.Options{
		ForwardUnknownMethods: true,
		Forwarded: func(c criproxy.Call) {
			mu.Lock()
			defer mu.Unlock()
			if c.Duration <= 0 {
				t.Errorf("%s took %v", c.Method, c.Duration)
			}
			c.Duration = 0
			got = append(got, c)
		},
		Gate: &testGate{create: func(context.Context, *runtimeapi.CreateContainerRequest, createForward) (*runtimeapi.CreateContainerResponse, error) {
			return nil, status.Error(codes.Unknown, "refused")
		}},
	}
	_, conn, _ := start(t, critest.NewRuntime(1), o)
	for _, method := range []string{
		"/runtime.v1.RuntimeService/Version", "/runtime.v1.RuntimeService/ContainerStatus", "/runtime.v1.RuntimeService/StreamContainers",
		createMethod, pullMethod, "/runtime.v1.RuntimeService/ThawPod", "/runtime.v1.RuntimeService/RestorePod", "/other.Service/X",
	} {
		// What each ends with is in what was told.
		_, _ = send(t.Context(), conn, method, [][]byte{{}}, grpc.ForceCodecV2(bytesCodec("proto")))
	}
	want := []criproxy.Call{
		{Method: "/runtime.v1.RuntimeService/Version", Code: codes.OK},
		{Method: "/runtime.v1.RuntimeService/ContainerStatus", Code: codes.NotFound},
		{Method: "/runtime.v1.RuntimeService/StreamContainers", Stream: true, Code: codes.OK},
		{Method: pullMethod, Code: codes.OK},
		{Method: "/runtime.v1.RuntimeService/unknown", Stream: true, Code: codes.Unimplemented},
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
