package kms

import (
	"cmp"
	"context"
	"crypto"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature/kms/hashivault"
)

func fromVault(_ context.Context, uri string) (crypto.PublicKey, error) {
	if err := checkVault(); err != nil {
		return nil, err
	}
	sv, err := hashivault.LoadSignerVerifier(uri, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	key, err := sv.PublicKey()
	if err != nil {
		// The provider has no better sign of Vault's "404, and nothing to say".
		if strings.HasPrefix(err.Error(), "could not read data from transit key path") {
			return nil, fmt.Errorf("%w: %w", ErrGone, err)
		}
		return nil, err
	}
	return key, nil
}

// checkVault refuses settings with which anybody on the way could answer for Vault.
func checkVault() error {
	if skip, err := strconv.ParseBool(cmp.Or(os.Getenv("VAULT_SKIP_VERIFY"), "false")); err != nil || skip {
		return fmt.Errorf("VAULT_SKIP_VERIFY is set, so that anybody could answer for Vault: unset it (VAULT_CACERT names a CA of your own)")
	}
	addr := cmp.Or(os.Getenv("VAULT_ADDR"), os.Getenv("BAO_ADDR"))
	u, err := url.Parse(addr)
	if err != nil {
		return fmt.Errorf("VAULT_ADDR is not a URL")
	}
	switch u.Scheme {
	case "https", "unix", "":
		return nil // an empty one is the provider's to refuse
	case "http":
		if ip, err := netip.ParseAddr(u.Hostname()); err == nil && ip.Unmap().IsLoopback() || u.Hostname() == "localhost" {
			return nil
		}
		return fmt.Errorf("VAULT_ADDR is plain http to %s, so that anybody on the way could choose the key: use https, or a Vault agent on this host", strconv.QuoteToASCII(u.Host))
	}
	return fmt.Errorf("VAULT_ADDR has the scheme %s: use https", strconv.QuoteToASCII(u.Scheme))
}
