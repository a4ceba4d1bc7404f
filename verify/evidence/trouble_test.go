package evidence

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is moved by hand.
type clock struct{ at time.Time }

func newClock() *clock { return &clock{at: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time          { return c.at }
func (c *clock) advance(d time.Duration) { c.at = c.at.Add(d) }

// lines is a log that counts.
type lines struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(p)
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }

// since gives the lines since the last call.
func (l *lines) since() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := strings.TrimSpace(l.out.String())
	l.out.Reset()
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

func TestTroubleIsReportedWhenItChangesAndRarelyAgain(t *testing.T) {
	c := newClock()
	tr := trouble{now: c.now}
	check := func(what string, got, want bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s: reported: %v", what, got)
		}
	}
	check("no trouble yet", tr.ends(), false)
	check("first", tr.begins(), true)
	check("goes on", tr.begins(), false)
	c.advance(troubleAgain - time.Second)
	check("goes on", tr.begins(), false)
	c.advance(time.Second)
	check("goes on after long", tr.begins(), true)
	check("over", tr.ends(), true)
	check("still over", tr.ends(), false)
	check("back at once", tr.begins(), false)
	check("over without a word of it", tr.ends(), false)
	check("back at once, again", tr.begins(), false)
	c.advance(troubleSettles)
	check("back to stay", tr.begins(), true)
	check("goes on", tr.begins(), false)
}

func TestABrokenDockerConfigIsReportedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, log := newClock(), &lines{}
	n := newNodeCredentials(path, log.logger())
	n.trouble.now = c.now
	write("{broken")
	for range 100 {
		n.lookup("r.example", "app")
	}
	if got := log.since(); len(got) != 1 || !strings.Contains(got[0], "cannot be read") {
		t.Errorf("%d lines of a broken config: %q", len(got), got)
	}
	c.advance(troubleAgain)
	n.lookup("r.example", "app")
	if got := log.since(); len(got) != 1 {
		t.Errorf("%d lines ten minutes later: %q", len(got), got)
	}
	write(`{"auths":{"r.example":{"username":"u","password":"p"}}}`)
	for range 100 {
		if len(n.lookup("r.example", "app")) != 1 {
			t.Fatal("the mended config is not used")
		}
	}
	if got := log.since(); len(got) != 1 || !strings.Contains(got[0], "again") {
		t.Errorf("%d lines once mended: %q", len(got), got)
	}
	c.advance(troubleSettles)
	write("{broken again")
	n.lookup("r.example", "app")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if n.lookup("r.example", "app") != nil {
		t.Error("credentials of a file that is gone")
	}
	if got := log.since(); len(got) != 2 {
		t.Errorf("%d lines of broken and gone: %q", len(got), got)
	}
}
