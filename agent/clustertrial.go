package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/cosentry/cosentry/agent/cluster"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust"
)

// clusterLayer is the cluster's policies for a command, with where that is which they refer to.
type clusterLayer struct {
	policies *policy.Set // nil: none have come
	held     trust.Files
	trust    config.Trust
	skipped  []cluster.Skipped
}

// clusterOnDisk is what sync has written on this node.
func clusterOnDisk(ctx context.Context, c config.Config) (clusterLayer, error) {
	keys, err := cluster.ParseKeys(c.ClusterPolicies.PublicKey)
	if err != nil {
		return clusterLayer{}, err
	}
	l, err := cluster.Load(ctx, c.ClusterPolicies.Dir, keys)
	if errors.Is(err, cluster.ErrNone) {
		return clusterLayer{}, nil
	}
	if err != nil {
		return clusterLayer{}, err
	}
	layer := clusterLayer{policies: l.Policies, trust: clusterTrust(c), skipped: l.Skipped}
	layer.held = trust.Folder(layer.trust.Dir)
	if l.Held != nil {
		layer.held = l.Held
	}
	return layer, nil
}

// clusterFiles are files as if they had come from the cluster, and held a folder of what would have come with them.
func clusterFiles(c config.Config, paths []string, held string) (clusterLayer, error) {
	set, err := readPolicies(paths)
	if err != nil {
		return clusterLayer{}, fmt.Errorf("policies of --cluster-policy: %w", err)
	}
	c.ClusterPolicies.PublicKey = ""
	return clusterLayer{policies: set, held: trust.Folder(held), trust: clusterTrust(c)}, nil
}

// addCluster puts the cluster's policies beside those of the trial. That they cannot be had is an error: nobody knows then
// what they would refuse.
func (t trial) addCluster(ctx context.Context, v *verify.Verifier) error {
	if t.added == nil {
		return nil
	}
	layer, err := t.added(ctx)
	if err != nil || layer.policies == nil {
		return err
	}
	refs, err := referencesIn(ctx, layer.trust, layer.held, layer.policies, t.online)
	if err != nil {
		return err
	}
	v.SetCluster(layer.policies, refs)
	return nil
}
