// Command image builds cosentry's container image and writes it as an OCI image layout. No container engine is needed.
//
// It promises that one commit, built with one version of Go, is one image, bit for bit, wherever it is built: there is
// no time but the commit's, no host name and no folder in it, and nothing of what git knows besides the commit: its tags, or how
// many commits were fetched. There is nothing in it but the program, which is linked statically.
//
// What is built from a folder that differs from its commit says so in its version, and cannot have another. It refuses to write an
// image that would not run: a program that needs a loader. With -program it packs one that was built already, for the platform that it
// was built for, and tells of it what the program's own build record says: never that it is a release. Formats: the OCI image specification and its image layout,
// https://github.com/opencontainers/image-spec.
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
	version := flag.String("version", "", "version to build in and to call the image by (default: one of the commit, and the tag devel)")
	repository := flag.String("name", "cosentry.invalid/cosentry", "name of the image where it is imported without a registry")
	program := flag.String("program", "", "a cosentry that is built already: only it is packed, and nothing is built")
	flag.Parse()
	if err := run(ctx, *out, *repository, *program, *platforms, *version); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// run writes the image of the module at the working directory, or of program.
func run(ctx context.Context, out, repository, program, platforms, version string) error {
	var a about
	var builds []build
	var err error
	switch {
	case program == "":
		a, builds, err = built(ctx, ".", platforms, version, repository)
	case given("platforms"), given("version"):
		err = fmt.Errorf("%s has its platform and its version already: -program goes without -platforms and -version", program)
	default:
		a, builds, err = packed(program, repository)
	}
	if err != nil {
		return err
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

// given reports whether the command line has the flag.
func given(name string) bool {
	found := false
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

// built builds the module at dir for each platform.
func built(ctx context.Context, dir, platforms, version, repository string) (about, []build, error) {
	a, err := describe(ctx, dir, version, repository)
	if err != nil {
		return about{}, nil, err
	}
	scratch, err := os.MkdirTemp("", "cosentry-image-")
	if err != nil {
		return about{}, nil, err
	}
	defer os.RemoveAll(scratch)
	var builds []build
	for _, name := range strings.Split(platforms, ",") {
		platform, err := v1.ParsePlatform(name)
		if err != nil {
			return about{}, nil, fmt.Errorf("platform %q: %w", name, err)
		}
		data, err := compile(ctx, dir, *platform, a, filepath.Join(scratch, "cosentry"))
		if err != nil {
			return about{}, nil, fmt.Errorf("building for %s: %w", name, err)
		}
		builds = append(builds, build{platform: *platform, data: data})
	}
	return a, builds, nil
}

// compile builds the cosentry of the module at dir. What the toolchain would find out by itself about the commit is told to it:
// it looks at tags, at how much was fetched and at files that are no part of the program.
func compile(ctx context.Context, dir string, platform v1.Platform, a about, to string) ([]byte, error) {
	flags := "-s -w -X main.version=" + a.version
	if !a.created.IsZero() {
		flags += " -X main.committed=" + a.created.Format(time.RFC3339)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", to, "./agent")
	cmd.Dir = dir
	// Neither a workspace around the module nor a choice of instructions makes it another program.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+platform.OS, "GOARCH="+platform.Architecture,
		"GOWORK=off", "GOEXPERIMENT=", "GOAMD64=", "GOARM64=")
	if v, ok := strings.CutPrefix(platform.Variant, "v"); ok && platform.Architecture == "arm" {
		cmd.Env = append(cmd.Env, "GOARM="+v)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return os.ReadFile(to)
}

// describe finds out which commit is at dir. Where there is no git, the image says less of itself. version is that of a release;
// empty for one that is named after the commit.
func describe(ctx context.Context, dir, version, repository string) (about, error) {
	a := about{repository: repository, version: version}
	if strings.ContainsAny(version, " \t\n'\"/:@") {
		return about{}, fmt.Errorf("version %q cannot be the tag of an image", version)
	}
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...).Output()
		if err != nil {
			return "", fmt.Errorf("git %s: %w", args[0], err)
		}
		return strings.TrimSpace(string(out)), nil
	}
	if revision, err := git("rev-parse", "HEAD"); err == nil {
		a.revision = revision
	}
	if a.revision == "" {
		if a.version == "" {
			a.version = unreleased
		}
		return a, nil
	}
	committed, err := git("log", "-1", "--format=%ct")
	if err != nil {
		return about{}, err
	}
	seconds, err := strconv.ParseInt(committed, 10, 64)
	if err != nil {
		return about{}, fmt.Errorf("the commit's time: %w", err)
	}
	a.created = time.Unix(seconds, 0).UTC()
	// A file that git does not follow may be part of the program as well.
	changed, err := git("status", "--porcelain", "--untracked-files=all")
	if err != nil {
		return about{}, err
	}
	switch {
	case changed != "" && version != "":
		return about{}, fmt.Errorf("this folder is not the commit %s, so it cannot be called %s: commit or remove\n%s", a.revision, version, changed)
	case changed != "":
		a.version = unreleased + "-" + a.revision[:12] + modified
		a.revision += modified
	case version == "":
		a.version = unreleased + "-" + a.revision[:12]
	}
	return a, nil
}

// modified is added to the name of a commit whose files were changed.
const modified = "-modified"
