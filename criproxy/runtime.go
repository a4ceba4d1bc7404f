package criproxy

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
)

// maxMessage bounds a message in either direction, after decompression, in
// bytes. Kubelet's own bound is 16 MiB; the proxy must never be the narrower of
// the two.
const maxMessage = 64 << 20

// Both settings are there because the benchmarks say so: without them the proxied
// Version took 20 % longer, and a list of 200 containers 1.11 times what it
// takes directly instead of 1.04.
const (
	// window is the HTTP/2 flow control window in bytes. A fixed one holds any
	// usual list, and spares the pings by which gRPC measures a link to size
	// its own; a unix socket has nothing to measure.
	window = 1 << 20
	// workers are goroutines that handle calls one after another with a stack
	// that has grown already. Calls beyond them get goroutines of their own.
	workers = 8
)

// reconnect keeps a restart of the runtime from being felt: with gRPC's default
// back-off, which grows to two minutes, kubelet waited 11 s for a containerd that
// was back after one.
var reconnect = grpc.ConnectParams{
	Backoff: backoff.Config{
		BaseDelay:  100 * time.Millisecond,
		Multiplier: 1.6,
		Jitter:     0.2,
		MaxDelay:   500 * time.Millisecond, // 600 ms with jitter
	},
	// A runtime that accepts and then says nothing is tried again after this.
	MinConnectTimeout: 5 * time.Second,
}

// socketPath turns the endpoint from the settings into a path.
func socketPath(endpoint string) (string, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("runtime endpoint %q is not an absolute path of a unix socket", endpoint)
	}
	return path, nil
}

// Dial prepares a connection to the runtime for calls of the agent's own, with messages
// as large and reconnecting as fast as for those that are forwarded. It opens nothing yet. Options
// given here come last and win.
func Dial(endpoint string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	path, err := socketPath(endpoint)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	// The dialer gets the path as it is, because gRPC's unix: targets are parsed
	// as URLs. The authority is set because the default, made from the
	// target, is refused by servers that insist on a valid host.
	return grpc.NewClient("passthrough:///runtime", append([]grpc.DialOption{
		grpc.WithContextDialer(dial),
		grpc.WithAuthority("localhost"),
		grpc.WithNoProxy(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(reconnect),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	}, opts...)...)
}

// dialRaw prepares the connection over which calls are forwarded. Options given here come last and win.
func dialRaw(endpoint string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return Dial(endpoint, append([]grpc.DialOption{
		grpc.WithIdleTimeout(0),
		grpc.WithStaticStreamWindowSize(window),
		grpc.WithStaticConnWindowSize(window),
		grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})),
	}, opts...)...)
}

// keepConnected reconnects whenever the connection is lost, until ctx ends.
// gRPC by itself waits for the next call to do so, which would then pay for
// it, and RuntimeState would call a runtime down that is up.
func (p *Proxy) keepConnected(ctx context.Context) {
	var said connectivity.State // Ready or TransientFailure, whichever was logged last
	for {
		state := p.conn.GetState()
		switch {
		case state == connectivity.Idle:
			p.conn.Connect()
		case state == connectivity.Ready && said != state:
			p.log.Info("connected to the container runtime", "socket", p.endpoint)
			said = state
		case state == connectivity.TransientFailure && said != state:
			// At start, too: a wrong endpoint would otherwise look like a quiet node.
			p.log.Warn("the container runtime cannot be reached, calls are answered Unavailable until it is back", "socket", p.endpoint)
			said = state
		}
		if !p.conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

// RuntimeState says how the connection to the runtime stands. It is cheap and
// makes no call. connectivity.Ready means that calls are getting through.
func (p *Proxy) RuntimeState() connectivity.State { return p.conn.GetState() }
