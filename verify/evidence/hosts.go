package evidence

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/sirupsen/logrus"
)

const (
	// maxHostSets bounds how many registries are remembered: transports, connections and tokens hang on them,
	// and pods choose the names.
	maxHostSets = 256
	// hostSetAge is how long a set is used, and so how long anything that was learnt about a registry is believed.
	// CA files outside the folder are read again by then.
	hostSetAge = 10 * time.Minute
)

// hostSet is what containerd's configuration makes of one registry name: the hosts to ask, in order.
type hostSet struct {
	endpoints []*endpoint
	stamp     string
	born      time.Time
}

func (s *hostSet) close() {
	for _, ep := range s.endpoints {
		ep.close()
	}
}

// hostSets keeps the sets of hosts. Building a transport for each request would cost a TLS handshake each, and
// has filled the memory of others who did it.
type hostSets struct {
	dirs    []string
	agent   string
	observe func(host, operation string, code int, d time.Duration, err error)
	log     *slog.Logger
	now     func() time.Time

	authorizers *lru.Cache[authorizerKey, *keptAuthorizer]

	mu   sync.Mutex
	sets *lru.Cache[string, *hostSet]
}

func newHostSets(o Options) (*hostSets, error) {
	sets, err := lru.NewWithEvict(maxHostSets, func(_ string, s *hostSet) { s.close() })
	if err != nil {
		return nil, fmt.Errorf("making the cache of hosts: %w", err)
	}
	authorizers, err := lru.New[authorizerKey, *keptAuthorizer](maxAuthorizers)
	if err != nil {
		return nil, fmt.Errorf("making the cache of tokens: %w", err)
	}
	h := &hostSets{agent: o.UserAgent, observe: o.Observe, log: o.Log, now: time.Now, authorizers: authorizers, sets: sets}
	for _, dir := range filepath.SplitList(o.HostsDir) {
		if dir != "" {
			h.dirs = append(h.dirs, dir)
		}
	}
	return h, nil
}

// get gives the hosts for a registry name, made anew when the folder with its configuration has changed.
func (h *hostSets) get(registry string) (*hostSet, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sweep()
	dir, err := h.dir(registry)
	if err != nil {
		return nil, fmt.Errorf("looking for the host configuration of %s: %w", registry, err)
	}
	stamp, err := stampOf(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the host configuration of %s: %w", registry, err)
	}
	old, found := h.sets.Get(registry)
	if found && old.stamp == stamp {
		return old, nil
	}
	set, err := h.build(registry, dir)
	if err != nil {
		return nil, err
	}
	set.stamp, set.born = stamp, h.now()
	if found {
		old.close()
	}
	h.sets.Add(registry, set)
	return set, nil
}

// sweep drops the sets that are too old, also those of registries that nobody asks for again: a name that was tried
// once must not hold its tokens for as long as the agent runs.
func (h *hostSets) sweep() {
	now := h.now()
	for _, registry := range h.sets.Keys() {
		if set, ok := h.sets.Peek(registry); ok && now.Sub(set.born) >= hostSetAge {
			h.sets.Remove(registry)
		}
	}
}

// dir finds the folder as containerd does: the first of the roots that has one for the host or a _default.
func (h *hostSets) dir(registry string) (string, error) {
	for _, root := range h.dirs {
		dir, err := config.HostDirFromRoot(root)(registry)
		if err != nil && !errdefs.IsNotFound(err) {
			return "", err
		}
		if dir != "" {
			return dir, nil
		}
	}
	return "", nil
}

// stampOf changes when the folder's content does: hosts.toml by its bytes, certificates by name, size and time.
func stampOf(dir string) (string, error) {
	if dir == "" {
		return "", nil
	}
	var stamp strings.Builder
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		info, err := os.Stat(filepath.Join(dir, entry.Name()))
		if err != nil {
			continue // gone meanwhile, or a dangling link: the name alone is the stamp
		}
		fmt.Fprintf(&stamp, "%s %d %d\n", entry.Name(), info.Size(), info.ModTime().UnixNano())
	}
	raw, err := os.ReadFile(filepath.Join(dir, "hosts.toml"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	fmt.Fprintf(&stamp, "%s %x", dir, sha256.Sum256(raw))
	return stamp.String(), nil
}

// build has containerd's own code read the configuration, so that every setting means what it means there.
func (h *hostSets) build(registry, dir string) (*hostSet, error) {
	g := &guard{observe: h.observe, allowed: map[string]bool{}}
	heard := &listener{log: h.log, registry: registry}
	hosts, err := config.ConfigureHosts(heard.context(), config.HostOptions{
		HostDir:      func(string) (string, error) { return dir, nil },
		UpdateClient: g.client,
	})(registry)
	if err == nil {
		err = heard.err
	}
	if err != nil {
		return nil, fmt.Errorf("reading the host configuration of %s in %s: %w", registry, dir, err)
	}
	set := &hostSet{}
	for _, host := range hosts {
		if isOwners(dir, registry, host.Host) {
			g.allow(&url.URL{Host: host.Host})
		}
		ep, err := h.newEndpoint(host, registry)
		if err != nil {
			return nil, err
		}
		set.endpoints = append(set.endpoints, ep)
	}
	return set, nil
}

// isOwners says whether a host of the set for a registry stands in the owner's configuration. Without a folder of its
// own the last host of a set is the registry's name, which is the word of a pod's author.
func isOwners(dir, registry, host string) bool {
	return dir != "" && (filepath.Base(dir) != "_default" || host != registry)
}

// with gives the hosts that are trusted with all of these operations.
func (s *hostSet) with(caps docker.HostCapabilities) []*endpoint {
	var out []*endpoint
	for _, ep := range s.endpoints {
		if ep.Capabilities.Has(caps) {
			out = append(out, ep)
		}
	}
	return out
}

// listener hears what containerd's configuration code logs. A hosts.toml that cannot be read is only logged there,
// and the registry is then asked without mirrors, CA and headers. On the way to a refusal the reader should be told
// of the broken file instead, so here it is an error.
type listener struct {
	log      *slog.Logger
	registry string
	err      error
}

func (l *listener) context() context.Context {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	logger.AddHook(l)
	return log.WithLogger(context.Background(), logrus.NewEntry(logger))
}

func (l *listener) Levels() []logrus.Level { return logrus.AllLevels }

func (l *listener) Fire(e *logrus.Entry) error {
	if e.Level > logrus.ErrorLevel {
		l.log.Debug("host configuration", "registry", l.registry, "message", e.Message)
		return nil
	}
	cause, _ := e.Data[logrus.ErrorKey].(error)
	l.err = join(l.err, errors.New(escape(e.Message)), cause)
	return nil
}

var _ http.RoundTripper = (*guardedTransport)(nil)
