package criproxy

import (
	"context"

	"google.golang.org/grpc/metadata"
)

// withOutgoing gives ctx the metadata that came with the call in, which gRPC
// never forwards by itself, and no other.
func withOutgoing(ctx, in context.Context) context.Context {
	md, _ := metadata.FromIncomingContext(in) // a copy
	return metadata.NewOutgoingContext(ctx, endToEnd(md))
}

// endToEnd removes from md what belongs to one connection and not to the call.
// gRPC writes these headers itself on the other side; a second copy would
// contradict it, or say that cosentry understands a compression that it
// does not.
func endToEnd(md metadata.MD) metadata.MD {
	for _, k := range [...]string{
		":authority", "content-type", "grpc-accept-encoding", "grpc-encoding",
		"grpc-message-type", "grpc-timeout", "host", "te", "user-agent",
	} {
		delete(md, k)
	}
	return md
}
