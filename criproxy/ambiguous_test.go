package criproxy_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/criproxy"
)

func str(num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, num, protowire.BytesType), s)
}

func sub(num protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), bytes.Join(parts, nil))
}

// Bytes that two parsers may read as different requests. Fields: image 1 of
// PullImageRequest, image 1 of ImageSpec; pod_sandbox_id 1 and config 2 of
// CreateContainerRequest, image 2 of ContainerConfig.
var ambiguous = []struct {
	name, method string
	body         []byte
}{
	{"image twice, last one wins or they merge", pullMethod, append(sub(1, str(1, "good")), sub(1, str(1, "evil"))...)},
	{"name of the image twice", pullMethod, sub(1, str(1, "good"), str(1, "evil"))},
	{"image in halves", pullMethod, append(sub(1, str(1, "good")), sub(1, str(18, "evil"))...)},
	{"image empty at last", pullMethod, append(sub(1, str(1, "evil")), sub(1)...)},
	{"unknown field first", pullMethod, append(str(2047, "new"), sub(1, str(1, "good"))...)},
	{"image as a number, as an older or newer proto might have it", pullMethod, append(protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 7), sub(1, str(1, "evil"))...)},
	{"image as a group", pullMethod, append(append(protowire.AppendTag(nil, 1, protowire.StartGroupType), append(str(1, "evil"), protowire.AppendTag(nil, 1, protowire.EndGroupType)...)...), sub(1, str(1, "good"))...)},
	{"overlong tag", pullMethod, append([]byte{0x8a, 0x80, 0x00}, sub(1, str(1, "evil"))[1:]...)},
	{"config twice", createMethod, bytes.Join([][]byte{str(1, "p"), sub(2, sub(2, str(1, "good"))), sub(2, sub(2, str(1, "evil")))}, nil)},
	{"config in halves", createMethod, bytes.Join([][]byte{sub(2, sub(2, str(1, "good"))), str(1, "p"), sub(2, sub(1, str(1, "name")))}, nil)},
	{"two mounts", createMethod, bytes.Join([][]byte{str(1, "p"), sub(2, sub(8, str(1, "/a")), sub(8, str(1, "/b")))}, nil)},
}

func newRequest(method string) proto.Message {
	if method == pullMethod {
		return &runtimeapi.PullImageRequest{}
	}
	return &runtimeapi.CreateContainerRequest{}
}

func TestRuntimeReadsWhatTheGateSaw(t *testing.T) {
	for _, tc := range ambiguous {
		for _, compressed := range []bool{false, true} {
			name := tc.name
			var opts []grpc.CallOption
			if compressed {
				// The compressor is registered by the proxy; these tests do not
				// import it, so that they fail if the proxy did not.
				name += ", compressed"
				opts = append(opts, grpc.UseCompressor("gzip"))
			}
			t.Run(name, func(t *testing.T) {
				r, g := &rawRuntime{answer: [][]byte{{}}}, &testGate{}
				conn := startRaw(t, r, criproxy.Options{Gate: g})
				_, err := send(t.Context(), conn, tc.method, [][]byte{tc.body}, opts...)
				calls, asked := r.take(), g.asked()
				if err != nil {
					t.Fatal(err)
				}
				if len(calls) != 1 || len(asked) != 1 {
					t.Fatalf("the runtime was called %d times, the gate asked %d times", len(calls), len(asked))
				}
				got := newRequest(tc.method)
				if err := proto.Unmarshal(calls[0].requests[0], got); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(asked[0], got, protocmp.Transform()); diff != "" {
					t.Errorf("judged and forwarded differ (-gate +runtime):\n%s", diff)
				}
				// No singular field may be there twice: whatever rule another
				// parser has for that, it must find nothing to apply it to.
				if again, err := proto.Marshal(got); err != nil || len(again) != len(calls[0].requests[0]) {
					t.Errorf("forwarded %d bytes for a request of %d (%v)", len(calls[0].requests[0]), len(again), err)
				}
			})
		}
	}
}

// Fields that the vendored API does not know pass the gate in both directions,
// wherever they are.
func TestNewerFieldsPassTheGate(t *testing.T) {
	newer := str(2047, "new")
	for method, tc := range map[string]struct{ req, resp []byte }{
		pullMethod:   {append(sub(1, str(1, "app"), newer), newer...), append(str(1, "sha256:1"), newer...)},
		createMethod: {append(sub(2, sub(2, str(1, "app"), newer), newer), newer...), append(str(1, "id"), newer...)},
	} {
		r := &rawRuntime{answer: [][]byte{tc.resp}}
		conn := startRaw(t, r, criproxy.Options{})
		got, err := send(t.Context(), conn, method, [][]byte{tc.req})
		if err != nil {
			t.Fatal(err)
		}
		if calls := r.take(); len(calls) != 1 || !bytes.Equal(calls[0].requests[0], tc.req) {
			t.Errorf("%s: sent %q, the runtime got %v", method, tc.req, calls)
		}
		if len(got) != 1 || !bytes.Equal(got[0], tc.resp) {
			t.Errorf("%s: the runtime answered %q, the client got %q", method, tc.resp, got)
		}
	}
}

// A codec's name in the content type must not lead round the gate.
func TestContentTypesAreJudged(t *testing.T) {
	for _, codec := range []bytesCodec{"proto", "PROTO", "json", "evil+proto"} {
		t.Run(string(codec), func(t *testing.T) {
			r, g := &rawRuntime{answer: [][]byte{{}}}, &testGate{}
			conn := startRaw(t, r, criproxy.Options{Gate: g})
			_, err := send(t.Context(), conn, pullMethod, [][]byte{sub(1, str(1, "app"))}, grpc.ForceCodecV2(codec))
			if err != nil {
				t.Fatal(err)
			}
			if calls := r.take(); len(calls) != 1 || len(g.asked()) != 1 {
				t.Errorf("the runtime was called %d times, the gate asked %d times", len(calls), len(g.asked()))
			}
		})
	}
}

func TestUndecodableIsNotForwarded(t *testing.T) {
	for name, body := range map[string][]byte{
		"not protobuf":   []byte("\xff\xff hunter2"),
		"cut off":        sub(1, str(1, "hunter2"))[:5],
		"invalid UTF-8":  sub(1, str(1, "hunter2\xff")),
		"endless nested": bytes.Repeat([]byte{0x0b}, 1<<16), // start of a group, never ended
	} {
		for _, method := range []string{pullMethod, createMethod} {
			t.Run(name, func(t *testing.T) {
				if name == "invalid UTF-8" && method == createMethod {
					body = str(1, "hunter2\xff")
				}
				r, g := &rawRuntime{answer: [][]byte{{}}}, &testGate{}
				conn := startRaw(t, r, criproxy.Options{Gate: g})
				_, err := send(t.Context(), conn, method, [][]byte{body})
				if words := wantCode(t, err, codes.InvalidArgument); strings.Contains(words, "hunter2") {
					t.Errorf("the answer quotes the request: %q", words)
				}
				if calls := r.take(); len(calls) != 0 || len(g.asked()) != 0 {
					t.Errorf("the runtime was called %d times, the gate asked %d times", len(calls), len(g.asked()))
				}
			})
		}
	}
}
