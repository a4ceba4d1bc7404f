package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// committed is a commit of this module's files, as they are now, with another before it.
func committed(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "one")
	err := filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(dir, strings.TrimPrefix(path, "../.."))
		switch {
		case e.IsDir() && (e.Name() == ".git" || e.Name() == ".cache" || e.Name() == "bin" || e.Name() == "integration"):
			return fs.SkipDir
		case e.IsDir():
			return os.MkdirAll(to, 0o755)
		case !e.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a file for a moment
		}
		if err != nil {
			return err
		}
		return os.WriteFile(to, data, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	git(t, dir, "init", "-q", "-b", "main")
	git(t, dir, "commit", "-q", "--allow-empty", "-m", "before")
	git(t, dir, "add", "-A")
	git(t, dir, "commit", "-q", "-m", "all")
	return dir
}

// TestOneCommitIsOneProgram: neither the folder, a tag, a clone with only the newest commit, nor a file beside the program
// makes another program of the same name.
func TestOneCommitIsOneProgram(t *testing.T) {
	t.Setenv("GOFLAGS", "-buildvcs=true") // what it would be by itself, whatever is set where this runs
	one := committed(t)
	other := filepath.Join(t.TempDir(), "elsewhere", "two")
	if err := os.MkdirAll(filepath.Dir(other), 0o755); err != nil {
		t.Fatal(err)
	}
	git(t, ".", "clone", "-q", "--depth", "1", "file://"+one, other)
	git(t, other, "tag", "v9.9.9")
	a, err := describe(t.Context(), one, "", "cosentry.invalid/cosentry")
	if err != nil {
		t.Fatal(err)
	}
	if a.created.IsZero() || a.version != "devel-"+a.revision[:12] {
		t.Errorf("the commit is told as %+v", a)
	}
	b, err := describe(t.Context(), other, "", "cosentry.invalid/cosentry")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, b, cmp.AllowUnexported(about{})); diff != "" {
		t.Errorf("the same commit elsewhere: %s", diff)
	}
	if a.tag() != "devel" {
		t.Errorf("it is imported as %s; deploy/overlays/kind asks for devel", a.tag())
	}
	if err := os.WriteFile(filepath.Join(other, "notes"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	var programs [][]byte
	for _, dir := range []string{one, other} {
		data, err := compile(t.Context(), dir, v1.Platform{OS: "linux", Architecture: "amd64"}, a, filepath.Join(t.TempDir(), "cosentry"))
		if err != nil {
			t.Fatal(err)
		}
		programs = append(programs, data)
	}
	if !bytes.Equal(programs[0], programs[1]) {
		t.Error("one commit made two programs")
	}
	for _, said := range []string{a.version, "2026-01-02T03:04:05Z"} {
		if !bytes.Contains(programs[0], []byte(said)) {
			t.Errorf("the program does not know %s", said)
		}
	}
}

// TestChangedFolderIsNotTheCommit: what is built from other files than the commit's is not called by it, and cannot be called as a
// release is.
func TestChangedFolderIsNotTheCommit(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"a file that git does not follow": func(dir string) error { return os.WriteFile(filepath.Join(dir, "more.go"), nil, 0o600) },
		"a file that was changed":         func(dir string) error { return os.WriteFile(filepath.Join(dir, "a"), []byte("2"), 0o600) },
		"a file that is gone":             func(dir string) error { return os.Remove(filepath.Join(dir, "a")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			git(t, dir, "init", "-q", "-b", "main")
			if err := os.WriteFile(filepath.Join(dir, "a"), []byte("1"), 0o600); err != nil {
				t.Fatal(err)
			}
			git(t, dir, "add", "-A")
			git(t, dir, "commit", "-q", "-m", "a")
			if a, err := describe(t.Context(), dir, "v1.2.3", "r"); err != nil || a.version != "v1.2.3" || a.tag() != "v1.2.3" || strings.Contains(a.revision, modified) {
				t.Errorf("the commit: %+v, %v", a, err)
			}
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			a, err := describe(t.Context(), dir, "", "r")
			if err != nil || !strings.HasSuffix(a.version, modified) || !strings.HasSuffix(a.labels()["org.opencontainers.image.revision"], modified) {
				t.Errorf("%+v, %v", a, err)
			}
			if _, err := describe(t.Context(), dir, "v1.2.3", "r"); err == nil || !strings.Contains(err.Error(), "v1.2.3") {
				t.Errorf("it is called a release: %v", err)
			}
		})
	}
}

// TestPackedIsWhatItsBuildRecordSays: a program that was built already is called by the commit that it was built of, whatever the
// folder is by now, and never a release; and nothing else is packed as cosentry.
func TestPackedIsWhatItsBuildRecordSays(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"go.mod":         "module github.com/cosentry/cosentry\n\ngo 1.26\n",
		"agent/agent.go": "package main\n\nvar version string\n\nfunc main() { print(version) }\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git(t, dir, "init", "-q", "-b", "main")
	git(t, dir, "add", "-A")
	git(t, dir, "commit", "-q", "-m", "all")
	commit, err := describe(t.Context(), dir, "", "r")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "cosentry")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=true", "-ldflags", "-s -w -X main.version=v1.2.3", "-o", program, "./agent")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "later"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a, builds, err := packed(program, "r")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(commit, a, cmp.AllowUnexported(about{})); diff != "" {
		t.Errorf("it is not told as its commit is: %s", diff)
	}
	if len(builds) != 1 || builds[0].platform.String() != "linux/arm64" {
		t.Fatalf("packed for %+v", builds)
	}
	if _, err := index(a, builds); err != nil {
		t.Error(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{self, filepath.Join(dir, "go.mod")} {
		if _, _, err := packed(other, "r"); err == nil {
			t.Errorf("%s was packed as cosentry", other)
		}
	}
}

// TestFolderWithoutGit: the image says less of itself, and is built.
func TestFolderWithoutGit(t *testing.T) {
	t.Setenv("GIT_CEILING_DIRECTORIES", "/")
	a, err := describe(t.Context(), t.TempDir(), "", "r")
	if err != nil || a.version != "devel" || a.revision != "" || !a.created.IsZero() {
		t.Errorf("%+v, %v", a, err)
	}
}
