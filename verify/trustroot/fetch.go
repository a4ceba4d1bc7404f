package trustroot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cosentry/cosentry/verify/limits"
)

// refreshTimeout is the longest that a whole refresh may take. A server that answers each request just in time would
// otherwise hold it for an hour of root rotations.
const refreshTimeout = 2 * time.Minute

// mirror is a TUF repository on a server.
type mirror struct {
	base   *url.URL
	client *http.Client
}

// newMirror checks the address. All that TUF reads is signed, but who reads along or answers late can hold back what is
// new: plain http is for this machine only.
func newMirror(address string, transport http.RoundTripper) (*mirror, error) {
	base, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("the mirror is no URL: write https://host/path")
	}
	if base.Host == "" || !allowed(base, base) {
		return nil, fmt.Errorf("the mirror %.200q is not accepted: write https://host/path (http only for a loopback address)", base.Redacted())
	}
	base.RawQuery, base.Fragment = "", ""
	return &mirror{base, &http.Client{
		Transport: transport,
		Timeout:   limits.RequestTimeout,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if err := limits.Redirects.Check(int64(len(via))); err != nil {
				return err
			}
			if !allowed(r.URL, base) {
				return errors.New("led away from https")
			}
			return nil
		},
	}}, nil
}

// allowed reports whether an address may be asked. A server elsewhere cannot redirect to what listens on this machine.
func allowed(u, base *url.URL) bool {
	switch u.Scheme {
	case "https":
		return true
	case "http":
		return isLoopback(u) && isLoopback(base) && base.Scheme == "http"
	}
	return false
}

func isLoopback(u *url.URL) bool {
	if u.Hostname() == "localhost" {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return ip != nil && ip.IsLoopback()
}

// newTransport is the way to any mirror.
func newTransport() *http.Transport {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, TLSHandshakeTimeout: limits.RequestTimeout}
	t.DisableCompression = true // bounds are on the bytes as they come
	t.MaxResponseHeaderBytes = 64 << 10
	t.MaxIdleConnsPerHost = 1
	t.IdleConnTimeout = 10 * time.Second
	return t
}

// read is a reader of the repository. An answer that goes on beyond the bound is an error.
func (m *mirror) read(ctx context.Context, name string, most int64) ([]byte, error) {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i]) // a target's name is the repository's own choice
	}
	address := m.base.JoinPath(parts...)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("asking for %.200q: %w", address.Redacted(), foreign(err))
	}
	req.Header.Set("User-Agent", "cosentry")
	res, err := m.client.Do(req)
	if err != nil {
		return nil, &unreachable{address.Redacted(), unwrapURL(err)}
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotFound:
		return nil, &unreachable{address.Redacted(), fmt.Errorf("the server answers with status %d: %w", res.StatusCode, fs.ErrNotExist)}
	case res.StatusCode != http.StatusOK:
		return nil, &unreachable{address.Redacted(), fmt.Errorf("the server answers with status %d", res.StatusCode)}
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, most+1))
	if err != nil {
		return nil, &unreachable{address.Redacted(), foreign(err)}
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%.200q is longer than the %d bytes it may have", address.Redacted(), most)
	}
	return data, nil
}

// unreachable is the error for a server that gave no answer, or not the one that was asked for. Nothing was judged then:
// to call that a repository which is not accepted would have its owner look for a fault in signatures.
type unreachable struct {
	address string
	err     error // in words that are ours or escaped
}

func (e *unreachable) Error() string {
	return fmt.Sprintf("could not be reached: asking for %.200q: %v", e.address, e.err)
}

func (e *unreachable) Unwrap() error { return e.err }

// unwrapURL leaves out the address that http's errors repeat, which a redirect may have made a stranger's.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return foreign(err)
}
