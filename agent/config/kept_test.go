package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const keptPath = "/etc/cosentry/config.yaml"

// stateFolder is one like /var/lib/cosentry, with a copy of settings that observe.
func stateFolder(t *testing.T) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Keep(dir, keptPath, []byte(smallest+"mode: observe\n")); err != nil {
		t.Fatal(err)
	}
	return dir, KeptFile(dir, keptPath)
}

func TestACopyOfSettingsIsKept(t *testing.T) {
	dir, file := stateFolder(t)
	kept, err := LoadKept(dir, keptPath)
	if err != nil || kept.Mode != Observe || kept.File != file || kept.At.IsZero() {
		t.Fatalf("%+v, %v", kept, err)
	}
	first, err := os.Stat(file)
	if err != nil || first.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", first, err)
	}
	if err := Keep(dir, keptPath, []byte(smallest+"mode: observe\n")); err != nil {
		t.Fatal(err)
	}
	if again, err := os.Stat(file); err != nil || !os.SameFile(first, again) {
		t.Errorf("the same settings were written again: %v", err)
	}
	if err := Keep(dir, keptPath, []byte(smallest)); err != nil {
		t.Fatal(err)
	}
	if kept, err = LoadKept(dir, keptPath); err != nil || kept.Mode != Enforce {
		t.Errorf("%+v, %v", kept, err)
	}
	left, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(left) != 1 {
		t.Errorf("beside the copy there is more: %v, %v", left, err)
	}
	if _, err := LoadKept(dir, "/etc/cosentry/other.yaml"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a copy of other settings counts: %v", err)
	}
	if a, b := KeptFile(dir, "/a/b"), KeptFile(dir, "/a%2Fb"); a == b || filepath.Dir(a) != filepath.Dir(b) {
		t.Errorf("two settings files have one copy, or not in the folder: %s, %s", a, b)
	}
}

// The copy decides what runs on the node: whoever is not root must not choose it.
func TestACopyThatOthersCouldHaveMadeCountsForNothing(t *testing.T) {
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, spoil := range map[string]func(dir, file string){
		"it can be written to by its group":    func(_, file string) { try(os.Chmod(file, 0o660)) },
		"it can be read by others":             func(_, file string) { try(os.Chmod(file, 0o604)) },
		"it is another user's":                 func(_, file string) { try(os.Chown(file, 1000, 0)) },
		"it has a second name":                 func(dir, file string) { try(os.Link(file, filepath.Join(dir, "x"))) },
		"others can write to its folder":       func(_, file string) { try(os.Chmod(filepath.Dir(file), 0o777)) },
		"its folder is another user's":         func(_, file string) { try(os.Chown(filepath.Dir(file), 1000, 0)) },
		"others can write to the folder above": func(dir, _ string) { try(os.Chmod(dir, 0o777)) },
		"the folder above is another user's":   func(dir, _ string) { try(os.Chown(dir, 1000, 0)) },
		"it is a link": func(dir, file string) {
			try(os.Rename(file, filepath.Join(dir, "x")))
			try(os.Symlink(filepath.Join(dir, "x"), file))
		},
		"its folder is a link": func(dir, file string) {
			try(os.Rename(filepath.Dir(file), filepath.Join(dir, "x")))
			try(os.Symlink("x", filepath.Dir(file)))
		},
		"it is a pipe": func(_, file string) {
			try(os.Remove(file))
			try(syscall.Mkfifo(file, 0o600))
		},
		"it has a fault": func(_, file string) { try(os.WriteFile(file, []byte(smallest+"mode: enforec\n"), 0o600)) },
		"it is empty":    func(_, file string) { try(os.Truncate(file, 0)) },
		"it has no bounds": func(_, file string) {
			try(os.WriteFile(file, []byte(smallest+strings.Repeat("# x\n", maxSize/4)), 0o600))
		},
	} {
		if os.Geteuid() != 0 && strings.Contains(name, "another user") {
			continue
		}
		dir, file := stateFolder(t)
		spoil(dir, file)
		if kept, err := LoadKept(dir, keptPath); err == nil {
			t.Errorf("%s, and it counts: %+v", name, kept)
		} else if errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s, and it is said that there is none: %v", name, err)
		}
	}
}

// A copy is not put where others could exchange it, and a link in its place is not followed.
func TestACopyIsWrittenOnlyWhereItIsBelieved(t *testing.T) {
	dir, file := stateFolder(t)
	target := filepath.Join(t.TempDir(), "x")
	if err := errors.Join(os.Remove(file), os.WriteFile(target, []byte("theirs"), 0o600), os.Symlink(target, file)); err != nil {
		t.Fatal(err)
	}
	if err := Keep(dir, keptPath, []byte(smallest)); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(target); err != nil || string(data) != "theirs" {
		t.Errorf("a link was followed: %s, %v", data, err)
	}
	if _, err := LoadKept(dir, keptPath); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := Keep(dir, keptPath, []byte(smallest+"mode: observe\n")); err == nil {
		t.Error("it was written to a folder in which all can write")
	}
	if err := Keep(filepath.Join(dir, "none"), keptPath, []byte(smallest)); err == nil {
		t.Error("it was written to a folder that nobody made")
	}
}
