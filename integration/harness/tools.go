package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Tools are the programs that the harness starts. They are put in place by
// integration/tools/setup.sh and by go build, never by the harness.
type Tools struct {
	Cosentry string
	Cosign   string
	dir      string
}

// FindTools looks for the programs in the tree around the working directory.
// A missing one is an error that says which command gets it.
func FindTools(names ...string) (Tools, error) {
	root, err := repositoryRoot()
	if err != nil {
		return Tools{}, err
	}
	tools := Tools{Cosentry: filepath.Join(root, "bin", "cosentry"), dir: filepath.Join(root, ".cache", "tools")}
	tools.Cosign = tools.Path("cosign")
	if _, err := os.Stat(tools.Cosentry); err != nil {
		return Tools{}, fmt.Errorf("the cosentry binary is not built, run `make build`: %w", err)
	}
	for _, name := range append(names, "containerd", "containerd-shim-runc-v2", "runc", "cni", "busybox", "pause") {
		if _, err := os.Stat(tools.Path(name)); err != nil {
			return Tools{}, fmt.Errorf("%s is missing, run `make tools-all`: %w", name, err)
		}
	}
	return tools, nil
}

// Path is where a program from .cache/tools is.
func (t Tools) Path(name string) string { return filepath.Join(t.dir, name) }

func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module github.com/cosentry/cosentry\n") {
			return dir, nil
		}
	}
	return "", errors.New("run this inside the cosentry repository")
}
