package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cosentry/cosentry/agent/audit"
)

func TestAuditLogThatCannotBeOpened(t *testing.T) {
	for name, required := range map[string]bool{"not required": false, "required": true} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "audit")
			// The log refuses a folder that others may write.
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			var lines bytes.Buffer
			failures := 0
			r := newRecorder(audit.Options{
				Dir: dir, Required: required,
				Log:    slog.New(slog.NewTextHandler(&lines, nil)),
				Failed: func(error) { failures++ },
			})
			now := time.Now()
			r.now = func() time.Time { return now }
			t.Cleanup(func() { r.Close() })

			err := r.Append(audit.Record{Action: audit.ActionPull, Image: "registry.example/app:1"})
			if (err != nil) != required {
				t.Errorf("Append: %v", err)
			}
			if !strings.Contains(lines.String(), "registry.example/app:1") {
				t.Errorf("the record is not in the agent's log: %s", &lines)
			}
			if failures != 2 { // at the start and for the record
				t.Errorf("%d failures were counted", failures)
			}

			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			now = now.Add(reopenEvery)
			if err := r.Append(audit.Record{Action: audit.ActionPull, Image: "registry.example/app:2"}); err != nil {
				t.Errorf("after the folder was mended: %v", err)
			}
			if r.Head().Seq == 0 {
				t.Error("nothing was written after the folder was mended")
			}
		})
	}
}
