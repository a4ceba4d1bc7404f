package firsthand

import (
	"context"

	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/sight"
)

// Agent is the agent of a host, asked on the socket at which root asks it.
type Agent struct {
	// Root is where the host's root is mounted.
	Root string
}

// Metrics are what the agent shows at /metrics: foreign text, of 16 MiB at most.
func (a Agent) Metrics(ctx context.Context) ([]byte, error) { return a.get(ctx, "/metrics") }

// Ready says why the agent is not ready.
func (a Agent) Ready(ctx context.Context) error {
	_, err := a.get(ctx, "/readyz")
	return err
}

// get gets what the agent has at path. Where its socket is, the host's settings say.
func (a Agent) get(ctx context.Context, path string) ([]byte, error) {
	c, err := settings(a.Root)
	if err != nil {
		return nil, err
	}
	tree, err := files.Open(a.Root)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	here, err := tree.Path(c.AgentSocket())
	if err != nil {
		return nil, err
	}
	return sight.Agent{Socket: here}.Get(ctx, path, maxShown)
}
