package kms

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	vault "github.com/hashicorp/vault/api"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature/kms/hashivault"
)

// fromVault reads a key of Vault's transit engine. It uses Vault's own client and not sigstore's provider around it,
// whose calls have neither a context nor, whatever VAULT_CLIENT_TIMEOUT says, an end: a Vault that hangs would hold
// them for ever.
func fromVault(ctx context.Context, uri string) (crypto.PublicKey, error) {
	if err := hashivault.ValidReference(uri); err != nil {
		return nil, err
	}
	client, err := newVaultClient()
	if err != nil {
		return nil, err
	}
	mount := cmp.Or(os.Getenv("TRANSIT_SECRET_ENGINE_PATH"), "transit")
	secret, err := client.Logical().ReadWithContext(ctx, mount+"/keys/"+strings.TrimPrefix(uri, hashivault.ReferenceScheme))
	if err != nil {
		return nil, err
	}
	if secret == nil { // 404, and nothing to say
		return nil, fmt.Errorf("%w: Vault holds none of this name under %s", ErrGone, strconv.QuoteToASCII(mount))
	}
	return latestKey(secret.Data)
}

// newVaultClient finds Vault as sigstore's provider does.
func newVaultClient() (*vault.Client, error) {
	addr := cmp.Or(os.Getenv("VAULT_ADDR"), os.Getenv("BAO_ADDR"))
	if err := checkVault(addr); err != nil {
		return nil, err
	}
	token, err := vaultToken()
	if err != nil {
		return nil, err
	}
	config := vault.DefaultConfig() // reads the environment
	if config.Error != nil {
		return nil, config.Error
	}
	config.Address, config.AgentAddress = addr, "" // the address that was checked
	client, err := vault.NewClient(config)
	if err != nil {
		return nil, err
	}
	transport, ok := config.HttpClient.Transport.(*http.Transport)
	if !ok {
		return nil, fmt.Errorf("a transport of type %T cannot be bounded", config.HttpClient.Transport)
	}
	transport.DialContext = boundedDial(transport.DialContext) // after NewClient, which dials a socket's path its own way
	transport.DisableKeepAlives = true
	client.SetToken(token)
	return client, nil
}

func vaultToken() (string, error) {
	if token := cmp.Or(os.Getenv("VAULT_TOKEN"), os.Getenv("BAO_TOKEN")); token != "" {
		return token, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", errors.New("there is no token for Vault: set VAULT_TOKEN")
	}
	token, err := os.ReadFile(filepath.Join(home, ".vault-token"))
	if err != nil {
		return "", fmt.Errorf("there is no token for Vault: set VAULT_TOKEN: %w", err)
	}
	return strings.TrimSpace(string(token)), nil
}

// checkVault refuses settings with which anybody on the way could answer for Vault.
func checkVault(addr string) error {
	if skip, err := strconv.ParseBool(cmp.Or(os.Getenv("VAULT_SKIP_VERIFY"), "false")); err != nil || skip {
		return errors.New("VAULT_SKIP_VERIFY is set, so that anybody could answer for Vault: unset it (VAULT_CACERT names a CA of your own)")
	}
	u, err := url.Parse(addr)
	if err != nil || addr == "" {
		return errors.New("VAULT_ADDR is not set to a URL")
	}
	switch u.Scheme {
	case "https", "unix":
		return nil
	case "http":
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil && ip.Unmap().IsLoopback() || u.Hostname() == "localhost" {
			return nil
		}
		return fmt.Errorf("VAULT_ADDR is plain http to %s, so that anybody on the way could choose the key: use https, or a Vault agent on this host", strconv.QuoteToASCII(u.Host))
	}
	return fmt.Errorf("VAULT_ADDR has the scheme %s: use https", strconv.QuoteToASCII(u.Scheme))
}

// latestKey is the newest version of a transit key.
func latestKey(data map[string]any) (crypto.PublicKey, error) {
	text, err := json.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("the answer of Vault: %w", err)
	}
	var key struct {
		Latest json.Number `json:"latest_version"`
		Keys   map[string]struct {
			Name      string `json:"name"`
			PublicKey string `json:"public_key"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(text, &key); err != nil {
		return nil, errors.New("the answer of Vault is not that of a key that signs")
	}
	latest, ok := key.Keys[key.Latest.String()]
	if !ok || latest.PublicKey == "" {
		return nil, errors.New("the answer of Vault has no public key in its latest version")
	}
	if latest.Name != "ed25519" {
		return cryptoutils.UnmarshalPEMToPublicKey([]byte(latest.PublicKey))
	}
	// Keys of this kind come as their bytes alone.
	raw, err := base64.StdEncoding.DecodeString(latest.PublicKey)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return nil, errors.New("the answer of Vault has an Ed25519 key that is none")
	}
	return ed25519.PublicKey(raw), nil
}
