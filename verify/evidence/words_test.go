package evidence_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/verify/evidence"
)

// What a person reads of a registry that is away is one line, and names the digest no more than it must.
func TestWhatIsMissingIsOneLine(t *testing.T) {
	r := newReg(t)
	r.all(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	e := fetch(t, newFetcher(t, evidence.Options{}), r.host+"/app", evidence.Credentials{})
	if !errors.Is(e.Incomplete, evidence.ErrUnavailable) {
		t.Fatalf("incomplete: %v", e.Incomplete)
	}
	if text := e.Incomplete.Error(); strings.Contains(text, "\n") || strings.Contains(text, subject.Encoded()) || !strings.Contains(text, "503") {
		t.Errorf("%q", text)
	}
}

// Whoever calls Resolve need not say again what was being resolved, whatever went wrong.
func TestErrorsOfResolveSayOnceWhatWasResolved(t *testing.T) {
	r := newReg(t)
	f := newFetcher(t, evidence.Options{})
	broken := newFetcher(t, evidence.Options{HostsDir: hostsDir(t, map[string]string{r.host: "[broken"})})
	for name, c := range map[string]struct {
		f               *evidence.Fetcher
		repository, tag string
	}{
		"no such tag":     {f, r.host + "/app", "1"},
		"not a tag":       {f, r.host + "/app", "-\n1"},
		"not a name":      {f, r.host + "/APP", "1"},
		"broken settings": {broken, r.host + "/app", "1"},
	} {
		_, err := c.f.Resolve(testContext(t), c.repository, c.tag, evidence.Credentials{})
		if err == nil {
			t.Fatalf("%s: no error", name)
		}
		text := err.Error()
		start := "resolving " + c.repository + ":" + strings.ReplaceAll(c.tag, "\n", `\n`) + ": "
		if !strings.HasPrefix(text, start) || strings.Count(text, "resolving") != 1 {
			t.Errorf("%s: %q", name, text)
		}
	}
}
