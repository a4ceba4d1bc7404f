package files_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/verify/limits"
)

// newTree is an empty host in a folder, and what lies beside it, which no host may reach.
func newTree(t *testing.T) (tree *files.Tree, root, beside string) {
	t.Helper()
	dir := t.TempDir()
	root, beside = filepath.Join(dir, "host"), filepath.Join(dir, "beside")
	for _, d := range []string{root, beside} {
		must(t, os.Mkdir(d, 0o755))
	}
	tree, err := files.Open(root)
	must(t, err)
	t.Cleanup(func() { tree.Close() })
	return tree, root, beside
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(name), 0o755))
	must(t, os.WriteFile(name, []byte(text), 0o644))
}

// TestLinksAreTheHosts: an absolute link leads to where it leads on the host, and one that climbs stops at its root.
func TestLinksAreTheHosts(t *testing.T) {
	tree, root, beside := newTree(t)
	write(t, filepath.Join(beside, "secret"), "beside")
	write(t, filepath.Join(root, "data/file"), "inside")
	for name, to := range map[string]string{
		"absolute": "/data/file", "climbing": "../../../../data/file", "folder": "/data", "out": filepath.Join(beside, "secret"), "up": "../beside/secret",
		"loop": "/loop", "chain": "absolute",
	} {
		must(t, os.Symlink(to, filepath.Join(root, name)))
	}
	must(t, os.MkdirAll(filepath.Join(root, "sub/folder"), 0o755))
	must(t, os.Symlink("/data/file", filepath.Join(root, "sub/folder/absolute")))
	for _, p := range []string{"/absolute", "/sub/folder/absolute", "/climbing", "/folder/file", "/chain", "/../data/file"} {
		if got, err := tree.Read(p); err != nil || string(got) != "inside" {
			t.Errorf("%s: %q, %v", p, got, err)
		}
	}
	for _, p := range []string{"/out", "/up"} {
		if got, err := tree.Read(p); err != nil || got != nil {
			t.Errorf("%s: %q, %v", p, got, err)
		}
		if err := tree.Apply(files.Change{Path: p, After: []byte("x")}); err != nil {
			t.Logf("%s: %v", p, err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(beside, "secret")); err != nil || string(got) != "beside" {
		t.Errorf("beside the host: %q, %v", got, err)
	}
	if _, err := tree.Read("/loop"); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("a loop: %v", err)
	}
}

// TestChangeThroughALinkKeepsTheLink: /etc/default/kubelet may be one.
func TestChangeThroughALinkKeepsTheLink(t *testing.T) {
	tree, root, _ := newTree(t)
	write(t, filepath.Join(root, "data/file"), "old")
	must(t, os.Symlink("/data/file", filepath.Join(root, "link")))
	must(t, tree.Apply(files.Change{Path: "/link", Before: []byte("old"), After: []byte("new")}))
	if to, err := os.Readlink(filepath.Join(root, "link")); err != nil || to != "/data/file" {
		t.Errorf("link: %q, %v", to, err)
	}
	if got, _ := os.ReadFile(filepath.Join(root, "data/file")); string(got) != "new" {
		t.Errorf("file: %q", got)
	}
}

func TestChangeAndItsUndoing(t *testing.T) {
	for name, c := range map[string]files.Change{
		"new":     {Path: "/a/b/new", After: []byte("text"), Mode: 0o600},
		"empty":   {Path: "/empty", After: []byte{}},
		"changed": {Path: "/there", Before: []byte("old"), After: []byte("new"), Mode: 0o777},
		"removed": {Path: "/there", Before: []byte("old")},
		"link":    {Path: "/link", AfterLink: "there"},
		"moved":   {Path: "/old", BeforeLink: "there", AfterLink: "elsewhere"},
	} {
		t.Run(name, func(t *testing.T) {
			tree, root, _ := newTree(t)
			write(t, filepath.Join(root, "there"), "old")
			must(t, os.Chmod(filepath.Join(root, "there"), 0o640))
			must(t, os.Symlink("there", filepath.Join(root, "old")))
			for range 2 { // the second time it is done already
				must(t, tree.Apply(c))
			}
			wantSide(t, root, c.Path, c.After, c.AfterLink)
			if fi, err := os.Lstat(filepath.Join(root, c.Path)); err == nil && c.Path == "/there" && fi.Mode().Perm() != 0o640 {
				t.Errorf("mode %v", fi.Mode())
			}
			if fi, err := os.Lstat(filepath.Join(root, "a/b/new")); err == nil && fi.Mode().Perm() != 0o600 {
				t.Errorf("mode %v", fi.Mode())
			}
			if c.Diff() == "" || c.Undo().Diff() == "" {
				t.Error("the diff is empty")
			}
			must(t, tree.Apply(c.Undo()))
			wantSide(t, root, c.Path, c.Before, c.BeforeLink)
			left, err := filepath.Glob(filepath.Join(root, ".cosentry-*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func wantSide(t *testing.T, root, path string, text []byte, link string) {
	t.Helper()
	name := filepath.Join(root, path)
	if link != "" {
		if to, err := os.Readlink(name); err != nil || to != link {
			t.Errorf("%s leads to %q, %v; want %q", path, to, err, link)
		}
		return
	}
	got, err := os.ReadFile(name)
	if text == nil && !errors.Is(err, fs.ErrNotExist) || text != nil && (err != nil || string(got) != string(text)) {
		t.Errorf("%s: %q, %v; want %q", path, got, err, text)
	}
}

// TestWhatSomebodyElseWroteIsNotOverwritten: between the plan and the change, or in what is to be removed.
func TestWhatSomebodyElseWroteIsNotOverwritten(t *testing.T) {
	tree, root, _ := newTree(t)
	write(t, filepath.Join(root, "file"), "theirs")
	for name, c := range map[string]files.Change{
		"changed since":  {Path: "/file", Before: []byte("old"), After: []byte("new")},
		"appeared since": {Path: "/file", After: []byte("new")},
		"to be removed":  {Path: "/file", Before: []byte("old")},
		"to be a link":   {Path: "/file", AfterLink: "elsewhere"},
		"gone since":     {Path: "/gone", Before: []byte("old"), After: []byte("new")},
	} {
		var changed *files.ChangedError
		if err := tree.Apply(c); !errors.As(err, &changed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, _ := os.ReadFile(filepath.Join(root, "file")); string(got) != "theirs" {
		t.Errorf("file: %q", got)
	}
}

func TestWhatIsNoFileIsRefused(t *testing.T) {
	tree, root, _ := newTree(t)
	must(t, syscall.Mkfifo(filepath.Join(root, "pipe"), 0o600))
	must(t, os.Mkdir(filepath.Join(root, "folder"), 0o755))
	write(t, filepath.Join(root, "large"), strings.Repeat("x", int(limits.HostFile.Max())+1))
	for _, p := range []string{"/pipe", "/folder", "/large"} {
		if _, err := tree.Read(p); err == nil {
			t.Errorf("%s was read", p)
		}
		if err := tree.Apply(files.Change{Path: p, After: []byte("x")}); err == nil {
			t.Errorf("%s was written", p)
		}
	}
	for _, p := range []string{"", "/", "relative", "/a/../b", "/a/"} {
		if err := tree.Apply(files.Change{Path: p, After: []byte("x")}); err == nil {
			t.Errorf("%q was written", p)
		}
	}
	if err := tree.RemoveAll(t.Context(), "/"); err == nil {
		t.Error("the whole host was removed")
	}
}

// TestDiffCannotSpeakToATerminal: what stands in a host's file is shown, and not obeyed.
func TestDiffCannotSpeakToATerminal(t *testing.T) {
	c := files.Change{Path: "/f\x1b[2J", Before: []byte("a\x1b[31m\n"), After: []byte("b\r\x07\n")}
	if d := c.Diff(); strings.ContainsAny(d, "\x1b\r\x07") {
		t.Errorf("%q", d)
	}
	if d := (files.Change{Path: "/s", After: []byte("password"), Secret: true}).Diff(); strings.Contains(d, "password") {
		t.Errorf("a secret is shown: %q", d)
	}
}
