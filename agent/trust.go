package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/metrics"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/trust"
)

// trustKinds are the kinds of what policies can refer to.
func trustKinds() []string {
	return []string{trust.KindSecret, trust.KindConfigMap, trust.KindKMS, trust.KindRemote, trust.KindRoot}
}

// newKeeper makes what holds the things that policies refer to. Offline, nothing of them will be fetched. observe may be nil.
func newKeeper(c config.Trust, offline bool, log *slog.Logger, observe func(kind, name string, err error)) (*trust.Keeper, error) {
	o := trust.Options{
		Dir: c.Dir, CacheDir: c.CacheDir, UpdatePublicGood: c.UpdatePublicGood, Offline: offline,
		Refresh: time.Duration(c.Refresh), Log: log, Observe: observe,
	}
	for _, r := range c.Roots {
		o.Roots = append(o.Roots, trust.RootFile{Name: r.Name, Path: r.File})
	}
	return trust.New(o)
}

// setUpTrust makes the agent's keeper, which is not fetching anything yet.
func (a *agent) setUpTrust() (err error) {
	if a.keeper, err = newKeeper(a.config.Trust, false, a.log, a.metrics.TrustFetched); err != nil {
		return err
	}
	a.metrics.WatchTrust(trustKinds(), func() (all []metrics.Trust) {
		for _, s := range a.trustStatus() {
			all = append(all, metrics.Trust{Kind: s.Kind, Name: s.Name, Cluster: s.Layer != "", OK: s.OK, Unkept: s.Disk != "", Root: s.Kind == trust.KindRoot, Expires: s.Expires, Ends: s.Ends})
		}
		return all
	})
	return nil
}

// askAgain has what policies refer to asked for again at each hangup, until ctx ends.
func (a *agent) askAgain(ctx context.Context, hangups <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			a.keeper.Again()
			if a.clusterKeeper != nil {
				a.clusterKeeper.Again()
			}
		}
	}
}

// trustStatus has what the node's own policies refer to first.
func (a *agent) trustStatus() (all []sight.Trust) {
	tell := func(layer verify.Layer, k *trust.Keeper) {
		for _, s := range k.Status() {
			all = append(all, sight.Trust{
				Layer: string(layer), Name: s.Name, Kind: s.Kind, OK: s.OK, Error: s.Error,
				Fetched: s.Fetched, Expires: s.Expires, Ends: s.Ends, Disk: s.Disk, From: s.From,
			})
		}
	}
	tell(verify.NodeLayer, a.keeper)
	if a.clusterKeeper != nil {
		tell(verify.ClusterLayer, a.clusterKeeper)
	}
	return all
}
