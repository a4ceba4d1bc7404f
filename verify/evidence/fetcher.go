package evidence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/rescue"
)

// Options of a Fetcher. The zero value asks registries as containerd does without configuration.
type Options struct {
	// HostsDir is containerd's config_path: one folder with <host>/hosts.toml, or several separated by ':'.
	HostsDir string
	// DockerConfig is the path of the node's docker config. It is read again when it changes; it may be missing.
	DockerConfig string
	// RequestTimeout bounds one request, its token and its body included. Default: limits.RequestTimeout.
	RequestTimeout time.Duration
	// Observe is told of each exchange with a registry, if it is set. What it is told may be the labels of a metric,
	// except for the host, which pods choose. The operation is one of eight. The code is one of these, whatever the
	// registry answered: 0 where there was no answer, 200, 401, 403, 404, 405, 406, 429, 501, 502, 503, 504; for any
	// other that of its class, which is 100, 299, 300, 400 or 500; and 999 for what is in no class.
	Observe func(host, operation string, code int, d time.Duration, err error)
	// UserAgent is sent to registries. Default: cosentry.
	UserAgent string
	// Log is where a broken docker config is reported, and at debug level the stack of a panic. Default: nowhere.
	Log *slog.Logger
}

// Fetcher asks registries for signature material. It is safe for concurrent use, and keeps connections, tokens and
// what it learnt of registries from one call to the next.
type Fetcher struct {
	hosts   *hostSets
	node    *nodeCredentials
	timeout time.Duration
	log     *slog.Logger
}

// New makes a Fetcher. It asks nobody anything.
func New(o Options) (*Fetcher, error) {
	if o.RequestTimeout < 0 {
		return nil, fmt.Errorf("request timeout %v is negative", o.RequestTimeout)
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = limits.RequestTimeout
	}
	if o.UserAgent == "" {
		o.UserAgent = "cosentry"
	}
	if o.Observe == nil {
		o.Observe = func(string, string, int, time.Duration, error) {}
	}
	o.Observe = bounded(o.Observe)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	hosts, err := newHostSets(o)
	if err != nil {
		return nil, err
	}
	return &Fetcher{hosts: hosts, node: newNodeCredentials(o.DockerConfig, o.Log), timeout: o.RequestTimeout, log: o.Log}, nil
}

// repository is a name split into the registry, as image references spell it, and the path there.
type repository struct{ registry, path string }

// parseRepository accepts the canonical spelling alone: "busybox" could mean two things, and whoever asks has to
// have decided already which.
func parseRepository(name string) (repository, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return repository{}, fmt.Errorf("repository %s: %w", escape(name), err)
	}
	if !reference.IsNameOnly(named) || named.Name() != name {
		return repository{}, fmt.Errorf("repository %s: not in its canonical form, which is %s", escape(name), named.Name())
	}
	return repository{registry: reference.Domain(named), path: reference.Path(named)}, nil
}

func (r repository) String() string { return r.registry + "/" + r.path }

// begin prepares to ask about one repository.
func (f *Fetcher) begin(q Question) (*gathering, error) {
	repo, err := parseRepository(q.Repository)
	if err != nil {
		return nil, err
	}
	set, err := f.hosts.get(repo.registry)
	if err != nil {
		return nil, err
	}
	g := &gathering{
		fetcher: f, repo: repo, set: set, question: q, subject: q.Digest,
		slots:  make(chan struct{}, limits.Parallel.Max()),
		bundle: limits.Payload, budget: budget{material: q.asked().Bound()},
	}
	if q.Attestations {
		g.bundle = limits.Attestation
	}
	return g, nil
}

// candidates are the credentials to try at a host, in order: the request's own, the node's, none.
//
// The request's own go to every host that hosts.toml configures for the registry, because containerd sends them
// there in the pull itself, a mirror that wants a pull secret has no other, and the owner of the node chose the
// mirror. The node's are looked up by the name of the host that is really asked, so that those for a registry do
// not reach its mirrors.
func (f *Fetcher) candidates(ep *endpoint, repo repository, request []Credentials) []Credentials {
	host := repo.registry
	if ep.isMirror() {
		host = ep.Host
	}
	var out []Credentials
	for _, c := range slices.Concat(request, f.node.lookup(host, repo.path)) {
		if !c.IsZero() && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return append(out, Credentials{})
}

// Resolve asks which digest a tag names now. The answer is the registry's word and nothing more: whatever is
// decided has to be decided about the digest from here on.
//
// Errors say what was being resolved. They are ErrNotFound, ErrUnauthorized, ErrUnavailable, ErrMismatch,
// *limits.Exceeded.
func (f *Fetcher) Resolve(ctx context.Context, repository, tag string, c Credentials) (d digest.Digest, err error) {
	err = rescue.Do(f.log, "asking for the digest", func() (err error) {
		d, err = f.resolve(ctx, repository, tag, c)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("resolving %s:%s: %w", escape(repository), escape(tag), err)
	}
	return d, nil
}

func (f *Fetcher) resolve(ctx context.Context, repository, tag string, c Credentials) (digest.Digest, error) {
	g, err := f.begin(Question{Repository: repository, Credentials: []Credentials{c}})
	if err != nil {
		return "", err
	}
	if !isTag(tag) {
		return "", errors.New("not a tag")
	}
	var failed failures
	for _, ep := range g.set.with(docker.HostCapabilityPull | docker.HostCapabilityResolve) {
		d, err := g.resolve(ctx, ep, tag)
		if err == nil {
			return d, nil
		}
		failed.add(err)
	}
	return "", failed.foremost("a host that may resolve tags")
}

func isTag(tag string) bool {
	m := reference.TagRegexp.FindStringIndex(tag)
	return m != nil && m[0] == 0 && m[1] == len(tag)
}

// resolve asks one host: by HEAD, or by GET where that gives no digest that can be used.
func (g *gathering) resolve(ctx context.Context, ep *endpoint, tag string) (digest.Digest, error) {
	u := ep.url(g.repo.path, "manifests", tag)
	a, q, err := g.ask(ctx, ep, "resolve", http.MethodHead, u, manifestTypes, limits.Manifest)
	if err != nil {
		return "", err
	}
	if a.code != http.StatusMethodNotAllowed {
		if err := a.err(q); err != nil {
			return "", err
		}
		if d := digest.Digest(a.header.Get("Docker-Content-Digest")); checkDigest(d) == nil {
			return d, nil
		}
	}
	a, q, err = g.ask(ctx, ep, "resolve", http.MethodGet, u, manifestTypes, limits.Manifest)
	if err != nil {
		return "", err
	}
	if err := a.err(q); err != nil {
		return "", err
	}
	return digest.FromBytes(a.body), nil
}
