package evidence

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	lru "github.com/hashicorp/golang-lru/v2"
)

// maxAuthorizers bounds how many different credentials one host's tokens are kept for.
const maxAuthorizers = 256

// endpoint is one host to ask for one registry name, with what was learnt about it.
type endpoint struct {
	docker.RegistryHost
	registry string // the name in the image reference
	agent    string
	observe  func(host, operation string, code int, d time.Duration, err error)

	// authorizers hold tokens, by the credentials' fingerprint.
	authorizers *lru.Cache[string, docker.Authorizer]
	// accepted remembers which credentials the host took for a repository, so that refused ones are not tried
	// first each time.
	accepted *lru.Cache[acceptedKey, string]

	mu        sync.Mutex
	scheme    string // as last spoken; "" before the first answer
	referrers referrersAPI
}

type acceptedKey struct{ repository, request string }

func newEndpoint(host docker.RegistryHost, registry, agent string, observe func(string, string, int, time.Duration, error)) (*endpoint, error) {
	authorizers, err := lru.New[string, docker.Authorizer](maxAuthorizers)
	if err != nil {
		return nil, fmt.Errorf("making the cache of tokens: %w", err)
	}
	accepted, err := lru.New[acceptedKey, string](maxAuthorizers)
	if err != nil {
		return nil, fmt.Errorf("making the cache of accepted credentials: %w", err)
	}
	return &endpoint{RegistryHost: host, registry: registry, agent: agent, observe: observe, authorizers: authorizers, accepted: accepted}, nil
}

// isMirror says whether the host stands in for another, and must be told for which.
func (ep *endpoint) isMirror() bool {
	return ep.Host != ep.registry && (ep.registry != "docker.io" || ep.Host != "registry-1.docker.io")
}

// url of an object of a repository. A mirror is told the registry's name with ?ns=, as containerd does.
func (ep *endpoint) url(repository string, parts ...string) *url.URL {
	u := &url.URL{
		Scheme: ep.Scheme,
		Host:   ep.Host,
		Path:   path.Join(append([]string{"/", ep.Path, repository}, parts...)...),
	}
	if ep.isMirror() {
		u.RawQuery = url.Values{"ns": {ep.registry}}.Encode()
	}
	return u
}

// request makes a request with the headers of hosts.toml.
func (ep *endpoint) request(ctx context.Context, method string, u *url.URL, accept string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("making a request to %s: %s", ep.Host, clean(err))
	}
	for name, values := range ep.Header {
		req.Header[name] = append(req.Header[name], values...)
	}
	req.Header.Set("Accept", accept)
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", ep.agent)
	}
	return req, nil
}

// authorizer gives the one that keeps the tokens for these credentials.
func (ep *endpoint) authorizer(c Credentials) docker.Authorizer {
	key := c.Fingerprint()
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if a, ok := ep.authorizers.Get(key); ok {
		return a
	}
	a := ep.newAuthorizer(c)
	ep.authorizers.Add(key, a)
	return a
}

// forget drops an authorizer that failed. containerd's remembers a failed token request, and a token without an
// expiry, for as long as it lives; there it lives for one pull, here it would refuse forever.
func (ep *endpoint) forget(c Credentials, failed docker.Authorizer) {
	key := c.Fingerprint()
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if a, ok := ep.authorizers.Peek(key); ok && a == failed {
		ep.authorizers.Remove(key)
	}
}

// canPull says whether the host is trusted with content by digest.
func (ep *endpoint) canPull() bool { return ep.Capabilities.Has(docker.HostCapabilityPull) }
