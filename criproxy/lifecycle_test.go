package criproxy_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/criproxy/critest"
)

// eventually waits for cond to hold, but not for ever.
func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			tb.Fatalf("waited too long until %s", what)
		}
		time.Sleep(time.Millisecond) // between two looks at the condition
	}
}

// A runtime that is down at the start, comes, goes and comes again. Nobody calls
// when it goes: the proxy must try to reconnect by itself.
func TestRuntimeComesAndGoes(t *testing.T) {
	var log lines
	n := startProxy(t, criproxy.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	conn := critest.Dial(t, n.proxyPath)

	words := wantCode(t, version(t.Context(), conn), codes.Unavailable)
	if !strings.Contains(words, n.runtimePath) {
		t.Errorf("%q does not name the runtime's socket", words)
	}
	if s := n.proxy.RuntimeState(); s == connectivity.Ready {
		t.Errorf("without a runtime its state is %v", s)
	}

	eventually(t, "it is logged that there is no runtime", func() bool { return log.count("cannot be reached") == 1 })

	srv := critest.Serve(t, n.runtimePath, critest.NewRuntime(0))
	eventually(t, "calls reach the runtime", func() bool { return version(t.Context(), conn) == nil })

	srv.Stop()
	eventually(t, "the loss is seen", func() bool { return n.proxy.RuntimeState() != connectivity.Ready })
	hangUp(t, n.runtimePath, 8)
	wantCode(t, version(t.Context(), conn), codes.Unavailable)
	critest.Serve(t, n.runtimePath, critest.NewRuntime(0))
	eventually(t, "the runtime is back", func() bool { return n.proxy.RuntimeState() == connectivity.Ready })
	if err := version(t.Context(), conn); err != nil {
		t.Error(err)
	}
	eventually(t, "each change is logged", func() bool {
		return log.count("cannot be reached") == 2 && log.count("connected to the container runtime") == 2
	})
}

// lines is a log that counts.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), words)
}

// What is not served is told once, however often it is called.
func TestUnservedMethodIsLoggedOnce(t *testing.T) {
	var log lines
	_, conn, _ := start(t, critest.NewRuntime(0), criproxy.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	for range 5 {
		_, err := send(t.Context(), conn, "/other.Service/X", [][]byte{{}}, grpc.ForceCodecV2(bytesCodec("proto")))
		wantCode(t, err, codes.Unimplemented)
	}
	if n := log.count("/other.Service/X"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

// hangUp listens on path and hangs up on so many attempts to connect. With
// gRPC's default back-off eight of them take over 40 s, longer than this waits.
func hangUp(t *testing.T, path string, attempts int) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.(*net.UnixListener).SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for i := range attempts {
		c, err := l.Accept()
		if err != nil {
			t.Fatalf("waiting for attempt %d to reconnect: %v", i+1, err)
		}
		c.Close()
	}
}

// A runtime that dies during a call: the client gets what it would get directly.
func TestRuntimeDiesDuringCall(t *testing.T) {
	runtime := &slowPull{critest.NewRuntime(0), make(chan struct{}), make(chan struct{})}
	n := newNode(t)
	srv := critest.Serve(t, n.runtimePath, runtime)
	n.startProxy(t, criproxy.Options{})
	go func() {
		<-runtime.begun
		srv.Stop()
	}()
	_, err := runtimeapi.NewImageServiceClient(critest.Dial(t, n.proxyPath)).PullImage(t.Context(), &runtimeapi.PullImageRequest{})
	wantCode(t, err, codes.Unavailable)
}

// gatedRuntime is a runtime whose StopContainer waits to be let go.
type gatedRuntime struct {
	*critest.Runtime
	begun, release chan struct{}
}

func (r *gatedRuntime) StopContainer(ctx context.Context, _ *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	close(r.begun)
	select {
	case <-r.release:
		return &runtimeapi.StopContainerResponse{}, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func newGatedRuntime() *gatedRuntime {
	return &gatedRuntime{critest.NewRuntime(0), make(chan struct{}), make(chan struct{})}
}

// stopContainer makes the call in the background.
func stopContainer(t *testing.T, conn *grpc.ClientConn) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := runtimeapi.NewRuntimeServiceClient(conn).StopContainer(t.Context(), &runtimeapi.StopContainerRequest{})
		done <- err
	}()
	return done
}

func TestStopEndsStreamsAndWaitsForCalls(t *testing.T) {
	runtime := newGatedRuntime()
	_, conn, n := start(t, runtime, criproxy.Options{})
	events, err := runtimeapi.NewRuntimeServiceClient(conn).GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil {
		t.Fatal(err)
	}
	call := stopContainer(t, conn)
	wait(t, "the call to reach the runtime", runtime.begun)

	n.stop()
	_, err = events.Recv()
	if words := wantCode(t, err, codes.Unavailable); words != "cosentry is shutting down" {
		t.Errorf("the stream ended with %q", words)
	}
	eventually(t, "new connections are refused", func() bool {
		c, err := net.Dial("unix", n.proxyPath)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	select {
	case err := <-n.served:
		t.Fatalf("Serve returned %v before the call had ended", err)
	case err := <-call:
		t.Fatalf("the call ended before the runtime had answered: %v", err)
	default:
	}
	close(runtime.release)
	if err := wait(t, "the call to end", call); err != nil {
		t.Errorf("the call that was running ended with %v", err)
	}
	if err := wait(t, "Serve to return", n.served); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestStopIsBounded(t *testing.T) {
	runtime := newGatedRuntime()
	_, conn, n := start(t, runtime, criproxy.Options{DrainTimeout: 10 * time.Millisecond})
	call := stopContainer(t, conn)
	wait(t, "the call to reach the runtime", runtime.begun)
	n.stop()
	if err := wait(t, "Serve to return", n.served); err != nil {
		t.Errorf("Serve: %v", err)
	}
	wantCode(t, wait(t, "the call to end", call), codes.Unavailable)
}

// A gate that does not end when it should must not hold up the stop for ever.
func TestStopLeavesStuckGateBehind(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	g := &testGate{pull: func(context.Context, *runtimeapi.PullImageRequest, pullForward) (*runtimeapi.PullImageResponse, error) {
		close(begun)
		<-release
		return nil, status.Error(codes.Unknown, "late")
	}}
	_, conn, n := start(t, critest.NewRuntime(0), criproxy.Options{Gate: g, DrainTimeout: time.Millisecond})
	go runtimeapi.NewImageServiceClient(conn).PullImage(t.Context(), &runtimeapi.PullImageRequest{}) //nolint:errcheck // it is cut off
	wait(t, "the gate to be asked", begun)
	n.stop()
	if err := wait(t, "Serve to return", n.served); err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestStopWithIdleClient(t *testing.T) {
	_, conn, n := start(t, critest.NewRuntime(0), criproxy.Options{})
	if err := version(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	n.stop()
	if err := wait(t, "Serve to return", n.served); err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := os.Lstat(n.proxyPath); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket file is still there (%v)", err)
	}
}
