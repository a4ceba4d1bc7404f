package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// another is a binary to install that is not the one that runs, and the version that it says it has: one that cannot even say that is
// not put in the place of one that works.
func another(ctx context.Context, binary string) (path, version string, err error) {
	if path, err = filepath.Abs(binary); err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "version").Output()
	if err != nil {
		return "", "", fmt.Errorf("asking %s for its version: %w", path, err)
	}
	words := strings.Fields(string(out))
	if len(words) < 2 || words[0] != "cosentry" {
		return "", "", fmt.Errorf("%s is no cosentry: it says %.100q of itself", path, out)
	}
	return path, words[1], nil
}
