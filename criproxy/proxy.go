// Package criproxy serves the Kubernetes Container Runtime Interface on a unix
// socket, in front of the runtime that does the work.
//
// It promises that a call which is not gated reaches the runtime as the client
// sent it: the same bytes, metadata, deadline and cancellation; and that the
// answer comes back likewise: messages, headers, trailers, and status with its
// details. A message may have up to 64 MiB each way. Nothing is decoded, so that
// fields newer than the vendored API survive.
//
// The calls that bring bytes to run (PullImage, CreateContainer) are decoded
// once, put before a Gate, and what the gate saw is encoded again: no second
// reading of the client's bytes can differ from the one that was judged.
//
// It refuses: methods that create containers in another way (RestorePod);
// methods that the vendored API does not name, unless it is told to forward
// them; every other service, and every other spelling. These are
// answered Unimplemented in the words of a server that does not have them, as an
// older runtime would. It knows nothing of signatures or policy, and logs no
// request: they carry registry credentials.
//
// Kubelet remembers an Unimplemented that it got from a list stream
// (StreamContainers and its kin) until it restarts, and uses the unary call from
// then on. A cosentry that is older than the runtime costs that much, no more.
//
// The protocol is runtime.v1 of k8s.io/cri-api over gRPC.
package criproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // compressed requests are decoded and judged like plain ones
	"google.golang.org/grpc/status"
)

// Options configure a Proxy.
type Options struct {
	// Endpoint is the runtime's socket: an absolute path, with or without
	// "unix://" before it.
	Endpoint string

	// Gate decides on the gated calls. It is required.
	Gate Gate

	// GateSandboxes puts RunPodSandbox before the Gate too. Otherwise it is forwarded like any other call.
	GateSandboxes bool

	// ForwardUnknownMethods sends methods of the two CRI services that this
	// build does not know to the runtime, unjudged, instead of answering
	// Unimplemented. It never applies to RestorePod, to another spelling of a
	// gated method, or to other services.
	ForwardUnknownMethods bool

	// DrainTimeout is how long unary calls may go on once Serve was told to
	// stop. Zero means 25 s.
	DrainTimeout time.Duration

	// Log gets connection changes, refused methods and faults of the gate;
	// never a request. Nil discards.
	Log *slog.Logger

	// Forwarded, if set, is told of every call that was sent to the runtime,
	// when it ends. What the gate refused and what is not served was not sent.
	// It is called concurrently.
	Forwarded func(Call)
}

// Call is one call that was sent to the runtime and has ended.
type Call struct {
	// Method is one of the CRI's full names or "/<service>/unknown", so it is fit
	// for a metric's label.
	Method string
	// Stream is set if it may have had any number of responses.
	Stream bool
	// Code is the runtime's answer, or how the call ended without one.
	Code codes.Code
	// Duration is how long the runtime took; for a stream its whole life.
	Duration time.Duration
}

// Proxy is the CRI server in front of a runtime.
type Proxy struct {
	gate      Gate
	methods   *methodTable
	conn      *grpc.ClientConn
	endpoint  string
	drain     time.Duration
	log       *slog.Logger
	forwarded func(Call)
	refusals  *quiet // methods that are not served
	peers     *peers

	served   atomic.Bool
	stopping context.Context // done when streams must end
	stop     context.CancelFunc
}

const (
	defaultDrain = 25 * time.Second
	// handshake bounds how long a client may take to begin. It also
	// bounds how long one that never begins can hold up a stop.
	handshake = 5 * time.Second
	// lastGrace is for handlers whose calls were cut off at the end of the
	// drain: a gate has yet to write down what it decided.
	lastGrace = 2 * time.Second
)

