package criproxy_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/criproxy/critest"
)

// bytesCodec sends and receives *[]byte as they are, under a name of choice.
type bytesCodec string

func (c bytesCodec) Name() string { return string(c) }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// seen is a call that arrived at a rawRuntime.
type seen struct {
	method   string
	requests [][]byte
	md       metadata.MD
}

// rawRuntime is a runtime of any version: it takes whatever bytes come for
// whatever method, as a stream, and answers each call with the same messages.
type rawRuntime struct {
	answer [][]byte
	err    error

	mu    sync.Mutex
	calls []seen
}

func (r *rawRuntime) serve(tb testing.TB, path string) {
	tb.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	srv := grpc.NewServer(grpc.UnknownServiceHandler(r.handle), grpc.ForceServerCodecV2(bytesCodec("proto")), grpc.MaxRecvMsgSize(128<<20))
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	tb.Cleanup(func() {
		srv.Stop()
		<-done
	})
}

func (r *rawRuntime) handle(_ any, ss grpc.ServerStream) error {
	c := seen{}
	c.method, _ = grpc.MethodFromServerStream(ss)
	c.md, _ = metadata.FromIncomingContext(ss.Context())
	for {
		var req []byte
		err := ss.RecvMsg(&req)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		c.requests = append(c.requests, req)
	}
	r.mu.Lock()
	r.calls = append(r.calls, c)
	r.mu.Unlock()
	for _, resp := range r.answer {
		if err := ss.SendMsg(&resp); err != nil {
			return err
		}
	}
	return r.err
}

// take returns the calls that arrived and forgets them.
func (r *rawRuntime) take() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

// startRaw serves a rawRuntime behind a proxy and returns a connection to the
// latter that carries bytes.
func startRaw(tb testing.TB, r *rawRuntime, o criproxy.Options) *grpc.ClientConn {
	tb.Helper()
	n := newNode(tb)
	r.serve(tb, n.runtimePath)
	n.startProxy(tb, o)
	return critest.Dial(tb, n.proxyPath, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec("proto"))))
}

// send makes a call with any number of request messages and returns all responses.
func send(ctx context.Context, c *grpc.ClientConn, method string, reqs [][]byte, opts ...grpc.CallOption) ([][]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cs, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, opts...)
	if err != nil {
		return nil, err
	}
	for _, req := range reqs {
		if err := cs.SendMsg(&req); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	if err := cs.CloseSend(); err != nil {
		return nil, err
	}
	var resps [][]byte
	for {
		var resp []byte
		if err := cs.RecvMsg(&resp); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return resps, err
		}
		resps = append(resps, resp)
	}
}

// Encodings that a decoder would not give back as they were, or at all.
var strange = map[string][]byte{
	"empty":                         {},
	"newer field":                   {0xfa, 0x7f, 0x03, 'n', 'e', 'w'}, // field 2047
	"singular field twice":          {0x0a, 0x01, 'a', 0x0a, 0x01, 'b'},
	"overlong varint":               {0x0a, 0x81, 0x80, 0x00, 'a'},
	"not protobuf":                  {0xff, 0xff, 0xff},
	"larger than a pooled buffer":   bytes.Repeat([]byte{0x0a, 0x01, 'a'}, 20_000),
	"larger than the flow's window": bytes.Repeat([]byte{0x0a, 0x01, 'a'}, 2_000_000),
}

func TestBytesAreUntouched(t *testing.T) {
	for name, b := range strange {
		t.Run(name, func(t *testing.T) {
			r := &rawRuntime{answer: [][]byte{b}}
			conn := startRaw(t, r, criproxy.Options{})
			for _, method := range []string{"/runtime.v1.RuntimeService/Version", "/runtime.v1.RuntimeService/StreamContainers", "/runtime.v1.ImageService/ListImages"} {
				got, err := send(t.Context(), conn, method, [][]byte{b})
				if err != nil {
					t.Fatalf("%s: %v", method, err)
				}
				if len(got) != 1 || !bytes.Equal(got[0], b) {
					t.Errorf("%s: the answer of %d bytes changed on its way", method, len(b))
				}
				calls := r.take()
				if len(calls) != 1 || calls[0].method != method || len(calls[0].requests) != 1 || !bytes.Equal(calls[0].requests[0], b) {
					t.Errorf("%s: the request of %d bytes changed on its way", method, len(b))
				}
			}
		})
	}
}

