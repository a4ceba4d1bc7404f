package criproxy

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Whatever name comes: what is forwarded ungated is a method of one of the two
// services, is spelled exactly as it goes out, and is no spelling of a gated or
// refused one. All else is Unimplemented.
func FuzzMethodName(f *testing.F) {
	closed, err := newMethodTable(false, true)
	if err != nil {
		f.Fatal(err)
	}
	open, err := newMethodTable(true, true)
	if err != nil {
		f.Fatal(err)
	}
	for full := range closed.known {
		f.Add(full)
		f.Add(strings.ToLower(full))
		f.Add("/" + full)
		f.Add(full + "/")
		f.Add(full[1:])
		f.Add(strings.Replace(full, "v1", "v1alpha2", 1))
	}
	for _, name := range []string{"", "/", "//", "/runtime.v1.ImageService/New_1", "/runtime.v1.RuntimeService/\x00", "/runtime.v1.RuntimeService/ſtart", "/runtime.v1.RuntimeService/CreateContainer\n"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, full string) {
		for _, table := range []*methodTable{closed, open} {
			m, err := table.lookup(full)
			if err != nil {
				if status.Code(err) != codes.Unimplemented {
					t.Errorf("%q: %v", full, err)
				}
				continue
			}
			if m.full != full {
				t.Errorf("%q is forwarded as %q", full, m.full)
			}
			known, ok := table.known[full]
			if ok && known.kind == refused {
				t.Errorf("%q is forwarded", full)
			}
			if !ok && !table.forwardUnknown {
				t.Errorf("%q is forwarded and nobody knows it", full)
			}
			service, name := split(full)
			if service != "runtime.v1.RuntimeService" && service != "runtime.v1.ImageService" {
				t.Errorf("%q reaches the service %q", full, service)
			}
			for _, special := range []string{"CreateContainer", "PullImage", "RestorePod"} {
				if m.kind != gated && strings.EqualFold(name, special) {
					t.Errorf("%q is forwarded unjudged", full)
				}
			}
		}
	})
}

// captured is the server's side of a call that has no connection.
type captured struct {
	grpc.ServerStream
	ctx context.Context
}

func (c captured) Context() context.Context { return c.ctx }

func (captured) SetHeader(metadata.MD) error { return nil }
func (captured) SetTrailer(metadata.MD)      {}
func (captured) SendMsg(any) error           { return nil }

// Whatever bytes come for a gated method: the gate is not asked, or what is
// encoded after it is what it saw, with nothing that a second parser could read
// in another way.
func FuzzJudgedIsForwarded(f *testing.F) {
	for _, m := range []proto.Message{
		&runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "app:1", Annotations: map[string]string{"a": "b"}}, Auth: &runtimeapi.AuthConfig{Username: "u", Password: "p"}},
		&runtimeapi.CreateContainerRequest{PodSandboxId: "p", Config: &runtimeapi.ContainerConfig{Image: &runtimeapi.ImageSpec{Image: "sha256:1"}, Mounts: []*runtimeapi.Mount{{Image: &runtimeapi.ImageSpec{Image: "vol"}}}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(append([]byte(nil), b...), b...)) // every singular field twice
		f.Add(append([]byte{0xfa, 0x7f, 0x03, 'n', 'e', 'w'}, b...))
		f.Add(b[:len(b)-1])
	}
	f.Add([]byte{0x0b, 0x0a, 0x00, 0x0c})
	p, err := New(Options{Endpoint: "/nowhere", Gate: WithoutGateUnsafe()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		judgeBytes[runtimeapi.PullImageRequest, runtimeapi.PullImageResponse](t, p, body)
		judgeBytes[runtimeapi.CreateContainerRequest, runtimeapi.CreateContainerResponse](t, p, body)
	})
}

func judgeBytes[Q, R any, Req message[Q], Resp message[R]](t *testing.T, p *Proxy, body []byte) {
	var saw proto.Message
	gate := func(_ context.Context, req Req, _ Forward[Req, Resp]) (Resp, error) {
		saw = req
		return Resp(new(R)), nil
	}
	err := ask[Q, R, Req, Resp](p, captured{ctx: t.Context()}, method{full: "/f"}, frameOf(body), gate)
	if (err == nil) != (saw != nil) {
		t.Fatalf("the gate saw %v and the call ended with %v", saw, err)
	}
	if err != nil {
		return
	}
	out, err := encode(saw)
	if err != nil {
		t.Fatalf("what was judged cannot be encoded: %v", err)
	}
	again := Req(new(Q))
	if err := decode(out, again); err != nil {
		t.Fatalf("what was encoded cannot be decoded: %v", err)
	}
	if !proto.Equal(saw, again) {
		t.Errorf("the gate saw %v, the runtime reads %v", saw, again)
	}
	if n, m := proto.Size(again), out.data.Len(); n != m {
		t.Errorf("%d bytes were encoded of a message of %d: something is in it twice", m, n)
	}
}
