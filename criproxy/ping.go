package criproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// pingMethod is answered Unimplemented like every method of a service that is not here, and not logged.
const pingMethod = "/cosentry.Proxy/Ping"

// ErrNotListening is wrapped by Ping where nobody listens on the path: the socket's file was removed or replaced.
var ErrNotListening = errors.New("nobody listens on the socket's path")

// Ping returns nil if a Proxy, or any other gRPC server, answers calls on the socket at path. It asks for a service that is not there, so
// that the proxy itself answers and the runtime is not needed.
func Ping(ctx context.Context, path string) error {
	// The connection is made first, because gRPC would hide why it could not be.
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		err = fmt.Errorf("%w: %w", ErrNotListening, err)
	}
	if err != nil {
		return fmt.Errorf("asking on %s: %w", path, err)
	}
	first := make(chan net.Conn, 1)
	first <- c
	conn, err := grpc.NewClient("passthrough:///"+path,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case c := <-first:
				return c, nil
			default:
				return nil, errors.New("it hung up")
			}
		}))
	if err != nil {
		return errors.Join(fmt.Errorf("asking on %s: %w", path, err), c.Close())
	}
	defer c.Close()
	defer conn.Close()
	err = conn.Invoke(ctx, pingMethod, &emptypb.Empty{}, &emptypb.Empty{})
	if status.Code(err) != codes.Unimplemented {
		return fmt.Errorf("asking on %s: it does not answer: %w", path, err)
	}
	return nil
}
