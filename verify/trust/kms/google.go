package kms

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync"

	"github.com/sigstore/sigstore/pkg/signature/kms/gcp"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cosentry/cosentry/verify/limits"
)

func fromGoogle(ctx context.Context, uri string) (crypto.PublicKey, error) {
	b := &bounded{ctx: ctx, conns: map[*grpc.ClientConn]bool{}}
	defer b.close()
	sv, err := gcp.LoadSignerVerifier(ctx, uri, option.WithGRPCDialOption(grpc.WithChainUnaryInterceptor(b.call)))
	if err != nil {
		return nil, err
	}
	key, err := sv.PublicKey()
	if err != nil {
		switch code := status.Code(rootOf(err)); {
		case code == codes.NotFound, code == codes.FailedPrecondition, errors.Is(err, iterator.Done):
			return nil, fmt.Errorf("%w: %w", ErrGone, err)
		}
		return nil, err
	}
	return key, nil
}

// rootOf is the innermost error that carries a gRPC status, or err.
func rootOf(err error) error {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Err()
	}
	return err
}

// bounded stands in each call of Google's client, which sigstore's provider gives neither a context nor an end: it
// ends calls with ctx, bounds their answers (the client's own bound is 2 GiB), and closes the connections.
type bounded struct {
	ctx   context.Context
	mu    sync.Mutex
	conns map[*grpc.ClientConn]bool
}

func (b *bounded) call(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	b.mu.Lock()
	b.conns[cc] = true
	b.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	return invoke(ctx, method, req, reply, cc, append(opts, grpc.MaxCallRecvMsgSize(int(limits.KMSAnswer.Max())))...)
}

func (b *bounded) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for cc := range b.conns {
		_ = cc.Close()
	}
}
