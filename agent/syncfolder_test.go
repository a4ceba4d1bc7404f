package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestGiveFolder gives sync its folder, and nothing that a hostile sync could have laid into it.
func TestGiveFolder(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("files change their owner in this test: root is needed")
	}
	outside := t.TempDir()
	secret := filepath.Join(outside, "shadow")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	owner := func(p string) uint32 {
		t.Helper()
		info, err := os.Lstat(p)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Uid
	}
	dir := filepath.Join(t.TempDir(), "cluster")
	if err := os.MkdirAll(filepath.Join(dir, "sets", "1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sets", "1", "a.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"file": secret, "folder": outside, "current": "sets/1"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := giveFolder(dir, 65532); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"", "sets", "sets/1", "sets/1/a.yaml", "current"} {
		if uid := owner(filepath.Join(dir, p)); uid != 65532 {
			t.Errorf("%q belongs to %d", p, uid)
		}
	}
	if owner(secret) != 0 || owner(outside) != 0 {
		t.Error("a link's target was given away")
	}

	if err := os.Link(secret, filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	if err := giveFolder(dir, 65532); err == nil || owner(secret) != 0 {
		t.Errorf("a file with a second name was given away (%v)", err)
	}
	for _, uid := range []int{0, -1} {
		if err := giveFolder(t.TempDir(), uid); err == nil {
			t.Errorf("given to %d", uid)
		}
	}
}
