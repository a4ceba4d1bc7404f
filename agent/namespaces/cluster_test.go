package namespaces

import (
	"os"
	"path/filepath"
	"testing"
)

// fromCluster are Namespaces whose labels sync wrote, in a set that current leads to.
func fromCluster(t *testing.T, text string, exempt ...string) (n *Namespaces, dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sets", "one"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sets", "one", "namespaces.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sets/one", filepath.Join(dir, "current")); err != nil {
		t.Fatal(err)
	}
	n, _ = made(t, Options{File: filepath.Join(dir, "current", "namespaces.yaml"), ForCluster: true, ClusterDir: dir, Exempt: exempt})
	return n, dir
}

const twoNamespaces = `{"apiVersion": "v1", "kind": "NamespaceList", "items": [
	{"metadata": {"name": "shop", "labels": {"policy.sigstore.dev/include": "true"}}},
	{"metadata": {"name": "free"}}]}`

// Whoever owns the API server takes labels away. What the node's owner demands holds all the same.
func TestLabelsOfTheClusterFreeNothingOfTheNodesOwn(t *testing.T) {
	n, _ := fromCluster(t, twoNamespaces, "kube-system")
	check(t, n, []string{"", "shop", "free", "new"}, []string{"kube-system"})
	for namespace, want := range map[string]bool{"": true, "shop": true, "free": false, "new": true} {
		if n.ClusterEnforced(namespace) != want {
			t.Errorf("the cluster's policies hold in %q: %v", namespace, !want)
		}
	}
}

// With the owner's own file, or none, the cluster's policies hold wherever images are judged.
func TestTheClustersPoliciesHoldEverywhereWithoutItsLabels(t *testing.T) {
	file := filepath.Join(t.TempDir(), "namespaces.yaml")
	if err := os.WriteFile(file, []byte(twoNamespaces), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{"no file": {}, "the owner's": {File: file}, "by name": {Enforce: []string{"shop"}}} {
		n, _ := made(t, o)
		for _, namespace := range []string{"", "shop", "free", "new"} {
			if !n.ClusterEnforced(namespace) {
				t.Errorf("%s: the cluster's policies do not hold in %q", name, namespace)
			}
		}
	}
}

// A sync that was taken over must not have root read another file, whose words end up in messages.
func TestLabelsOfTheClusterAreNotReadElsewhere(t *testing.T) {
	n, dir := fromCluster(t, twoNamespaces)
	outside := filepath.Join(t.TempDir(), "namespaces.yaml")
	if err := os.WriteFile(outside, []byte(`{"apiVersion": "v1", "kind": "NamespaceList", "items": [{"metadata": {"name": "shop"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, link := range map[string]func(current string) error{
		"the set":  func(current string) error { return os.Symlink(filepath.Dir(outside), current) },
		"the file": func(string) error { return os.Symlink(outside, filepath.Join(dir, "sets", "one", "namespaces.yaml")) },
	} {
		t.Run(name, func(t *testing.T) {
			current := filepath.Join(dir, "current")
			for _, path := range []string{current, filepath.Join(dir, "sets", "one", "namespaces.yaml")} {
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			}
			if name == "the file" {
				if err := os.Symlink("sets/one", current); err != nil {
					t.Fatal(err)
				}
			}
			if err := link(current); err != nil {
				t.Fatal(err)
			}
			n.Load()
			if s := n.State(); s.File != Broken || s.Count != 2 {
				t.Errorf("%+v", s)
			}
			if !n.ClusterEnforced("shop") {
				t.Error("a file outside the folder was read")
			}
		})
	}
}