// New makes a Proxy. It does not need the runtime to be there. It refuses
// options without a gate; see WithoutGateUnsafe for tests and benchmarks.
func New(o Options) (*Proxy, error) {
	if o.Gate == nil {
		return nil, errors.New("a CRI proxy needs a gate")
	}
	if o.DrainTimeout < 0 {
		return nil, fmt.Errorf("drain timeout %v is negative", o.DrainTimeout)
	}
	path, err := socketPath(o.Endpoint)
	if err != nil {
		return nil, err
	}
	methods, err := newMethodTable(o.ForwardUnknownMethods, o.GateSandboxes)
	if err != nil {
		return nil, err
	}
	conn, err := dialRaw(o.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("preparing the connection to the runtime at %s: %w", path, err)
	}
	p := &Proxy{gate: o.Gate, methods: methods, conn: conn, endpoint: path, drain: o.DrainTimeout, log: o.Log, forwarded: o.Forwarded, refusals: newQuiet(), peers: newPeers()}
	if p.drain == 0 {
		p.drain = defaultDrain
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.forwarded == nil {
		p.forwarded = func(Call) {}
	}
	p.stopping, p.stop = context.WithCancel(context.Background())
	return p, nil
}

// Serve answers calls on l until ctx ends, and closes l. Then it accepts no more,
// ends streams at once with Unavailable, lets unary calls finish for up to
// DrainTimeout, cuts off what is left, and returns nil. A Proxy serves once.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	if p.served.Swap(true) {
		return errors.Join(errors.New("this CRI proxy has served already"), l.Close())
	}
	defer p.conn.Close()
	defer p.stop()
	watch, unwatch := context.WithCancel(context.Background())
	defer unwatch()
	go p.keepConnected(watch)

	srv := grpc.NewServer(
		grpc.UnknownServiceHandler(p.handle),
		grpc.ForceServerCodecV2(rawCodec{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.ConnectionTimeout(handshake),
		grpc.WaitForHandlers(true),
		grpc.StaticStreamWindowSize(window),
		grpc.StaticConnWindowSize(window),
		grpc.NumStreamWorkers(workers),
	)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(p.peers.on(l)) }()
	select {
	case err := <-served:
		p.stop()
		srv.Stop()
		return fmt.Errorf("serving the CRI on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	p.shutDown(srv)
	return nil
}

// shutDown brings srv to an end. GracefulStop alone never returns while an event
// stream lives, and Stop alone kills pulls: streams are ended first, and the
// wait for the rest is bounded.
func (p *Proxy) shutDown(srv *grpc.Server) {
	p.stop()
	drained := make(chan struct{})
	go func() {
		srv.GracefulStop()
		close(drained)
	}()
	timer := time.NewTimer(p.drain)
	defer timer.Stop()
	select {
	case <-drained:
		return
	case <-timer.C:
	}
	p.log.Warn("calls were still running when the drain timed out and are cut off", "after", p.drain)
	go srv.Stop()
	timer.Reset(lastGrace)
	select {
	case <-drained:
	case <-timer.C:
		p.log.Error("a handler did not end when its call was cut off; it is left behind", "after", lastGrace)
	}
}

// handle is the one handler behind every method name.
func (p *Proxy) handle(_ any, ss grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(ss)
	m, err := p.methods.lookup(full)
	if err != nil {
		if full := clip(full); full != pingMethod && p.refusals.due(full) {
			p.log.Warn("refused a method that is not served; this is said once in a while", "method", full, "interval", sayAgain)
		}
		return err
	}
	req, err := receiveOne(ss)
	if err != nil {
		return err
	}
	defer req.release()
	switch m.kind {
	case unary:
		return p.forwardUnary(ss, m, req)
	case serverStream:
		return p.forwardStream(ss, m, req)
	case gated:
		return p.judge(ss, m, req)
	default: // lookup returns no other; if it ever did, nothing may pass
		return status.Errorf(codes.Internal, "method %s has no handler", m.full)
	}
}

// clip cuts a client's text to a length that is fit for a log line.
func clip(s string) string { return s[:min(len(s), 256)] }
