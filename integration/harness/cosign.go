package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Cosign runs the cosign command in a folder of its own: its keys are there,
// and nothing of what the machine holds for cosign reaches it.
type Cosign struct {
	// Dir is where the command runs.
	Dir  string
	path string
	env  []string
}

// NewCosign makes the folder. env is added to the command's environment.
func NewCosign(tools Tools, dir string, env ...string) (*Cosign, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("preparing cosign: %w", err)
	}
	own := []string{"HOME=" + dir, "TUF_ROOT=" + filepath.Join(dir, "tuf"), "COSIGN_PASSWORD=", "COSIGN_YES=true"}
	return &Cosign{Dir: dir, path: tools.Cosign, env: append(own, env...)}, nil
}

// With is the same command with more in its environment.
func (c *Cosign) With(env ...string) *Cosign {
	other := *c
	other.env = append(append([]string{}, c.env...), env...)
	return &other
}

// Run runs one subcommand. The error holds what it printed.
func (c *Cosign) Run(ctx context.Context, args ...string) (output string, err error) {
	cmd := exec.CommandContext(ctx, c.path, args...)
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), c.env...)
	text, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cosign %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return string(text), nil
}