// A call returned another's bytes, or freed ones, if references to pooled
// buffers were counted wrongly.
func TestBuffersAreNotMixedUp(t *testing.T) {
	n := newNode(t)
	l, err := net.Listen("unix", n.runtimePath)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.ForceServerCodecV2(bytesCodec("proto")), grpc.UnknownServiceHandler(func(_ any, ss grpc.ServerStream) error {
		var b []byte
		if err := ss.RecvMsg(&b); err != nil {
			return err
		}
		return ss.SendMsg(&b)
	}))
	go srv.Serve(l) //nolint:errcheck // ends with Stop
	t.Cleanup(srv.Stop)
	n.startProxy(t, criproxy.Options{})
	conn := critest.Dial(t, n.proxyPath, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec("proto"))))

	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				want := bytes.Repeat([]byte(fmt.Sprintf("%d/%d ", i, j)), 1+j*401)
				method := []string{"/runtime.v1.RuntimeService/ExecSync", "/runtime.v1.RuntimeService/StreamContainers"}[j%2]
				got, err := send(t.Context(), conn, method, [][]byte{want})
				if err != nil || len(got) != 1 || !bytes.Equal(got[0], want) {
					t.Errorf("call %d/%d of %d bytes came back different (%v)", i, j, len(want), err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestUnknownMethods(t *testing.T) {
	req := [][]byte{{0xff, 0x00}}
	answer := [][]byte{{1}, {2}}
	for _, tc := range []struct {
		name, method         string
		whenNot, whenForward codes.Code
		words                string
	}{
		{"newer method", "/runtime.v1.RuntimeService/ThawPod", codes.Unimplemented, codes.OK, "unknown method ThawPod for service runtime.v1.RuntimeService"},
		{"newer image method", "/runtime.v1.ImageService/MountImage", codes.Unimplemented, codes.OK, "unknown method MountImage for service runtime.v1.ImageService"},
		{"RestorePod", "/runtime.v1.RuntimeService/RestorePod", codes.Unimplemented, codes.Unimplemented, "unknown method RestorePod for service runtime.v1.RuntimeService"},
		{"RestorePod in lower case", "/runtime.v1.RuntimeService/restorepod", codes.Unimplemented, codes.Unimplemented, ""},
		{"RestorePod of the other service", "/runtime.v1.ImageService/RestorePod", codes.Unimplemented, codes.Unimplemented, ""},
		{"gated method in another case", "/runtime.v1.RuntimeService/createContainer", codes.Unimplemented, codes.Unimplemented, ""},
		{"gated method of the other service", "/runtime.v1.ImageService/CreateContainer", codes.Unimplemented, codes.Unimplemented, ""},
		{"pull of the other service", "/runtime.v1.RuntimeService/PullImage", codes.Unimplemented, codes.Unimplemented, ""},
		{"doubled slash", "//runtime.v1.RuntimeService/CreateContainer", codes.Unimplemented, codes.Unimplemented, "unknown service /runtime.v1.RuntimeService"},
		{"doubled inner slash", "/runtime.v1.RuntimeService//CreateContainer", codes.Unimplemented, codes.Unimplemented, ""},
		{"trailing slash", "/runtime.v1.RuntimeService/CreateContainer/", codes.Unimplemented, codes.Unimplemented, ""},
		{"query", "/runtime.v1.RuntimeService/CreateContainer?", codes.Unimplemented, codes.Unimplemented, ""},
		{"percent sign", "/runtime.v1.RuntimeService/Create%43ontainer", codes.Unimplemented, codes.Unimplemented, ""},
		{"dot segments", "/runtime.v1.RuntimeService/x/../CreateContainer", codes.Unimplemented, codes.Unimplemented, ""},
		{"trailing space", "/runtime.v1.RuntimeService/CreateContainer ", codes.Unimplemented, codes.Unimplemented, ""},
		{"no method", "/runtime.v1.RuntimeService/", codes.Unimplemented, codes.Unimplemented, ""},
		{"service in another case", "/runtime.v1.runtimeservice/CreateContainer", codes.Unimplemented, codes.Unimplemented, ""},
		{"older version", "/runtime.v1alpha2.RuntimeService/CreateContainer", codes.Unimplemented, codes.Unimplemented, "unknown service runtime.v1alpha2.RuntimeService"},
		{"containerd's own API", "/containerd.services.containers.v1.Containers/Create", codes.Unimplemented, codes.Unimplemented, "unknown service containerd.services.containers.v1.Containers"},
		{"reflection", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", codes.Unimplemented, codes.Unimplemented, ""},
	} {
		for _, forward := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, forwarding %v", tc.name, forward), func(t *testing.T) {
				r := &rawRuntime{answer: answer}
				conn := startRaw(t, r, criproxy.Options{ForwardUnknownMethods: forward})
				got, err := send(t.Context(), conn, tc.method, req)
				want := tc.whenNot
				if forward {
					want = tc.whenForward
				}
				words := wantCode(t, err, want)
				calls := r.take()
				if want == codes.OK {
					if len(calls) != 1 || !slices.EqualFunc(calls[0].requests, req, bytes.Equal) || !slices.EqualFunc(got, answer, bytes.Equal) {
						t.Errorf("sent %v, runtime got %v, came back %v", req, calls, got)
					}
					return
				}
				if len(calls) != 0 {
					t.Errorf("the runtime got %v", calls)
				}
				if tc.words != "" && words != tc.words {
					t.Errorf("answered %q, want %q", words, tc.words)
				}
			})
		}
	}
}

