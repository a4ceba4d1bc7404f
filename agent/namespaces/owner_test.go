package namespaces

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// nobody is the user that sync runs as.
const nobody = 65532

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place is a file of namespaces at a path below dir, in folders that are made for it.
func place(t *testing.T, dir string, path ...string) string {
	t.Helper()
	file := filepath.Join(append([]string{dir}, path...)...)
	must(t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(t, os.WriteFile(file, []byte(twoNamespaces), 0o644))
	return file
}

// Nobody but root says where images are not judged. What others can write, or lead the path to, frees no namespace of the node's own
// policies, however its path reads.
func TestOnlyRootFreesNamespaces(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("files change their owner in this test: root is needed")
	}
	link := func(t *testing.T, to, at string) string {
		t.Helper()
		must(t, os.MkdirAll(filepath.Dir(at), 0o755))
		must(t, os.Symlink(to, at))
		return at
	}
	for name, tc := range map[string]struct {
		// make returns the setting; node is a folder of root's, sync the one of the cluster's documents.
		make func(t *testing.T, node, sync string) string
		root bool
	}{
		"the owner's": {func(t *testing.T, node, _ string) string { return place(t, node, "namespaces.yaml") }, true},
		"the owner's, by links": {func(t *testing.T, node, _ string) string {
			place(t, node, "a", "namespaces.yaml")
			link(t, "../a", filepath.Join(node, "b", "c"))
			return link(t, node+"/b/c/../a/namespaces.yaml", filepath.Join(node, "namespaces.yaml"))
		}, true},
		"a link into the folder of sync": {func(t *testing.T, node, sync string) string {
			place(t, sync, "sets", "one", "namespaces.yaml")
			link(t, "sets/one", filepath.Join(sync, "current"))
			must(t, os.Chown(sync, nobody, nobody))
			return link(t, filepath.Join(sync, "current", "namespaces.yaml"), filepath.Join(node, "namespaces.yaml"))
		}, false},
		"a link into the folder of a sync that is root": {func(t *testing.T, node, sync string) string {
			place(t, sync, "sets", "one", "namespaces.yaml")
			link(t, "sets/one", filepath.Join(sync, "current"))
			return link(t, filepath.Join(sync, "current", "namespaces.yaml"), filepath.Join(node, "namespaces.yaml"))
		}, false},
		"a folder that is a link to that of sync": {func(t *testing.T, node, sync string) string {
			place(t, sync, "current", "namespaces.yaml")
			return filepath.Join(link(t, sync, filepath.Join(node, "c")), "current", "namespaces.yaml")
		}, false},
		"root's file in the folder of sync": {func(t *testing.T, _, sync string) string {
			must(t, os.MkdirAll(sync, 0o755))
			must(t, os.Chown(sync, nobody, nobody))
			return place(t, sync, "root", "namespaces.yaml")
		}, false},
		"by way of the folder of sync": {func(t *testing.T, node, sync string) string {
			place(t, sync, "x", "namespaces.yaml")
			must(t, os.Mkdir(filepath.Join(sync, "y"), 0o755))
			must(t, os.Chown(sync, nobody, nobody))
			return link(t, filepath.Join(sync, "y")+"/../x/namespaces.yaml", filepath.Join(node, "namespaces.yaml"))
		}, false},
		"a file of somebody else": {func(t *testing.T, node, _ string) string {
			file := place(t, node, "namespaces.yaml")
			must(t, os.Chown(file, nobody, 0))
			return file
		}, false},
		"a file that a group may write": {func(t *testing.T, node, _ string) string {
			file := place(t, node, "namespaces.yaml")
			must(t, os.Chmod(file, 0o664))
			return file
		}, false},
		"a folder that all may write": {func(t *testing.T, node, _ string) string {
			file := place(t, node, "a", "namespaces.yaml")
			must(t, os.Chmod(filepath.Dir(file), 0o777))
			return file
		}, false},
		"a folder above it that all may write": {func(t *testing.T, node, _ string) string {
			file := place(t, node, "a", "b", "namespaces.yaml")
			must(t, os.Chmod(filepath.Join(node, "a"), 0o777))
			return file
		}, false},
		"somebody's link in a folder where each has his own": {func(t *testing.T, node, _ string) string {
			at := link(t, "namespaces.yaml", filepath.Join(node, "tmp", "link"))
			place(t, node, "tmp", "namespaces.yaml")
			must(t, os.Lchown(at, nobody, nobody))
			must(t, os.Chmod(filepath.Dir(at), 0o777|fs.ModeSticky))
			return at
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			node, sync := filepath.Join(t.TempDir(), "node"), filepath.Join(t.TempDir(), "sync")
			must(t, os.Mkdir(node, 0o755))
			must(t, os.MkdirAll(sync, 0o755))
			file := tc.make(t, node, sync)
			n, l := made(t, Options{File: file, ClusterDir: sync})
			if s := n.State(); s.File != Good || s.ForCluster == tc.root || s.Count != 2 {
				t.Fatalf("%+v, %s", s, l)
			}
			if n.Enforced("free") == tc.root || !n.Enforced("shop") || !n.Enforced("new") {
				t.Errorf("free is judged: %v", n.Enforced("free"))
			}
			if n.ClusterEnforced("free") != tc.root || !n.ClusterEnforced("shop") || !n.ClusterEnforced("new") {
				t.Errorf("the cluster's policies hold in free: %v", n.ClusterEnforced("free"))
			}
			if loud := strings.Contains(l.String(), "level=WARN"); loud == tc.root {
				t.Errorf("told: %s", l)
			}
			// Where the cluster has no say, such a file says nothing. That of sync is known there by its owner alone.
			n, l = made(t, Options{File: file})
			own := tc.root
			if strings.Contains(name, "that is root") || strings.Contains(name, "is a link to that") {
				own = true
			}
			if n.Enforced("free") == own || own != (n.State().File == Good) || !own && !strings.Contains(l.String(), "level=ERROR") {
				t.Errorf("without a cluster: %+v, %s", n.State(), l)
			}
		})
	}
}

