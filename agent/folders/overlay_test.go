package folders

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/twin"
)

// On a node whose root is an overlay, as in kind, a folder that came with the image cannot be moved (EXDEV). It goes all the same.
func TestFoldersOfAnOverlayGo(t *testing.T) {
	mounts := &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if _, told := twin.Start(t, "TestHelperRemovesFromAnOverlay", mounts, "OVERLAY_AT="+t.TempDir()); told != "gone" {
		t.Error(told)
	}
}

// TestHelperRemovesFromAnOverlay has mounts of its own.
func TestHelperRemovesFromAnOverlay(t *testing.T) {
	at := os.Getenv("OVERLAY_AT")
	if at == "" {
		return
	}
	if err := removeFromOverlay(t, at); err != nil {
		twin.Tell(strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	twin.Tell("gone")
}

func removeFromOverlay(t *testing.T, at string) error {
	t.Helper()
	must(t, unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("tmpfs", at, "tmpfs", 0, "")) // the mounts end with the process that has them
	for _, dir := range []string{"lower/etc/cosentry/secrets/ns/name", "upper", "work", "merged"} {
		must(t, os.MkdirAll(filepath.Join(at, dir), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(at, "lower/etc/cosentry/secrets/ns/name/key"), nil, 0o600))
	merged := filepath.Join(at, "merged")
	must(t, unix.Mount("overlay", merged, "overlay", 0, "lowerdir="+at+"/lower,upperdir="+at+"/upper,workdir="+at+"/work"))
	etc, err := os.Open(filepath.Join(merged, "etc"))
	must(t, err)
	defer etc.Close()
	if err := RemoveAll(t.Context(), etc, "cosentry", 1<<20); err != nil {
		return err
	}
	_, err = os.Lstat(filepath.Join(merged, "etc/cosentry"))
	if !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	return nil
}