// A stock server is asked for what it does not have, to compare the words.
func TestUnknownLikeStockServer(t *testing.T) {
	direct, proxied, _ := start(t, critest.NewRuntime(0), criproxy.Options{})
	for _, method := range []string{"/runtime.v1.RuntimeService/ThawPod", "/runtime.v1.Other/Version", "/runtime.v1.RuntimeService/", "//runtime.v1.ImageService/PullImage", "/a/b/c", "nothing"} {
		var none []byte
		codec := grpc.ForceCodecV2(bytesCodec("proto"))
		want := direct.Invoke(t.Context(), method, &none, &none, codec)
		got := proxied.Invoke(t.Context(), method, &none, &none, codec)
		if want == nil || got == nil || got.Error() != want.Error() {
			t.Errorf("%s: %v, directly %v", method, got, want)
		}
	}
}

func TestOneRequestPerCall(t *testing.T) {
	for _, method := range []string{
		"/runtime.v1.RuntimeService/Version", "/runtime.v1.RuntimeService/StreamContainers",
		"/runtime.v1.RuntimeService/CreateContainer", "/runtime.v1.ImageService/PullImage", "/runtime.v1.RuntimeService/ThawPod",
	} {
		for name, reqs := range map[string][][]byte{"none": nil, "two": {{}, {}}, "many": make([][]byte, 100)} {
			t.Run(method+" "+name, func(t *testing.T) {
				r := &rawRuntime{answer: [][]byte{{}}}
				conn := startRaw(t, r, criproxy.Options{ForwardUnknownMethods: true})
				_, err := send(t.Context(), conn, method, reqs)
				wantCode(t, err, codes.Internal)
				if calls := r.take(); len(calls) != 0 {
					t.Errorf("the runtime got %v", calls)
				}
			})
		}
	}
}

// What belongs to the client's connection is not repeated on the runtime's, and
// everything else is.
func TestMetadataToTheRuntime(t *testing.T) {
	r := &rawRuntime{answer: [][]byte{{}}}
	conn := startRaw(t, r, criproxy.Options{})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "a-key", "1", "a-key", "2", "raw-bin", "\x00\xfe", "grpc-trace-bin", "\x01", "grpc-accept-encoding", "magic")
	for _, method := range []string{"/runtime.v1.RuntimeService/Version", "/runtime.v1.RuntimeService/GetContainerEvents", "/runtime.v1.ImageService/PullImage"} {
		if _, err := send(ctx, conn, method, [][]byte{{}}); err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		md := r.take()[0].md
		for k, want := range map[string][]string{"a-key": {"1", "2"}, "raw-bin": {"\x00\xfe"}, "grpc-trace-bin": {"\x01"}, ":authority": {"localhost"}, "content-type": {"application/grpc+proto"}, "grpc-accept-encoding": {"gzip"}} {
			if got := md.Get(k); !slices.Equal(got, want) {
				t.Errorf("%s: the runtime saw %s: %q, want %q", method, k, got, want)
			}
		}
	}
}
