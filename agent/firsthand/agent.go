package firsthand

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/criproxy"
)

// ErrNoAddress is why an agent cannot be asked over HTTP. It is a setting like others.
var ErrNoAddress = errors.New("http.address is empty in the settings, so the agent cannot be asked")

// pingTimeout bounds a question on the agent's socket.
const pingTimeout = 5 * time.Second

// Agent is the agent of a host, asked where the host's settings say that it is.
type Agent struct {
	// Root is where the host's root is mounted.
	Root string
}

// Metrics are what the agent shows at /metrics: foreign text, of 16 MiB at most. The error wraps [ErrNoAddress] if it serves no HTTP.
func (a Agent) Metrics(ctx context.Context) ([]byte, error) { return a.get(ctx, "/metrics") }

// Ready says why the agent is not ready. One that serves no HTTP is ready when it answers on its socket: whether it has policies to
// judge by only its log tells then.
func (a Agent) Ready(ctx context.Context) error {
	_, err := a.get(ctx, "/readyz")
	if errors.Is(err, ErrNoAddress) {
		err = a.Ping(ctx)
	}
	return err
}

// Ping says why the agent does not answer on its socket, within 5 seconds.
func (a Agent) Ping(ctx context.Context) error {
	c, err := settings(a.Root)
	if err != nil {
		return err
	}
	tree, err := files.Open(a.Root)
	if err != nil {
		return err
	}
	defer tree.Close()
	here, err := tree.Path(c.Listen)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return criproxy.Ping(ctx, here)
}

// get gets what the agent has at path. The address is loopback whatever the settings say: they were checked.
func (a Agent) get(ctx context.Context, path string) ([]byte, error) {
	c, err := settings(a.Root)
	if err != nil {
		return nil, err
	}
	if c.HTTP.Address == "" {
		return nil, ErrNoAddress
	}
	body, err := sight.Server{URL: "http://" + c.HTTP.Address}.Get(ctx, path, maxShown)
	if err != nil {
		return nil, fmt.Errorf("asking the agent: %w", err)
	}
	return body, nil
}
