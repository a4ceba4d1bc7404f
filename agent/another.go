package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	// askTimeout bounds how long another binary may take for an answer.
	askTimeout = 10 * time.Second
	// maxAnswer bounds what is read of it, in bytes.
	maxAnswer = 4 << 10
)

// another is a binary to install that is not the one that runs, and the version that it says it has: one that cannot even say that is
// not put in the place of one that works.
func another(ctx context.Context, binary string) (path, version string, err error) {
	if path, err = filepath.Abs(binary); err != nil {
		return "", "", err
	}
	out, err := ask(ctx, path, "version")
	if err != nil {
		return "", "", fmt.Errorf("asking %s for its version: %w", path, err)
	}
	words := strings.Fields(out)
	if len(words) < 2 || words[0] != "cosentry" {
		return "", "", fmt.Errorf("%s is no cosentry: it says %.100q of itself", path, out)
	}
	return path, words[1], nil
}

// anotherChecks has another binary say whether it would start with settings: it is the one that has to.
func anotherChecks(ctx context.Context, binary string) func(settings []byte) error {
	return func(settings []byte) (err error) {
		f, err := os.CreateTemp("", "cosentry-settings-*.yaml") // mode 0600
		if err != nil {
			return err
		}
		defer os.Remove(f.Name())
		_, err = f.Write(settings)
		if closed := f.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return err
		}
		if out, err := ask(ctx, binary, "config", "check", f.Name()); err != nil {
			return fmt.Errorf("%s config check refuses them (%w), and would not start: %.1000q", binary, err, out)
		}
		return nil
	}
}

// ask runs a binary for a moment and gives the beginning of what it says.
func ask(ctx context.Context, binary string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, fmt.Errorf("it did not end within %s", askTimeout))
	defer cancel()
	var said beginning
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second // a child of its own may hold the pipe
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return said.text.String(), err
}

// beginning keeps the first maxAnswer bytes that are written to it.
type beginning struct{ text bytes.Buffer }

func (b *beginning) Write(p []byte) (int, error) {
	b.text.Write(p[:min(len(p), maxAnswer-b.text.Len())])
	return len(p), nil
}
