package criproxy

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

var (
	errTwoRequests  = status.Error(codes.Internal, "cardinality violation: received multiple request messages for non-client-streaming RPC")
	errNoRequest    = status.Error(codes.Internal, "cardinality violation: received no request message from non-client-streaming RPC")
	errShuttingDown = status.Error(codes.Unavailable, "cosentry is shutting down")

	// The full type is what lets gRPC know that one request is all there is, and
	// send it together with the end of the stream.
	streamDesc = grpc.StreamDesc{ServerStreams: true}
)

// receiveOne reads the one request of a call and its end. Nothing may be
// forwarded, or judged, before the end was seen: a second message would
// otherwise be for the runtime to interpret.
func receiveOne(ss grpc.ServerStream) (*frame, error) {
	req := new(frame)
	if err := ss.RecvMsg(req); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errNoRequest
		}
		return nil, err
	}
	var extra frame
	err := ss.RecvMsg(&extra)
	if err == io.EOF {
		return req, nil
	}
	req.release()
	extra.release()
	if err == nil {
		err = errTwoRequests
	}
	return nil, err
}

// forwardUnary sends one request on and brings the one response back. Errors
// are returned as the client gave them: wrapping would lose code and details.
func (p *Proxy) forwardUnary(ss grpc.ServerStream, m method, req *frame) error {
	ctx := ss.Context()
	resp, err := p.invoke(withOutgoing(ctx, ctx), ss, m, req)
	if err != nil {
		return err
	}
	defer resp.release()
	return ss.SendMsg(resp)
}

// invoke makes a unary call to the runtime and leaves headers and trailers of
// the answer on ss, whatever the outcome.
func (p *Proxy) invoke(ctx context.Context, ss grpc.ServerStream, m method, req *frame) (*frame, error) {
	var header, trailer metadata.MD
	resp := new(frame)
	start := time.Now()
	err := p.conn.Invoke(ctx, m.full, req, resp, grpc.Header(&header), grpc.Trailer(&trailer))
	p.forwarded(Call{Method: m.label, Code: status.Code(err), Duration: time.Since(start)})
	if err != nil {
		resp.release()
		resp = nil
	}
	// The headers travel with the message or the status; neither error matters
	// more than the one the call itself ends with.
	_ = ss.SetHeader(endToEnd(header))
	ss.SetTrailer(endToEnd(trailer))
	return resp, err
}

// forwardStream sends one request on and passes responses back as they come. The
// stream ends at once when the proxy is told to stop.
func (p *Proxy) forwardStream(ss grpc.ServerStream, m method, req *frame) error {
	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel() // whoever leaves first, the runtime's side ends too
	defer context.AfterFunc(p.stopping, cancel)()

	start := time.Now()
	err := p.pump(ctx, ss, m, req)
	if err != nil && p.stopping.Err() != nil && ss.Context().Err() == nil {
		err = errShuttingDown
	}
	p.forwarded(Call{Method: m.label, Stream: true, Code: status.Code(err), Duration: time.Since(start)})
	return err
}

func (p *Proxy) pump(ctx context.Context, ss grpc.ServerStream, m method, req *frame) error {
	cs, err := p.conn.NewStream(withOutgoing(ctx, ss.Context()), &streamDesc, m.full)
	if err != nil {
		return err
	}
	// With one request per stream this also closes the sending side. Where the
	// stream is already over, SendMsg says nothing and RecvMsg has the status.
	if err := cs.SendMsg(req); err != nil {
		return err
	}
	// Headers go first: an event stream on a quiet node would otherwise look
	// unanswered for hours. None and no error means that only trailers come.
	if header, err := cs.Header(); err == nil && header != nil {
		if err := ss.SendHeader(endToEnd(header)); err != nil {
			return err
		}
	}
	var resp frame
	defer resp.release()
	for {
		if err := cs.RecvMsg(&resp); err != nil {
			ss.SetTrailer(endToEnd(cs.Trailer()))
			if err == io.EOF {
				return nil
			}
			return err
		}
		if err := ss.SendMsg(&resp); err != nil {
			return err
		}
	}
}
