package criproxy

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// judge puts a gated call before the gate.
func (p *Proxy) judge(ss grpc.ServerStream, m method, req *frame) error {
	switch m.full {
	case runtimeapi.ImageService_PullImage_FullMethodName:
		return ask(p, ss, m, req, p.gate.PullImage)
	case runtimeapi.RuntimeService_CreateContainer_FullMethodName:
		return ask(p, ss, m, req, p.gate.CreateContainer)
	case runtimeapi.RuntimeService_RunPodSandbox_FullMethodName:
		return ask(p, ss, m, req, p.gate.RunPodSandbox)
	default: // the method table and this switch disagree; nothing may pass
		return status.Errorf(codes.Internal, "method %s has no gate", m.full)
	}
}

// message is a pointer to T that is a protobuf message.
type message[T any] interface {
	*T
	proto.Message
}

// ask decodes the request, asks the gate, and encodes what comes of it.
func ask[Q, R any, Req message[Q], Resp message[R]](p *Proxy, ss grpc.ServerStream, m method, in *frame,
	gate func(context.Context, Req, Forward[Req, Resp]) (Resp, error)) error {
	req := Req(new(Q))
	if err := decode(in, req); err != nil {
		// protobuf's own words may quote the bytes, which hold credentials.
		return status.Errorf(codes.InvalidArgument, "request of %s is not a valid protobuf message", m.full)
	}
	in.release()

	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel() // a forward that the gate left behind ends with the call
	once := &ticket{}
	resp, err := guarded(p, m, func() (Resp, error) {
		return gate(ctx, req, func(gateCtx context.Context, req Req) (Resp, error) {
			return forwardJudged[Q, R, Req, Resp](p, ctx, gateCtx, ss, m, once, req)
		})
	})
	if once.close() {
		p.log.Error("the gate forwarded a call more than once; only the first reached the runtime", "method", m.full)
		return status.Errorf(codes.Internal, "cosentry: the gate forwarded %s more than once", m.full)
	}
	if err != nil {
		return err
	}
	if resp == nil {
		p.log.Error("the gate answered neither a response nor an error", "method", m.full)
		return status.Errorf(codes.Internal, "cosentry: the gate gave no answer to %s", m.full)
	}
	out, err := encode(resp)
	if err != nil {
		return status.Errorf(codes.Internal, "cosentry: encoding the response of %s: %v", m.full, err)
	}
	return ss.SendMsg(out)
}

// forwardJudged is the Forward that a gate is given. The call to the runtime ends
// when either the client's or the gate's context does, and has the client's
// metadata whatever the gate's context carries.
func forwardJudged[Q, R any, Req message[Q], Resp message[R]](p *Proxy, ctx, gateCtx context.Context, ss grpc.ServerStream, m method, once *ticket, req Req) (Resp, error) {
	if err := once.take(m); err != nil {
		return nil, err
	}
	if err := gateCtx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	if req == nil {
		return nil, status.Errorf(codes.Internal, "cosentry: the gate forwarded no request to %s", m.full)
	}
	out, err := encode(req)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "cosentry: encoding the judged request of %s: %v", m.full, err)
	}
	callCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(gateCtx, cancel)()
	in, err := p.invoke(withOutgoing(callCtx, ss.Context()), ss, m, out)
	if err != nil {
		if gateErr := gateCtx.Err(); gateErr != nil && status.Code(err) == codes.Canceled && ctx.Err() == nil {
			err = status.FromContextError(gateErr).Err() // DeadlineExceeded where it was the gate's deadline
		}
		return nil, err
	}
	defer in.release()
	resp := Resp(new(R))
	if err := decode(in, resp); err != nil {
		return nil, status.Errorf(codes.Internal, "cosentry: the runtime's response to %s is not a valid protobuf message", m.full)
	}
	return resp, nil
}

// guarded runs the gate. A panic in it must neither take the node's CRI down nor
// let the call through: it becomes an error. Its value is not logged or answered,
// as it may quote the request.
func guarded[T any](p *Proxy, m method, f func() (T, error)) (resp T, err error) {
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		what := fmt.Sprintf("a panic with a %T", r)
		if re, ok := r.(runtime.Error); ok {
			what = re.Error()
		}
		p.log.Error("the gate panicked; the call is refused", "method", m.full, "panic", what, "stack", string(debug.Stack()))
		var none T
		resp, err = none, status.Errorf(codes.Internal, "cosentry: internal error while judging %s; the call was refused, see cosentry's log", m.full)
	}()
	return f()
}

// ticket lets one forward through, and none once the gate has answered: what the
// gate said is then final, and a goroutine that it left behind must not start
// what it refused.
type ticket struct{ state atomic.Int32 }

const (
	ticketTaken  = 1 << iota // the forward was used
	ticketAgain              // it was asked for once more
	ticketClosed             // the gate has answered
)

func (t *ticket) take(m method) error {
	switch old := t.state.Or(ticketTaken); {
	case old&ticketClosed != 0:
		return status.Errorf(codes.Internal, "cosentry: %s was forwarded after the gate had answered", m.full)
	case old&ticketTaken != 0:
		t.state.Or(ticketAgain)
		return status.Errorf(codes.Internal, "cosentry: %s was forwarded more than once", m.full)
	}
	return nil
}

// close ends the ticket's use and says whether it was asked for more than once.
func (t *ticket) close() (again bool) {
	return t.state.Or(ticketClosed)&ticketAgain != 0
}

// decode reads f into m. Fields that the vendored API does not know are kept.
func decode(f *frame, m proto.Message) error {
	b, done := f.bytes()
	defer done()
	return proto.Unmarshal(b, m)
}

func encode(m proto.Message) (*frame, error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	return frameOf(b), nil
}

// WithoutGateUnsafe returns a Gate that lets everything through. It exists for
// tests and benchmarks of what lies around a gate; an agent that uses it
// protects nothing.
func WithoutGateUnsafe() Gate { return openGate{} }

type openGate struct{}

func (openGate) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest, forward Forward[*runtimeapi.PullImageRequest, *runtimeapi.PullImageResponse]) (*runtimeapi.PullImageResponse, error) {
	return forward(ctx, req)
}

func (openGate) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest, forward Forward[*runtimeapi.CreateContainerRequest, *runtimeapi.CreateContainerResponse]) (*runtimeapi.CreateContainerResponse, error) {
	return forward(ctx, req)
}

func (openGate) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest, forward Forward[*runtimeapi.RunPodSandboxRequest, *runtimeapi.RunPodSandboxResponse]) (*runtimeapi.RunPodSandboxResponse, error) {
	return forward(ctx, req)
}
