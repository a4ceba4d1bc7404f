package main

import (
	"testing"

	"github.com/cosentry/cosentry/agent/config"
)

// Sync must not leave out what an agent goes by, nor have every node of a large cluster hold all its namespaces for nothing.
func TestSyncWatchesNamespacesWhereTheirLabelsCount(t *testing.T) {
	for name, c := range map[string]struct {
		path, settings string
		want           bool
	}{
		"no settings":                   {"", "", true},
		"all namespaces":                {"config.yaml", "clusterPolicies: {dir: /c}", false},
		"patterns":                      {"config.yaml", "namespaces: {enforce: [shop]}", false},
		"labels, in the cluster's file": {"config.yaml", "namespaces: {enforce: labelled, file: /c/current/namespaces.yaml}\nclusterPolicies: {dir: /c}", true},
		"labels, perhaps by a link":     {"config.yaml", "namespaces: {enforce: labelled}\nclusterPolicies: {dir: /c}", true},
	} {
		settings, err := config.Parse([]byte("apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\n" + c.settings))
		if err != nil {
			t.Fatal(err)
		}
		if got := wantsNamespaces(c.path, settings); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
