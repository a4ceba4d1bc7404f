package harness

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// fastReconnect has grpc look for a server that was away every tenth of a
// second: the default grows to minutes and would be measured instead of the server.
func fastReconnect() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 100 * time.Millisecond},
		MinConnectTimeout: time.Second,
	}
}
