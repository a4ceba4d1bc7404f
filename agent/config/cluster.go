package config

import (
	"crypto"
	"path/filepath"
	"strings"

	"github.com/cosentry/cosentry/verify/policy"
)

// ClusterPolicies is where the cluster's documents are, as `cosentry sync` writes them.
type ClusterPolicies struct {
	// Dir is empty where the cluster has no say.
	Dir string `yaml:"dir"`
	// PublicKey is PEM; documents that none of its keys signed are not taken. Empty: they need no signature.
	PublicKey string `yaml:"publicKey"`
}

func (c ClusterPolicies) validate(fault faulter, path pather) {
	if c.Dir != "" {
		path("clusterPolicies.dir", c.Dir)
	}
	if c.PublicKey == "" {
		return
	}
	if c.Dir == "" {
		fault("clusterPolicies.publicKey", "is of no use while clusterPolicies.dir is empty")
	}
	if _, err := policy.ParsePublicKeys([]byte(c.PublicKey), crypto.SHA256, false); err != nil {
		fault("clusterPolicies.publicKey", "%v", err)
	}
}

// LabelsFromCluster reports whether the settings say that the namespaces' labels come by way of the API server. Then they say
// where the cluster's policies hold, and nothing about the node's own: whoever can write to the API server could free any
// namespace of these. It compares paths. That labels come from there by way of links, package namespaces sees when it reads them.
func (c Config) LabelsFromCluster() bool {
	if c.Namespaces.Enforce.Mode != ScopeLabelled || c.ClusterPolicies.Dir == "" {
		return false
	}
	dir := filepath.Clean(c.ClusterPolicies.Dir) + string(filepath.Separator)
	return strings.HasPrefix(filepath.Clean(c.Namespaces.File), dir)
}
