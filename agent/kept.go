package main

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
)

// keptPatience is how long the agent's end waits for what is still to be written of evidence.
const keptPatience = 2 * time.Second

// openStore opens what keeps evidence on disk, for the node's own policies and for the cluster's; nil: it is not kept.
func (a *agent) openStore(parts ...string) verify.Keeper {
	c := a.config.Evidence
	if c.Dir == "" {
		return nil
	}
	store, err := evidence.OpenStore(filepath.Join(append([]string{c.Dir}, parts...)...), int(c.Size), a.log)
	if err != nil {
		a.log.Warn("signatures are not kept on disk", "error", err)
		return nil
	}
	a.stores = append(a.stores, store)
	return store
}

// closeStores has evidence written that is not yet, unless the disk takes too long.
func (a *agent) closeStores() {
	ctx, cancel := context.WithTimeout(context.Background(), keptPatience)
	defer cancel()
	var all sync.WaitGroup
	for _, s := range a.stores {
		all.Go(func() {
			if err := s.Close(ctx); err != nil {
				a.log.Warn("signatures may not be kept on disk", "error", err)
			}
		})
	}
	all.Wait()
}
