package criproxy_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/criproxy/critest"
)

// sandboxRuntime makes sandboxes and remembers what for.
type sandboxRuntime struct {
	*critest.Runtime
	mu   sync.Mutex
	made []*runtimeapi.RunPodSandboxRequest
}

func (r *sandboxRuntime) RunPodSandbox(_ context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made = append(r.made, req)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: "s"}, nil
}

func sandboxOf(name string) *runtimeapi.RunPodSandboxRequest {
	return &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: name}}}
}

func TestSandboxesAreGatedWhereThatIsAskedFor(t *testing.T) {
	for name, gating := range map[string]bool{"asked for": true, "not asked for": false} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			runtime, gate := &sandboxRuntime{Runtime: critest.NewRuntime(0)}, &testGate{}
			critest.Serve(t, n.runtimePath, runtime)
			n.startProxy(t, criproxy.Options{Gate: gate, GateSandboxes: gating})
			req := sandboxOf("web")
			req.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 7))
			_, err := runtimeapi.NewRuntimeServiceClient(critest.Dial(t, n.proxyPath)).RunPodSandbox(t.Context(), req)
			if gating {
				if words := wantCode(t, err, codes.Unknown); !strings.HasPrefix(words, "SignatureValidationFailed: ") || len(runtime.made) != 0 || len(gate.asked()) != 1 {
					t.Errorf("%q, %d made, asked %d times", words, len(runtime.made), len(gate.asked()))
				}
				return
			}
			if err != nil || len(gate.asked()) != 0 || len(runtime.made) != 1 {
				t.Fatalf("%v, %d made, asked %d times", err, len(runtime.made), len(gate.asked()))
			}
			if got := runtime.made[0].ProtoReflect().GetUnknown(); len(got) == 0 {
				t.Error("a field that is not known was lost on the way")
			}
		})
	}
}

// With unknown methods forwarded, another spelling would be a way around the gate with a runtime that is not strict.
func TestOtherSpellingsOfTheSandboxCallAreNotForwarded(t *testing.T) {
	n := newNode(t)
	critest.Serve(t, n.runtimePath, &sandboxRuntime{Runtime: critest.NewRuntime(0)})
	n.startProxy(t, criproxy.Options{Gate: &testGate{}, GateSandboxes: true, ForwardUnknownMethods: true})
	conn := critest.Dial(t, n.proxyPath)
	for _, method := range []string{"/runtime.v1.RuntimeService/runPodSandbox", "/runtime.v1.RuntimeService/RUNPODSANDBOX", "/runtime.v1.ImageService/RunPodSandbox"} {
		wantCode(t, conn.Invoke(t.Context(), method, sandboxOf("web"), &runtimeapi.RunPodSandboxResponse{}), codes.Unimplemented)
	}
}
