package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGiveFolder: that a folder is not as sync left it is told, because somebody has done it.
func TestGiveFolder(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("files change their owner in this test: root is needed")
	}
	dir := filepath.Join(t.TempDir(), "cluster")
	for _, want := range []string{"", "is set aside as " + dir + ".set-aside"} {
		var told bytes.Buffer
		if err := giveFolder(t.Context(), &told, dir, 65532); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(told.String(), want) || want == "" && told.Len() > 0 {
			t.Errorf("%q; want %q", told.String(), want)
		}
		if err := os.MkdirAll(filepath.Join(dir, "heartbeat", "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}
