package metrics

import (
	"errors"
	"flag"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
)

var update = flag.Bool("update", false, "write the golden files anew")

var options = Options{
	Version: "v1", Mode: "observe",
	Actions: []string{"pull", "create", "mount"}, Decisions: []string{"allow", "warn", "deny", "error"},
	Kinds: []string{"kms key", "trust root"},
}

// scrape returns the exposition, of the agent's own metrics alone.
func scrape(t *testing.T, m *Metrics) (own, all string) {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("scrape: %d %s", w.Code, w.Body)
	}
	var b strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "), "cosentry_") {
			b.WriteString(line)
		}
	}
	return b.String(), w.Body.String()
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("names, labels and values are what dashboards and alerts rest on; -update if this is meant (-want +got):\n%s", diff)
	}
}

// TestFromTheStart: what an alert asks for is there before it happens, so that increase() sees the
// first refusal of a node.
func TestFromTheStart(t *testing.T) {
	own, _ := scrape(t, New(options))
	golden(t, "start.prom", own)
}

// TestEveryMethod calls each method with values that end in no other's series.
func TestEveryMethod(t *testing.T) {
	m := New(options)
	m.Settings(true)
	up, queued := false, 0
	var fault error
	m.WatchRuntime(func() bool { return up })
	m.WatchAudit(func() error { return fault }, func() int { return queued })

	file := "good"
	m.WatchNamespaces([]string{"good", "missing"}, func() string { return file })
	soon := time.Unix(5000, 0)
	m.WatchTrust(options.Kinds, func() []Trust {
		return []Trust{
			{Kind: "trust root", Name: "public-good", OK: true, Root: true, Expires: soon},
			{Kind: "trust root", Name: "public-good", Root: true, Expires: soon}, // named twice by mistake
			{Kind: "trust root", Name: "keys", OK: true, Root: true},
			{Kind: "trust root", Name: "ca", OK: true, Root: true, Ends: time.Unix(6000, 0)},
			{Kind: "trust root", Name: "corp", Root: true, Expires: time.Unix(10, 0), Ends: time.Unix(20, 0)},
			{Kind: "kms key", Name: "awskms:///x", OK: true, Unkept: true, Expires: soon},
			{Kind: "trust root", Name: "corp", Cluster: true, Root: true, Expires: time.Unix(30, 0)}, // of the same name
			{Kind: "kms key", Name: "awskms:///x", Cluster: true, OK: true, Unkept: true},
		}
	})
	cluster := Cluster{State: "good", Revision: "cccc", Count: 3, Skipped: 2, Heartbeat: time.Unix(7000, 0)}
	m.WatchCluster([]string{"good", "broken"}, func() Cluster { return cluster })
	m.TrustFetched("kms key", "awskms:///x", errors.New("no answer"))
	m.TrustFetched("kms key", "awskms:///x", nil)

	m.Decided("pull", "deny", 20*time.Microsecond)
	m.Decided("pull", "deny", 30*time.Second)
	m.Decided("create", "allow", 3*time.Millisecond)
	m.Judged(2*time.Second, nil)
	m.Judged(time.Minute, errors.New("no answer"))
	m.Judged(time.Minute, errors.New("no answer"))
	m.Cache(true)
	m.Cache(true)
	m.Cache(true)
	m.Cache(false)
	m.Registry("registry.example", "manifest", 200, 200*time.Millisecond, nil)
	m.Registry("other.example", "manifest", 0, 10*time.Second, errors.New("timeout"))
	m.Registry("registry.example", "blob", 404, time.Millisecond, nil)
	m.Forwarded("/runtime.v1.RuntimeService/Version", false, codes.OK, 300*time.Microsecond)
	m.Forwarded("/runtime.v1.ImageService/PullImage", false, codes.NotFound, 200*time.Second)
	m.Forwarded("/runtime.v1.RuntimeService/GetContainerEvents", true, codes.Canceled, 24*time.Hour)
	m.AuditFault(errors.New("disk full"))
	m.AuditLost(7)
	m.WatchSandbox(func() []Sandbox {
		return []Sandbox{{"registry.example/pause:1", true}, {"registry.example/pause:2", false}, {"registry.example/pause:1", false}}
	})
	broken := m.WatchBreakGlass([]string{"pull", "create"}, func() bool { return true })
	broken("create", "deny")
	m.PoliciesLoaded("aaaa", 1, time.Unix(1000, 0))
	m.PoliciesLoaded("bbbb", 2, time.UnixMilli(2000_500))
	m.PoliciesLoaded("bbbb", 2, time.UnixMilli(3000_500))
	m.PoliciesBroken()
	up, queued, fault = true, 5, errors.New("disk full")
	own, _ := scrape(t, m)
	golden(t, "used.prom", own)

	m.PoliciesLoaded("bbbb", 2, time.Unix(4000, 0))
	up, fault, file, cluster = false, nil, "missing", Cluster{State: "broken"}
	own, _ = scrape(t, m)
	for _, line := range []string{"cosentry_policy_broken 0", "cosentry_runtime_up 0", "cosentry_audit_writable 1", `cosentry_namespaces_file{state="good"} 0`, `cosentry_namespaces_file{state="missing"} 1`} {
		if !strings.Contains(own, line+"\n") {
			t.Errorf("after all was mended, %s is missing in\n%s", line, own)
		}
	}

	for _, name := range []string{"cosentry_cluster_policy_info{", "cosentry_cluster_heartbeat_timestamp_seconds "} {
		if strings.Contains(own, "\n"+name) {
			t.Errorf("with nothing in force, %s is there", name)
		}
	}

	want := map[string]map[string]uint64{
		"pull":   {"allow": 0, "warn": 0, "deny": 2, "error": 0},
		"create": {"allow": 1, "warn": 0, "deny": 0, "error": 0},
		"mount":  {"allow": 0, "warn": 0, "deny": 0, "error": 0},
	}
	if diff := cmp.Diff(want, m.Decisions()); diff != "" {
		t.Errorf("Decisions (-want +got):\n%s", diff)
	}
}

// The agent is in the node's network namespace: its traffic is not told apart from the node's.
func TestTheNodesTrafficIsNotTheAgents(t *testing.T) {
	_, all := scrape(t, New(options))
	if strings.Contains(all, "process_network_") {
		t.Error("the node's network counters are shown as the agent's")
	}
	for _, name := range []string{"process_resident_memory_bytes ", "process_open_fds ", "go_goroutines "} {
		if !strings.Contains(all, "\n"+name) {
			t.Errorf("%s is missing", name)
		}
	}
}

// TestEveryMetricIsDocumented: docs/metrics.md tells what HELP tells, of each metric that there is.
func TestEveryMetricIsDocumented(t *testing.T) {
	used, err := os.ReadFile(filepath.Join("testdata", "used.prom"))
	if err != nil {
		t.Fatal(err)
	}
	docs, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for line := range strings.Lines(string(used)) {
		if help, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, text, _ := strings.Cut(strings.TrimSpace(help), " ")
			want["| `"+name+"` | "+text+" |"] = true
		}
	}
	for line := range strings.Lines(string(docs)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "| `cosentry_sync_") || strings.HasPrefix(line, "| `cosentry_host_") {
			continue // those of other processes, whose tests compare them
		}
		if strings.HasPrefix(line, "| `cosentry_") && !strings.Contains(line, " == ") && !strings.Contains(line, " < ") && !strings.Contains(line, " > ") {
			if !want[line] {
				t.Errorf("not a metric, or with another text: %s", line)
			}
			delete(want, line)
		}
	}
	for line := range want {
		t.Errorf("missing in docs/metrics.md: %s", line)
	}
}
