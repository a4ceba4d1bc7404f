package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/criproxy"
)

// agentAt asks the agent of the host on the loopback address of its settings, and sync at an address of its own.
type agentAt struct {
	hostProofs
	// sync is where cosentry sync shows its metrics; empty: it is not asked.
	sync string
	// noted is told why one of them could not be asked; it may be nil.
	noted *asked
}

// asked logs why somebody cannot be asked, each reason once.
type asked struct {
	log *slog.Logger

	mu   sync.Mutex
	said map[string]string
}

func (a *asked) note(who string, err error) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	why := ""
	if err != nil {
		why = err.Error()
	}
	if a.said[who] == why {
		return
	}
	if a.said == nil {
		a.said = map[string]string{}
	}
	a.said[who] = why
	if err != nil {
		a.log.Warn("metrics cannot be had", "of", who, "error", err)
		return
	}
	a.log.Info("metrics can be had again", "of", who)
}

// maxShown bounds the metrics of the agent and of sync, in bytes. Real ones are under 64 KiB.
const maxShown = 16 << 20

// errNoAddress is why an agent cannot be asked over HTTP. It is a setting like others.
var errNoAddress = errors.New("http.address is empty in the settings, so the agent cannot be asked")

// get gets what the agent has at path. The address is loopback whatever the settings say: they were checked.
func (a agentAt) get(ctx context.Context, path string) ([]byte, error) {
	c, err := a.settings()
	if err != nil {
		return nil, err
	}
	if c.HTTP.Address == "" {
		return nil, errNoAddress
	}
	body, err := sight.Server{URL: "http://" + c.HTTP.Address}.Get(ctx, path, maxShown)
	if err != nil {
		return nil, fmt.Errorf("asking the agent: %w", err)
	}
	return body, nil
}

// ready says why the agent is not ready. One that serves no HTTP is ready when it answers on its socket: whether it has policies to
// judge by only its log tells then.
func (a agentAt) ready(ctx context.Context) error {
	_, err := a.get(ctx, "/readyz")
	if errors.Is(err, errNoAddress) {
		err = a.ping(ctx)
	}
	return err
}

// ping asks whether the agent answers on its socket.
func (a agentAt) ping(ctx context.Context) error {
	c, err := a.settings()
	if err != nil {
		return err
	}
	tree, err := files.Open(a.root)
	if err != nil {
		return err
	}
	defer tree.Close()
	here, err := tree.Path(c.Listen)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return criproxy.Ping(ctx, here)
}

// syncMetrics are what sync shows; asked is false where it has no business. sync is nobody on the host, and so is whoever has
// broken out of some other container: it is known as the one whose folder the cluster's documents are in. Whoever can pass for it
// could write documents, which is worse than metrics.
func (a agentAt) syncMetrics(ctx context.Context) (text []byte, asked bool, err error) {
	c, err := a.settings()
	if err != nil || a.sync == "" || c.ClusterPolicies.Dir == "" {
		return nil, false, err
	}
	tree, err := files.Open(a.root)
	if err != nil {
		return nil, true, err
	}
	defer tree.Close()
	fi, err := tree.Stat(c.ClusterPolicies.Dir)
	if err != nil {
		return nil, true, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, true, fmt.Errorf("whose %s is cannot be told", c.ClusterPolicies.Dir)
	}
	text, err = sight.Server{URL: "http://" + a.sync, User: int(st.Uid), Every: true}.Get(ctx, "/metrics", maxShown)
	return text, true, err
}
