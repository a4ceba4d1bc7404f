package sigstore

import (
	"context"
	"fmt"

	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"
)

// Bundle signs an in-toto statement as who, without a key of its own: with
// a certificate, a log entry and a timestamp, as a bundle in JSON. It is done by sigstore-go's
// library; the demo need not wait for the cosign command to be built.
func (i *Instance) Bundle(ctx context.Context, who Identity, statement []byte) ([]byte, error) {
	token, err := i.Token(who)
	if err != nil {
		return nil, err
	}
	key, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		return nil, fmt.Errorf("signing without a key: %w", err)
	}
	content := &sign.DSSEData{Data: statement, PayloadType: "application/vnd.in-toto+json"}
	bundle, err := sign.Bundle(content, key, sign.BundleOptions{
		Context:                    ctx,
		CertificateProvider:        sign.NewFulcio(&sign.FulcioOptions{BaseURL: i.Fulcio.URL}),
		CertificateProviderOptions: &sign.CertificateProviderOptions{IDToken: token},
		TransparencyLogs:           []sign.Transparency{sign.NewRekor(&sign.RekorOptions{BaseURL: i.Rekor.URL})},
		TimestampAuthorities:       []*sign.TimestampAuthority{sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: i.TimestampURL()})},
	})
	if err != nil {
		return nil, fmt.Errorf("signing without a key: %w", err)
	}
	return protojson.Marshal(bundle)
}
