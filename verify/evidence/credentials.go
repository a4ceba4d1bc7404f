package evidence

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strings"
)

// Credentials are for one registry, as CRI's AuthConfig gives them. The zero value is none. However they are
// printed, logged or encoded as JSON, nothing of them shows.
type Credentials struct {
	Username, Password string
	// Auth is base64 of "username:password"; used when Username is empty.
	Auth string
	// ServerAddress, where it is set, is the only host that gets them. kubelet leaves it empty.
	ServerAddress string
	// IdentityToken is exchanged for a token at the registry's token service.
	IdentityToken string
	// RegistryToken is sent to the registry as it is.
	RegistryToken string
}

const redacted = "credentials(redacted)"

// String does not show the credentials.
func (c Credentials) String() string {
	if c.IsZero() {
		return "credentials(none)"
	}
	return redacted
}

// Format does not show the credentials, whatever the verb.
func (c Credentials) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, c.String()) }

// LogValue does not show the credentials.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText does not show the credentials; encoding/json uses it as well.
func (c Credentials) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// IsZero says whether there are none.
func (c Credentials) IsZero() bool { return c == Credentials{} }

// fingerprintKey makes fingerprints worthless outside this process: without it, one that leaks could be used to
// guess passwords at leisure.
var fingerprintKey = func() []byte {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails: crypto/rand ends the process rather than to give weak bytes
	return key
}()

// Fingerprint tells credentials apart in the keys of caches. It is one-way, and differs from process to process.
func (c Credentials) Fingerprint() string {
	mac := hmac.New(sha256.New, fingerprintKey)
	for _, field := range []string{c.Username, c.Password, c.Auth, c.ServerAddress, c.IdentityToken, c.RegistryToken} {
		var length [8]byte // so that no two different sets of fields run together into the same bytes
		binary.BigEndian.PutUint64(length[:], uint64(len(field)))
		mac.Write(length[:])
		mac.Write([]byte(field))
	}
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// fingerprint is one for several, in their order.
func fingerprint(several []Credentials) string {
	var all strings.Builder
	for _, c := range several {
		all.WriteString(c.Fingerprint())
	}
	return all.String()
}

// meantFor says whether they may be sent to host. Without a server address it is any host that the node's owner
// configured for the repository, which is what containerd does with the same credentials.
func (c Credentials) meantFor(host string) bool {
	if c.ServerAddress == "" {
		return true
	}
	u, err := url.Parse(c.ServerAddress)
	return err == nil && u.Host == host
}

// secret gives what containerd's authorizer wants: user and password, or no user and an identity token.
func (c Credentials) secret() (username, secret string) {
	switch {
	case c.Username != "":
		return c.Username, c.Password
	case c.IdentityToken != "":
		return "", c.IdentityToken
	default:
		return splitAuth(c.Auth)
	}
}

// splitAuth reads base64 of "username:password". What cannot be read is no credential: the registry then refuses,
// and says so.
func splitAuth(auth string) (username, password string) {
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(auth))
	if err != nil {
		return "", ""
	}
	username, password, _ = strings.Cut(string(decoded), ":")
	return username, strings.Trim(password, "\x00")
}
