package firsthand

import (
	"context"
	"fmt"
	"syscall"

	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/sight"
)

// Sync is cosentry sync on a host. It is nobody there, and so is whoever has broken out of some other container: it is known as
// the user whose folder the cluster's documents are in. Whoever can pass for it could write documents, which is worse than metrics.
type Sync struct {
	// Root is where the host's root is mounted.
	Root string
	// Address is where it shows its metrics; empty: it is not asked.
	Address string
}

// Metrics are what sync shows at /metrics: foreign text, of 16 MiB at most. asked is false where it has no business, and where
// the settings that would tell cannot be read.
func (s Sync) Metrics(ctx context.Context) (text []byte, asked bool, err error) {
	c, err := settings(s.Root)
	if err != nil || s.Address == "" || c.ClusterPolicies.Dir == "" {
		return nil, false, err
	}
	tree, err := files.Open(s.Root)
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
	text, err = sight.Server{URL: "http://" + s.Address, User: int(st.Uid)}.Get(ctx, "/metrics", maxShown)
	return text, true, err
}
