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

// maxAccepted bounds for how many repositories and credentials it is remembered what a host took.
const maxAccepted = 256

// endpoint is one host to ask for one registry name, with what was learnt about it.
type endpoint struct {
	docker.RegistryHost
	registry string // the name in the image reference
	agent    string
	observe  func(host, operation string, code int, d time.Duration, err error)

	// authorizers hold tokens, of all hosts.
	authorizers *lru.Cache[authorizerKey, *keptAuthorizer]
	// accepted remembers which credentials the host took for a repository, so that refused ones are not tried
	// first each time.
	accepted *lru.Cache[acceptedKey, string]

	mu        sync.Mutex
	scheme    string // as last spoken; "" before the first answer
	referrers referrersAPI
}

type acceptedKey struct{ repository, request string }

func (h *hostSets) newEndpoint(host docker.RegistryHost, registry string) (*endpoint, error) {
	accepted, err := lru.New[acceptedKey, string](maxAccepted)
	if err != nil {
		return nil, fmt.Errorf("making the cache of accepted credentials: %w", err)
	}
	return &endpoint{RegistryHost: host, registry: registry, agent: h.agent, observe: h.observe, authorizers: h.authorizers, accepted: accepted}, nil
}

// close gives up what is kept for the host: connections, and tokens.
func (ep *endpoint) close() {
	ep.Client.CloseIdleConnections()
	for _, key := range ep.authorizers.Keys() {
		if key.host == ep {
			ep.authorizers.Remove(key)
		}
	}
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

// canPull says whether the host is trusted with content by digest.
func (ep *endpoint) canPull() bool { return ep.Capabilities.Has(docker.HostCapabilityPull) }
