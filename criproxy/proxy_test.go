package criproxy_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/criproxy/critest"
)

// tempDir is short: a socket's path may have 107 bytes.
func tempDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "cri")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// node is a runtime, or the place for one, with a proxy before it.
type node struct {
	runtimePath, proxyPath string
	proxy                  *criproxy.Proxy
	stop                   context.CancelFunc
	served                 <-chan error // Serve's result
}

func newNode(tb testing.TB) *node {
	tb.Helper()
	dir := tempDir(tb)
	return &node{runtimePath: filepath.Join(dir, "r"), proxyPath: filepath.Join(dir, "p")}
}

// startProxy serves a proxy before a runtime that need not be there yet.
func startProxy(tb testing.TB, o criproxy.Options) *node {
	tb.Helper()
	n := newNode(tb)
	n.startProxy(tb, o)
	return n
}

func (n *node) startProxy(tb testing.TB, o criproxy.Options) {
	tb.Helper()
	o.Endpoint = "unix://" + n.runtimePath
	if o.Gate == nil {
		o.Gate = criproxy.WithoutGateUnsafe()
	}
	var err error
	if n.proxy, err = criproxy.New(o); err != nil {
		tb.Fatal(err)
	}
	l, err := criproxy.Listen(n.proxyPath)
	if err != nil {
		tb.Fatal(err)
	}
	var ctx context.Context
	ctx, n.stop = context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- n.proxy.Serve(ctx, l)
		close(served)
	}()
	n.served = served
	tb.Cleanup(func() {
		n.stop()
		if err := <-served; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
}

// start serves a runtime and a proxy, and returns a connection to each.
func start(tb testing.TB, s critest.Server, o criproxy.Options) (direct, proxied *grpc.ClientConn, n *node) {
	tb.Helper()
	n = newNode(tb)
	critest.Serve(tb, n.runtimePath, s)
	n.startProxy(tb, o)
	return critest.Dial(tb, n.runtimePath), critest.Dial(tb, n.proxyPath), n
}

func TestSameDirectAndProxied(t *testing.T) {
	direct, proxied, _ := start(t, critest.NewRuntime(20), criproxy.Options{})
	critest.Run(t, direct, proxied)
}

func TestNewRefuses(t *testing.T) {
	open := criproxy.WithoutGateUnsafe()
	for name, o := range map[string]criproxy.Options{
		"no gate":           {Endpoint: "/run/r.sock"},
		"no endpoint":       {Gate: open},
		"relative endpoint": {Gate: open, Endpoint: "r.sock"},
		"tcp endpoint":      {Gate: open, Endpoint: "tcp://127.0.0.1:1"},
		"negative drain":    {Gate: open, Endpoint: "/run/r.sock", DrainTimeout: -1},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := criproxy.New(o); err == nil {
				t.Error("New accepted it")
			}
		})
	}
}

func TestServesOnce(t *testing.T) {
	n := startProxy(t, criproxy.Options{Log: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("unix", filepath.Join(tempDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	n.stop()
	if err := <-n.served; err != nil {
		t.Fatal(err)
	}
	if err := n.proxy.Serve(context.Background(), l); err == nil {
		t.Error("a second Serve was accepted")
	}
}

// wantCode checks the code of a call's error and returns its words.
func wantCode(tb testing.TB, err error, want codes.Code) string {
	tb.Helper()
	if got := status.Code(err); got != want {
		tb.Fatalf("code %v, want %v: %v", got, want, err)
	}
	return status.Convert(err).Message()
}

var _ critest.Server = (*critest.Runtime)(nil)

func version(ctx context.Context, c *grpc.ClientConn) error {
	_, err := runtimeapi.NewRuntimeServiceClient(c).Version(ctx, &runtimeapi.VersionRequest{})
	return err
}
