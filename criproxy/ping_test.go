package criproxy_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cosentry/cosentry/criproxy"
)

// A watchdog asks every few seconds, for ever: it must need no runtime, and leave no line in the log.
func TestPingIsAnsweredWithoutARuntimeAndWithoutAWord(t *testing.T) {
	var log lines
	n := startProxy(t, criproxy.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err := criproxy.Ping(t.Context(), n.proxyPath); err != nil {
		t.Error(err)
	}
	if log.count("refused a method") > 0 {
		t.Error("it is logged like a method that somebody misses")
	}
}

func TestPingWhereNobodyAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, path string)
		absent  bool
	}{
		"no file":          {func(*testing.T, string) {}, true},
		"a file left over": {staleSocket, true},
		"one that is no socket": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, true},
		// What a stopped or deadlocked process looks like: the kernel takes connections for it.
		"one who listens and does not look": {func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(tempDir(t), "cri.sock")
			tc.prepare(t, path)
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			err := criproxy.Ping(ctx, path)
			if err == nil || errors.Is(err, criproxy.ErrNotListening) != tc.absent {
				t.Errorf("error %v", err)
			}
		})
	}
}
