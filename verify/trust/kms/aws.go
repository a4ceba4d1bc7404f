package kms

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/sigstore/sigstore/pkg/signature/kms/aws"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/cosentry/cosentry/verify/limits"
)

// insecureAWS is sigstore's variable that switches off the check of TLS certificates.
const insecureAWS = "AWS_TLS_INSECURE_SKIP_VERIFY"

func fromAWS(ctx context.Context, uri string) (crypto.PublicKey, error) {
	if os.Getenv(insecureAWS) == "1" {
		return nil, fmt.Errorf("%s is set, so that anybody could answer for AWS KMS: unset it (AWS_CA_BUNDLE names a CA of your own)", insecureAWS)
	}
	client := awshttp.NewBuildableClient().WithTransportOptions(func(tr *http.Transport) {
		tr.DialContext = boundedDial(tr.DialContext)
		tr.DisableKeepAlives = true // one key, now and then: no connection is worth keeping
	})
	opts := []func(*config.LoadOptions) error{config.WithHTTPClient(client)}
	if region := regionOf(uri); region != "" {
		opts = append(opts, config.WithDefaultRegion(region))
	}
	sv, err := aws.LoadSignerVerifier(ctx, uri, opts...)
	if err != nil {
		return nil, err
	}
	key, err := sv.PublicKey(options.WithContext(ctx))
	if err != nil {
		if absent := new(types.NotFoundException); errors.As(err, &absent) {
			return nil, fmt.Errorf("%w: %w", ErrGone, err)
		}
		if off := new(types.DisabledException); errors.As(err, &off) {
			return nil, fmt.Errorf("%w: %w", ErrGone, err)
		}
		if state := new(types.KMSInvalidStateException); errors.As(err, &state) {
			return nil, fmt.Errorf("%w: %w", ErrGone, err)
		}
		return nil, err
	}
	return key, nil
}

// regionOf is the region of an ARN in an awskms URI. sigstore's provider does not look for it there.
func regionOf(uri string) string {
	_, arn, ok := strings.Cut(uri, "/arn:")
	if !ok {
		return ""
	}
	parts := strings.SplitN(arn, ":", 4) // aws:kms:REGION:…
	if len(parts) < 4 {
		return ""
	}
	return parts[2]
}

// boundedDial bounds what each connection may bring. The library reads answers whole and offers no bound of its own.
func boundedDial(dial func(ctx context.Context, network, addr string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return boundedConn{conn, limits.KMSAnswer.Reader(conn)}, nil
	}
}

type boundedConn struct {
	net.Conn
	r interface{ Read([]byte) (int, error) }
}

func (c boundedConn) Read(p []byte) (int, error) { return c.r.Read(p) }
