package evidence

import (
	"context"
	"errors"
	"net/http"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

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
