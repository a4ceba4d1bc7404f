package sync

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/policy"
)

// fill sets everything in a policy that can refer to something, and returns how many references it made.
func fill(v reflect.Value, count int) int {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.CanSet() || !strings.HasSuffix(v.Type().Elem().PkgPath(), "verify/policy") {
			return count
		}
		v.Set(reflect.New(v.Type().Elem()))
		return fill(v.Elem(), count)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[policy.Reference]() {
			v.Set(reflect.ValueOf(policy.Reference{Namespace: "ns", Name: fmt.Sprintf("n%d", count), Key: "k"}))
			return count + 1
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				count = fill(v.Field(i), count)
			}
		}
	case reflect.Slice:
		if v.CanSet() && v.Type().Elem().Kind() == reflect.Struct {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			return fill(v.Index(0), count)
		}
	}
	return count
}

// A field of policies that refers to something new must be known here, or it would never come to a node.
func TestEveryReferenceOfAPolicyIsFollowed(t *testing.T) {
	var p policy.Policy
	made := fill(reflect.ValueOf(&p).Elem(), 0)
	p.Authorities[0].Source.PullSecrets = []string{"pull"}
	found, err := references([]*policy.Policy{&p})
	if err != nil {
		t.Fatal(err)
	}
	if made < 4 || len(found) != made+1 {
		t.Errorf("%d references in a policy, %d found: %v", made, len(found), found)
	}
	if _, ok := found[reference{secrets, "", "pull"}]; !ok {
		t.Errorf("no pull secret: %v", found)
	}
}

// TestEveryMetricIsDocumented: docs/metrics.md tells what HELP tells.
func TestEveryMetricIsDocumented(t *testing.T) {
	n := start(t, newAPIServer(t), t.TempDir())
	w := httptest.NewRecorder()
	n.sync.MetricsHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	docs, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for line := range strings.Lines(w.Body.String()) {
		if help, ok := strings.CutPrefix(line, "# HELP cosentry_"); ok {
			name, text, _ := strings.Cut(strings.TrimSpace(help), " ")
			want["| `cosentry_"+name+"` | "+text+" |"] = true
		}
	}
	for line := range strings.Lines(string(docs)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "| `cosentry_sync_") && !want[line] && !strings.ContainsAny(line, "=<>") {
			t.Errorf("not a metric, or with another text: %s", line)
		}
		delete(want, line)
	}
	for line := range want {
		t.Errorf("missing in docs/metrics.md: %s", line)
	}
}

func TestHealth(t *testing.T) {
	n := start(t, newAPIServer(t), t.TempDir())
	ask := func() int {
		w := httptest.NewRecorder()
		n.sync.HealthHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz", nil))
		return w.Code
	}
	n.rounds(1)
	if code := ask(); code != http.StatusOK {
		t.Error(code)
	}
	n.stop()
	last := *n.sync.round.Load()
	if last == last.Round(0) { // which takes off the reading of the clock that nobody sets
		t.Error("a step of the host's clock would make a loop that runs look hung")
	}
	last = last.Add(-hung - time.Second)
	n.sync.round.Store(&last)
	if code := ask(); code != http.StatusServiceUnavailable {
		t.Errorf("a loop that hangs is healthy: %d", code)
	}
}
