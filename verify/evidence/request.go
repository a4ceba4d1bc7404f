package evidence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"

	"github.com/cosentry/cosentry/verify/limits"
)

// ask is one question to one host.
type ask struct {
	operation string // for the metric and the words of errors
	method    string
	url       *url.URL
	accept    string
	bound     limits.Bound
	budget    *budget
	scope     string // that a token must have
	timeout   time.Duration
}

func (q *ask) String() string {
	return q.method + " " + q.url.Host + q.url.Path
}

// answer is the host's: any code but 401 and 403, which are errors once every credential has been tried.
type answer struct {
	code   int
	header http.Header
	body   []byte // whole for 200; of any other answer no more than its beginning
}

// err words an answer that is not the one hoped for; nil for 200. What the body of such an answer says is left out:
// a registry could repeat the credential in it, and the words end up in a pod's events.
func (a *answer) err(q *ask) error {
	switch {
	case a.code == http.StatusOK:
		return nil
	case a.code == http.StatusNotFound:
		return fmt.Errorf("%w: %s", ErrNotFound, q)
	case a.code == http.StatusTooManyRequests:
		if after := a.header.Get("Retry-After"); after != "" {
			return fmt.Errorf("%w: %s: too many requests (429), retry after %.40s", ErrUnavailable, q, escape(after))
		}
		return fmt.Errorf("%w: %s: too many requests (429)", ErrUnavailable, q)
	default:
		return fmt.Errorf("%w: %s: status %d", ErrUnavailable, q, a.code)
	}
}

// try asks with each of the credentials until one is not refused.
func (ep *endpoint) try(ctx context.Context, q *ask, repository string, request, candidates []Credentials) (*answer, error) {
	key := acceptedKey{repository, fingerprint(request)}
	candidates = ep.lastAccepted(key, candidates)
	var refused error
	for _, c := range candidates {
		a, err := ep.send(ctx, q, c)
		if errors.Is(err, ErrUnauthorized) {
			refused = err
			continue
		}
		if err == nil {
			ep.accepted.Add(key, c.Fingerprint())
		}
		return a, err
	}
	ep.accepted.Remove(key)
	return nil, refused
}

// lastAccepted moves the credentials that were taken last time to the front.
func (ep *endpoint) lastAccepted(key acceptedKey, candidates []Credentials) []Credentials {
	print, ok := ep.accepted.Get(key)
	if !ok {
		return candidates
	}
	var first, rest []Credentials
	for _, c := range candidates {
		if c.Fingerprint() == print {
			first = append(first, c)
		} else {
			rest = append(rest, c)
		}
	}
	return append(first, rest...)
}

// send asks with one credential: as it is, or with the token kept from earlier; if the host challenges, once more
// with the challenge answered; and once from the start where what was kept turned out to be stale.
func (ep *endpoint) send(ctx context.Context, q *ask, c Credentials) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	ctx = docker.WithScope(ctx, q.scope)
	var noToken error
	answered := false
	auth := ep.authorizer(c, q.scope) // kept through the rounds: others may drop it meanwhile, and with it the challenge
	for range 3 {
		req, authorized, err := ep.authorize(ctx, q, auth)
		if err != nil {
			ep.forget(c, auth)
			if answered {
				return nil, err
			}
			noToken = err // maybe a failure that was remembered
			auth = ep.authorizer(c, q.scope)
			continue
		}
		noToken = nil
		a, resp, err := ep.exchange(req, q)
		if err != nil {
			return nil, err
		}
		if a.code == http.StatusForbidden {
			return nil, fmt.Errorf("%w: %s: status 403", ErrUnauthorized, q)
		}
		if a.code != http.StatusUnauthorized {
			return a, nil
		}
		if authorized {
			ep.forget(c, auth)
			auth = ep.authorizer(c, q.scope)
		}
		// A challenge by a host that a redirect led to is not answered: the credentials are not for it.
		if answered || resp.Request.URL.Host != ep.Host || auth.AddResponses(ctx, []*http.Response{resp}) != nil {
			break
		}
		answered = true
	}
	if noToken != nil {
		return nil, noToken
	}
	return nil, fmt.Errorf("%w: %s: status 401", ErrUnauthorized, q)
}

// authorize makes the request, with a token or password if the host has challenged before. authorized says that
// there was one.
func (ep *endpoint) authorize(ctx context.Context, q *ask, auth docker.Authorizer) (req *http.Request, authorized bool, err error) {
	req, err = ep.request(context.WithValue(ctx, chainKey{}, &chain{}), q.method, q.url, q.accept)
	if err != nil {
		return nil, false, err
	}
	before := req.Header.Get("Authorization")
	// No token service may be spoken to less safely than its registry.
	ctx = context.WithValue(ctx, chainKey{}, &chain{scheme: ep.spoken(), upgrade: true, token: true})
	if err := auth.Authorize(ctx, req); err != nil {
		return nil, false, tokenError(err, q)
	}
	return req, req.Header.Get("Authorization") != before, nil
}

// tokenError words why there is no token. The token service's own words are left out, as it has seen the password.
func tokenError(err error, q *ask) error {
	what := fmt.Sprintf("getting a token for %s", q)
	var status remoteerrors.ErrUnexpectedStatus
	if !errors.As(err, &status) {
		var at *url.Error
		if errors.As(err, &at) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || isExceeded(err) {
			return transportError(err, what)
		}
		return fmt.Errorf("%w: %s: the token service's answer holds none", ErrUnauthorized, what)
	}
	if status.StatusCode >= 500 || status.StatusCode == http.StatusTooManyRequests {
		return fmt.Errorf("%w: %s: status %d", ErrUnavailable, what, status.StatusCode)
	}
	return fmt.Errorf("%w: %s: status %d", ErrUnauthorized, what, status.StatusCode)
}

func isExceeded(err error) bool {
	var exceeded *limits.Exceeded
	return errors.As(err, &exceeded)
}

// exchange sends one request and reads its answer. The response itself is given back for its challenge alone; its
// body is closed.
func (ep *endpoint) exchange(req *http.Request, q *ask) (a *answer, resp *http.Response, err error) {
	start := time.Now()
	defer func() {
		code := 0
		if resp != nil {
			code = resp.StatusCode
		}
		ep.observe(ep.Host, q.operation, code, time.Since(start), err)
	}()
	resp, err = ep.Client.Do(req)
	if err != nil {
		return nil, nil, transportError(err, q.String())
	}
	defer func() { _ = resp.Body.Close() }()
	ep.learnScheme(resp)
	a = &answer{code: resp.StatusCode, header: resp.Header}
	if a.code != http.StatusOK || q.method == http.MethodHead {
		// Read so that the connection can be used again; a body that goes on costs the connection.
		a.body, _ = io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return a, resp, nil
	}
	if err := q.bound.Check(resp.ContentLength); err != nil {
		return nil, resp, fmt.Errorf("%s: %w", q, err)
	}
	if a.body, err = q.budget.readAll(resp.Body, q.bound); err != nil {
		return nil, resp, transportError(err, q.String())
	}
	return a, resp, nil
}

// learnScheme remembers what is really spoken with the host, which for a local registry may be http where the
// configuration leaves it open.
func (ep *endpoint) learnScheme(resp *http.Response) {
	if resp.Request.URL.Host != ep.Host {
		return
	}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	ep.scheme = resp.Request.URL.Scheme
}

func (ep *endpoint) spoken() string {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if ep.scheme == "" {
		return ep.Scheme
	}
	return ep.scheme
}
