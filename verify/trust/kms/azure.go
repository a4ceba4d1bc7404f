package kms

import (
	"context"
	"crypto"
	"errors"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/sigstore/sigstore/pkg/signature/kms/azure"
)

func fromAzure(ctx context.Context, uri string) (crypto.PublicKey, error) {
	sv, err := azure.LoadSignerVerifier(ctx, uri)
	if err != nil {
		return nil, err
	}
	key, err := sv.PublicKey()
	if err != nil {
		// Any 404 might be of something that stands before the vault; this code is the vault's own.
		if answer := new(azcore.ResponseError); errors.As(err, &answer) && answer.ErrorCode == "KeyNotFound" {
			return nil, fmt.Errorf("%w: %w", ErrGone, err)
		}
		return nil, err
	}
	return key, nil
}
