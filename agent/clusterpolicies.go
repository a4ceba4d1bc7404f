package main

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/cosentry/cosentry/agent/cluster"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/metrics"
	"github.com/cosentry/cosentry/agent/reload"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/verify/trust"
)

// clusterPatience is how long the agent's start waits for the cluster's policies.
const clusterPatience = 10 * time.Second

// clusterFolder is where, in the folders of what was fetched and of what is kept, the cluster's own is: what policies of the
// cluster have fetched takes no room from what the node's own need.
const clusterFolder = "cluster"

// clusterTrust says where that is which the cluster's policies refer to. Unsigned ones may not name what the node holds.
func clusterTrust(c config.Config) config.Trust {
	t := c.Trust
	if t.CacheDir != "" {
		t.CacheDir = filepath.Join(t.CacheDir, clusterFolder)
	}
	if c.ClusterPolicies.PublicKey == "" {
		t.Dir, t.Roots = "", nil
	}
	return t
}

// setUpClusterPolicies loads what the cluster adds to the node's own policies, if it has a say.
func (a *agent) setUpClusterPolicies() error {
	c := a.config
	a.metrics.WatchCluster(reload.ClusterStates(), a.clusterMetrics)
	if c.ClusterPolicies.Dir == "" {
		return nil
	}
	keys, err := cluster.ParseKeys(c.ClusterPolicies.PublicKey)
	if err != nil {
		return err
	}
	t := clusterTrust(c)
	if a.clusterKeeper, err = newKeeper(t, false, a.log.With("layer", "cluster"), a.metrics.TrustFetched); err != nil {
		return err
	}
	a.cluster = reload.NewCluster(reload.ClusterOptions{
		Dir: c.ClusterPolicies.Dir, Keys: keys, Own: trust.Folder(t.Dir),
		References: a.clusterKeeper, Verifier: a.verifier, Log: a.log,
	})
	a.cluster.Start(clusterPatience)
	return nil
}

func (a *agent) clusterMetrics() metrics.Cluster {
	if a.cluster == nil {
		return metrics.Cluster{State: reload.ClusterOff}
	}
	s := a.cluster.State()
	beat, _ := cluster.Beat(a.cluster.Dir())
	return metrics.Cluster{State: s.State, Revision: s.Revision, Count: s.Count, Skipped: len(s.Skipped), Heartbeat: beat}
}

// maxSkippedShown bounds the documents that a status names.
const maxSkippedShown = 100

func (a *agent) clusterStatus() *sight.ClusterPolicies {
	if a.cluster == nil {
		return nil
	}
	s := a.cluster.State()
	out := &sight.ClusterPolicies{
		Dir: a.cluster.Dir(), State: s.State, Set: s.ID, Revision: s.Revision, Count: s.Count, Loaded: s.Loaded, Names: s.Names,
		Warnings: s.Warnings, Broken: s.Broken, Signed: a.config.ClusterPolicies.PublicKey != "", SkippedCount: len(s.Skipped),
	}
	for _, d := range s.Skipped[:min(len(s.Skipped), maxSkippedShown)] {
		out.Skipped = append(out.Skipped, sight.Skipped(d))
	}
	beat, err := cluster.Beat(a.cluster.Dir())
	switch {
	case err == nil:
		out.Heartbeat = beat
	case !errors.Is(err, cluster.ErrNone):
		out.HeartbeatFault = err.Error()
	}
	return out
}
