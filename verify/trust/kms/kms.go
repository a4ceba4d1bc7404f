// Package kms asks key management services for public keys: AWS KMS (awskms://), Google Cloud KMS (gcpkms://) and Azure Key
// Vault (azurekms://) through sigstore's own providers, HashiCorp Vault and OpenBao (hashivault://) through Vault's client. The forms of their URIs are those of github.com/sigstore/sigstore/pkg/signature/kms.
//
// It promises a public key in PEM or an error, and never more than a public key: it asks for no signature and
// creates nothing. It refuses a service whose identity would not be checked, because whoever answers in its place
// chooses the key, and with it which images run: TLS checks that the environment switches off are refused
// (AWS_TLS_INSECURE_SKIP_VERIFY, VAULT_SKIP_VERIFY), and so is plain http to a Vault on another host. Programs that
// sigstore would start for schemes it does not know are never started.
//
// Credentials are found by the services' own libraries, in the agent's environment:
//
//   - AWS: AWS_ACCESS_KEY_ID and its kin, shared config files, web identity (IRSA), container credentials, the
//     instance's role. The region is AWS_REGION or the file's; failing these, that of an ARN in the URI.
//   - Google: GOOGLE_APPLICATION_CREDENTIALS (a service account's key or workload identity federation), gcloud's
//     default credentials, the metadata server.
//   - Azure: AZURE_TENANT_ID, AZURE_CLIENT_ID and their kin, workload identity, managed identity, and after them the
//     command-line tools az, azd and pwsh: AZURE_TOKEN_CREDENTIALS=prod leaves those three out.
//   - Vault: VAULT_ADDR, VAULT_TOKEN (or ~/.vault-token), VAULT_CACERT, VAULT_NAMESPACE,
//     TRANSIT_SECRET_ENGINE_PATH; BAO_ADDR and BAO_TOKEN stand in for the first two.
//
// Importing the package starts nothing; a service's library does its work when a key of that service is asked for.
package kms

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/cosentry/cosentry/verify/rescue"
)

// ErrGone is wrapped by the error for a key that its service says it does not have, or not in use. It is the service's
// answer and not the lack of one: a key that was destroyed because it was stolen must not go on being trusted.
var ErrGone = errors.New("the key management service has no such key")

// Fetch asks for the public key that uri names, and gives it in PEM. It comes back soon after ctx ends.
//
// What is read of an answer is bounded, except for Azure: its library reads what it is sent until ctx ends, and
// sigstore's provider leaves no place for a bound.
func Fetch(ctx context.Context, uri string) (pem string, err error) {
	scheme, _, _ := strings.Cut(uri, "://")
	ask, ok := map[string]func(context.Context, string) (crypto.PublicKey, error){
		"awskms":     fromAWS,
		"gcpkms":     fromGoogle,
		"azurekms":   fromAzure,
		"hashivault": fromVault,
	}[scheme]
	if !ok {
		return "", fmt.Errorf("no key management service is known for %q: use awskms, gcpkms, azurekms or hashivault", scheme)
	}
	err = rescue.Do(nil, "asking "+scheme+" for a key", func() error {
		key, err := ask(ctx, uri)
		if err != nil {
			return err
		}
		text, err := cryptoutils.MarshalPublicKeyToPEM(key)
		if err != nil {
			return fmt.Errorf("the service's public key: %w", err)
		}
		pem = string(text)
		return nil
	})
	if err != nil {
		return "", err
	}
	return pem, nil
}
