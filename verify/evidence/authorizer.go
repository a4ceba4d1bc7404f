package evidence

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

const (
	// maxAuthorizers bounds for how many hosts and credentials tokens are kept, on the whole node.
	maxAuthorizers = 128
	// maxScopes bounds for how many repositories one of containerd's authorizers keeps a token. It never drops one, and
	// pods choose the names: 300 pulls that failed once filled 500 MiB.
	maxScopes = 16
	// maxChallenge is the size of a challenge, in bytes. It is kept with the tokens.
	maxChallenge = 8 << 10
)

type authorizerKey struct {
	host        *endpoint
	credentials string // their fingerprint
}

// keptAuthorizer is one that is kept from one question to the next, until it has seen too many scopes.
type keptAuthorizer struct {
	docker.Authorizer
	scopes map[string]bool // guarded by the endpoint's mu
}

// authorizer gives the one that keeps the tokens for these credentials.
func (ep *endpoint) authorizer(c Credentials, scope string) docker.Authorizer {
	key := authorizerKey{ep, c.Fingerprint()}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	a, ok := ep.authorizers.Get(key)
	if !ok || !a.scopes[scope] && len(a.scopes) >= maxScopes {
		a = &keptAuthorizer{ep.newAuthorizer(c), map[string]bool{}}
		ep.authorizers.Add(key, a)
	}
	a.scopes[scope] = true
	return a
}

// forget drops an authorizer that failed. containerd's remembers a failed token request, and a token without an
// expiry, for as long as it lives; there it lives for one pull, here it would refuse forever.
func (ep *endpoint) forget(c Credentials, failed docker.Authorizer) {
	key := authorizerKey{ep, c.Fingerprint()}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if a, ok := ep.authorizers.Peek(key); ok && a == failed {
		ep.authorizers.Remove(key)
	}
}

// newAuthorizer makes the one that answers the host's challenges with these credentials: containerd's own, except for
// a registry token, for which that has no way.
func (ep *endpoint) newAuthorizer(c Credentials) docker.Authorizer {
	if c.RegistryToken != "" && c.Username == "" && c.IdentityToken == "" && c.Auth == "" {
		token := c.RegistryToken
		if !c.meantFor(ep.Host) {
			token = ""
		}
		return &bearer{host: ep.Host, token: token}
	}
	header := http.Header{}
	for name, values := range ep.Header {
		header[name] = values
	}
	if header.Get("User-Agent") == "" {
		header.Set("User-Agent", ep.agent)
	}
	return &oneAtATime{turn: make(chan struct{}, 1), Authorizer: docker.NewDockerAuthorizer(
		docker.WithAuthClient(ep.Client),
		docker.WithAuthHeader(header),
		docker.WithAuthCreds(func(host string) (string, string, error) {
			if host != ep.Host || !c.meantFor(host) {
				return "", "", nil
			}
			username, secret := c.secret()
			return username, secret, nil
		}),
	)}
}

// oneAtATime guards containerd's authorizer, which reads the expiry of a token while another request writes it. It
// waits no longer than the request may take.
type oneAtATime struct {
	docker.Authorizer
	turn chan struct{}
}

func (o *oneAtATime) Authorize(ctx context.Context, req *http.Request) error {
	return o.take(ctx, func() error { return o.Authorizer.Authorize(ctx, req) })
}

func (o *oneAtATime) AddResponses(ctx context.Context, responses []*http.Response) error {
	for _, resp := range responses {
		if len(strings.Join(resp.Header.Values("WWW-Authenticate"), "")) > maxChallenge {
			return errors.New("the challenge is too long")
		}
	}
	return o.take(ctx, func() error { return o.Authorizer.AddResponses(ctx, responses) })
}

func (o *oneAtATime) take(ctx context.Context, do func() error) error {
	select {
	case o.turn <- struct{}{}:
		defer func() { <-o.turn }()
		return do()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// bearer sends a registry token as it is.
type bearer struct{ host, token string }

func (b *bearer) Authorize(_ context.Context, req *http.Request) error {
	if b.token != "" && req.URL.Host == b.host {
		req.Header.Set("Authorization", "Bearer "+b.token)
	}
	return nil
}

func (b *bearer) AddResponses(context.Context, []*http.Response) error {
	return errors.New("a registry token cannot be exchanged")
}
