package kubelet

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/cosentry/cosentry/agent/host/files"
)

// Bounds on a --config-dir; kubelet has none.
const (
	maxDropins = 256 // files
	maxDepth   = 8   // folders within folders
)

// tree reads a host's files below its root, links followed as the host would.
type tree struct{ *files.Tree }

// openTree opens a host's root; the empty one is /.
func openTree(root string) (tree, error) {
	if root == "" {
		root = "/"
	}
	t, err := files.Open(root)
	return tree{t}, err
}

// read reads a file. One that is not there is an error that wraps fs.ErrNotExist.
func (t tree) read(p string) ([]byte, error) {
	data, err := t.Read(p)
	if err == nil && data == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("reading the host's %s: %w", p, err)
	}
	return data, nil
}

// dropins lists a --config-dir as kubelet walks it: *.conf, folders within it too, in lexical order, paths relative
// to it. kubelet follows links to files there, and none to folders.
func (t tree) dropins(dir string) ([]string, error) {
	var out []string
	if err := t.walk(dir, "", &out, 0); err != nil {
		return nil, fmt.Errorf("reading kubelet's --config-dir %s: %w", dir, err)
	}
	return out, nil
}

func (t tree) walk(dir, below string, out *[]string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("folders more than %d deep", maxDepth)
	}
	entries, err := t.List(path.Join(dir, below))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		p := path.Join(below, entry.Name())
		switch {
		case entry.IsDir():
			if err := t.walk(dir, p, out, depth+1); err != nil {
				return err
			}
		case path.Ext(p) == ".conf":
			*out = append(*out, p)
		}
		if len(*out) > maxDropins {
			return fmt.Errorf("more than %d files", maxDropins)
		}
	}
	return nil
}

// there says whether a file exists. What cannot be told is an error: a layout is not guessed at.
func (t tree) there(p string) (bool, error) {
	ok, err := t.Exists(p)
	if err != nil {
		return false, fmt.Errorf("looking for the host's %s: %w", p, err)
	}
	return ok, nil
}

// absent says that an error is about a file that is not there.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
