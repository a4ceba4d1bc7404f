// Package nodetest is a containerd for tests of what asks one: its image, content and event
// services, and the CRI image calls as its CRI plugin answers them, served on a unix socket in
// process.
//
// Content is kept by containerd's own store. The image records and the events are kept in memory
// by the rules of containerd's metadata store. The CRI plugin's view is a copy of the records,
// brought up to date at each change, which can be made to lag as it can in
// the real one.
package nodetest

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Namespace is where the records are kept, as CRI's are.
const Namespace = "k8s.io"

// Runtime is the runtime. Its exported fields may be set before Serve.
type Runtime struct {
	// Name is what Version answers; "containerd" if empty.
	Name string
	// HoldSubscriptions, if not nil, keeps the event service from taking
	// subscriptions until it is closed: the stream is open and nothing is sent on it.
	HoldSubscriptions chan struct{}
	// Annotations are what ImageStatus tells about every image, as CRI-O does.
	Annotations map[string]string

	path   string
	blobs  content.Store
	events exchange

	mu      sync.Mutex
	server  *grpc.Server
	records map[string]*imagesapi.Image
	view    map[string]string // the CRI plugin's: name to image ID
	lagging bool
	calls   map[string]int

	sandboxes Sandboxes
}

// New returns a runtime that is not served yet.
func New(t testing.TB) *Runtime {
	t.Helper()
	dir := t.TempDir()
	blobs, err := local.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		t.Fatal(err)
	}
	return &Runtime{
		path:    filepath.Join(dir, "s"),
		blobs:   blobs,
		records: map[string]*imagesapi.Image{},
		view:    map[string]string{},
		calls:   map[string]int{},
	}
}

// Serve serves the runtime until Stop or the end of the test.
func (r *Runtime) Serve(t testing.TB) {
	t.Helper()
	l, err := net.Listen("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		r.count(info.FullMethod)
		return handle(ctx, req)
	}), grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		r.count(info.FullMethod)
		return handle(srv, stream)
	}))
	imagesapi.RegisterImagesServer(s, imageStore{r: r})
	contentapi.RegisterContentServer(s, contentserver.New(r.blobs))
	eventsapi.RegisterEventsServer(s, eventService{r: r})
	runtimeapi.RegisterRuntimeServiceServer(s, runtimeService{r: r})
	runtimeapi.RegisterImageServiceServer(s, imageService{r: r})
	r.mu.Lock()
	r.server = s
	r.mu.Unlock()
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
}

// Stop ends the server and every stream. Serve may be called again.
func (r *Runtime) Stop() {
	r.mu.Lock()
	s := r.server
	r.mu.Unlock()
	s.Stop()
}

// Dial returns a connection to the runtime, which is made when first used.
func (r *Runtime) Dial(t testing.TB) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+r.path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 5 * time.Second, Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (r *Runtime) count(method string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls[filepath.Base(method)]++
}

// Calls is how often a method, such as "ImageStatus", was called.
func (r *Runtime) Calls(method string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls[method]
}