// Whoever can change a folder does not choose what root reads, and so what is told of it.
func TestAFileOfOthersLeadsNowhereElse(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte(twoNamespaces), 0o600))
	dir := t.TempDir()
	must(t, os.Chown(dir, nobody, nobody))
	must(t, os.Symlink(secret, filepath.Join(dir, "namespaces.yaml")))
	n, _ := made(t, Options{File: filepath.Join(dir, "namespaces.yaml"), ClusterDir: dir})
	if s := n.State(); s.File != Broken || s.Count != 0 || !n.Enforced("free") || !n.ClusterEnforced("free") {
		t.Errorf("%+v", s)
	}
}

// The same labels say another thing once somebody else could have written them, and again when root alone can.
func TestLabelsThatBecomeSomebodyElses(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	file := place(t, dir, "namespaces.yaml")
	n, l := made(t, Options{File: file})
	if n.Enforced("free") {
		t.Fatal("the owner's file frees nothing")
	}
	for range 2 {
		must(t, os.Chown(file, nobody, nobody))
		n.Load()
		if !n.Enforced("free") || n.State().File != Broken {
			t.Errorf("a file of somebody else: %+v", n.State())
		}
		must(t, os.Chown(file, 0, 0))
		n.Load()
		if n.Enforced("free") || n.State().File != Good {
			t.Errorf("root's again: %+v", n.State())
		}
	}
	if told := strings.Count(l.String(), "level=ERROR"); told != 2 {
		t.Errorf("told %d times", told)
	}
	must(t, errors.Join(os.Remove(file), os.Symlink(filepath.Join(other, "gone"), file)))
	n.Load()
	if n.State().File != Missing || !n.Enforced("free") {
		t.Errorf("a link to nothing: %+v", n.State())
	}
	must(t, errors.Join(os.Remove(file), os.Symlink("namespaces.yaml", file)))
	n.Load()
	if n.State().File != Broken || !n.Enforced("free") {
		t.Errorf("a link to itself: %+v", n.State())
	}
}
