// Command image builds cosentry's container image and writes it as an OCI image layout. No container engine is needed.
//
// It promises that one commit, built with one version of Go, is one image, bit for bit, wherever it is built: there is
// no time, no host name and no folder in it. There is nothing in it but the program, which is linked statically.
//
// It refuses to write an image that would not run: a program that needs a loader. Formats: the OCI image specification
// and its image layout, https://github.com/opencontainers/image-spec.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	out := flag.String("out", "bin/image", "folder to write the OCI layout to; what is there is replaced")
	platforms := flag.String("platforms", "linux/amd64,linux/arm64", "platforms, separated by commas")
	version := flag.String("version", "", "version to build in and to call the image by (default: that of the commit)")
	repository := flag.String("name", "cosentry.invalid/cosentry", "name of the image where it is imported without a registry")
	flag.Parse()
	if err := run(ctx, *out, *platforms, *version, *repository); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out, platforms, version, repository string) error {
	a, err := describe(ctx, version, repository)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "cosentry-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	var builds []build
	for _, name := range strings.Split(platforms, ",") {
		platform, err := v1.ParsePlatform(name)
		if err != nil {
			return fmt.Errorf("platform %q: %w", name, err)
		}
		data, err := compile(ctx, *platform, version, filepath.Join(scratch, "cosentry"))
		if err != nil {
			return fmt.Errorf("building for %s: %w", name, err)
		}
		builds = append(builds, build{platform: *platform, data: data})
	}
	idx, err := index(a, builds)
	if err != nil {
		return err
	}
	if err := write(out, a, idx); err != nil {
		return fmt.Errorf("writing %s: %w", out, err)
	}
	digest, err := idx.Digest()
	if err != nil {
		return err
	}
	fmt.Println(digest)
	return nil
}

// compile builds cosentry as `make build` does.
func compile(ctx context.Context, platform v1.Platform, version, to string) ([]byte, error) {
	flags := "-s -w"
	if version != "" {
		flags += " -X main.version=" + version
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", flags, "-o", to, "github.com/cosentry/cosentry/agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+platform.OS, "GOARCH="+platform.Architecture)
	if v, ok := strings.CutPrefix(platform.Variant, "v"); ok && platform.Architecture == "arm" {
		cmd.Env = append(cmd.Env, "GOARM="+v)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return os.ReadFile(to)
}

// describe finds out which commit this is. Where there is no git, the image says less of itself.
func describe(ctx context.Context, version, repository string) (about, error) {
	a := about{repository: repository, version: version}
	if strings.ContainsAny(version, " \t\n'\"/:@") {
		return about{}, fmt.Errorf("version %q cannot be the tag of an image", version)
	}
	git := func(args ...string) string {
		out, err := exec.CommandContext(ctx, "git", args...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	a.revision = git("rev-parse", "HEAD")
	if seconds, err := strconv.ParseInt(git("log", "-1", "--format=%ct"), 10, 64); err == nil {
		a.created = time.Unix(seconds, 0).UTC()
	}
	if a.version == "" {
		a.version = "devel"
	}
	return a, nil
}
