package supervise

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/agent/firsthand"
	"github.com/cosentry/cosentry/agent/host"
)

// Why an agent or sync shows no metrics is what its owner has to know, and once: a page is made for each scrape.
func TestWhyMetricsCannotBeHadIsLoggedOnce(t *testing.T) {
	from := hostAt(t, "")
	var log bytes.Buffer
	noted := &reasons{log: slog.New(slog.NewTextHandler(&log, nil))}
	make3 := func() {
		for range 3 {
			if _, err := render(t.Context(), guarded, from, noted); err != nil {
				t.Fatal(err)
			}
		}
	}
	make3()
	for _, who := range []string{`of="the agent"`, "of=sync"} {
		if n := strings.Count(log.String(), who); n != 1 {
			t.Errorf("%s: logged %d times:\n%s", who, n, &log)
		}
	}
	agentOn(t, from.Agent.Root, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "cosentry_policies 3") }))
	make3()
	if n := strings.Count(log.String(), `msg="metrics can be had again" of="the agent"`); n != 1 {
		t.Errorf("that it is back is logged %d times:\n%s", n, &log)
	}
	other := from
	other.Agent = firsthand.Agent{Root: t.TempDir()}
	if _, err := render(t.Context(), guarded, other, noted); err != nil || !strings.Contains(log.String(), filepath.Base(host.ConfigFile)) {
		t.Errorf("a new reason is not logged (%v):\n%s", err, &log)
	}
}

// What a stage of an installation says is a line of the log, whatever it holds.
func TestStepsAreOneLineEach(t *testing.T) {
	var log bytes.Buffer
	if _, err := fmt.Fprintf(Steps(slog.New(slog.NewTextHandler(&log, nil))), "binary: %s\n", "a\nlevel=ERROR msg=forged"); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), `step="binary: a\nlevel`) {
		t.Errorf("%d lines:\n%s", lines, &log)
	}
}
