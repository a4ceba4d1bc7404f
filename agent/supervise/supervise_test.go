package supervise

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/cosentry/cosentry/agent/firsthand"
	"github.com/cosentry/cosentry/agent/host"
)

// hostWithAgent is a host's root with an agent that shows these metrics, and whose sync shows none.
func hostWithAgent(t *testing.T, text string) Sources {
	t.Helper()
	from := hostAt(t, "")
	agentOn(t, from.Agent.Root, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }))
	return from
}

// agentOn serves as the agent of a host.
func agentOn(t *testing.T, root string, h http.Handler) {
	t.Helper()
	server := &httptest.Server{Listener: agentListens(t, root), Config: &http.Server{Handler: h}}
	server.Start()
	t.Cleanup(server.Close)
}

// agentListens has the kernel accept what comes to the agent of a host.
func agentListens(t *testing.T, root string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(root, "run", "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// hostAt is a host's root with these settings and a folder of the cluster's documents.
func hostAt(t *testing.T, settings string) Sources {
	t.Helper()
	root, err := os.MkdirTemp("", "h") // short: a socket's path may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	file := filepath.Join(root, host.ConfigFile)
	for _, dir := range []string{filepath.Join(root, "cluster"), filepath.Join(root, "run"), filepath.Dir(file)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	settings = "apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\nlisten: /run/cri.sock\nclusterPolicies: {dir: /cluster}\n" + settings
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	nobody, err := net.Listen("tcp", "127.0.0.1:0") // free when it is asked
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	return Sources{Agent: firsthand.Agent{Root: root}, Sync: firsthand.Sync{Root: root, Address: nobody.Addr().String()}, Log: slog.New(slog.DiscardHandler)}
}

// metricsOf are the metrics without labels.
func metricsOf(t *testing.T, seen host.Seen, from Sources) map[string]float64 {
	t.Helper()
	text, err := render(t.Context(), seen, from, &reasons{log: from.Log})
	if err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	all := map[string]float64{}
	for name, one := range families {
		for _, m := range one.Metric {
			key := name
			for _, l := range m.Label {
				key += "," + l.GetName() + "=" + l.GetValue()
			}
			all[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue()
		}
	}
	return all
}

// TestSuperviseShowsTheAgentsMetricsBesideItsOwn: the agent's are passed on, but none that pretends to be the host's, and nothing of an
// answer that cannot be read.
func TestSuperviseShowsTheAgentsMetricsBesideItsOwn(t *testing.T) {
	good := host.Seen{Health: host.Health{Phase: host.Installed}, At: time.Unix(1, 0), Repaired: 2}
	bad := good
	bad.Faults = []host.Fault{{What: host.FaultDropIn, Why: "it is missing"}}
	offered := good
	offered.Faults = []host.Fault{{What: host.FaultOffered, Why: "mode: enforce here, observe offered"}}
	others := good
	others.Faults = []host.Fault{{What: host.FaultPolicies, Why: "another here"}}
	removed := good
	removed.Left = true
	for name, c := range map[string]struct {
		seen host.Seen
		text string
		want map[string]float64
	}{
		"good": {good, "cosentry_policies 3\n", map[string]float64{"cosentry_policies": 3, "cosentry_host_agent_up": 1, "cosentry_host_installed": 1,
			"cosentry_host_removed": 0, "cosentry_host_fault,what=dropin": 0, "cosentry_host_repairs_total,result=success": 2, "cosentry_host_looked_timestamp_seconds": 1}},
		"a fault":            {bad, "cosentry_policies 3\n", map[string]float64{"cosentry_host_installed": 0, "cosentry_host_fault,what=dropin": 1}},
		"weaker settings":    {offered, "cosentry_policies 3\n", map[string]float64{"cosentry_host_installed": 1, "cosentry_host_fault,what=offered": 1}},
		"other policies":     {others, "cosentry_policies 3\n", map[string]float64{"cosentry_host_installed": 1, "cosentry_host_fault,what=policies": 1}},
		"taken off":          {removed, "", map[string]float64{"cosentry_host_installed": 0, "cosentry_host_removed": 1}},
		"an agent that lies": {bad, "cosentry_host_installed 1\ncosentry_policies 3\n", map[string]float64{"cosentry_host_installed": 0, "cosentry_policies": 3}},
		"an agent that babbles": {good, "cosentry_policies 3\n<html>", map[string]float64{"cosentry_host_agent_up": 0, "cosentry_host_installed": 1,
			"cosentry_policies": -1}},
	} {
		t.Run(name, func(t *testing.T) {
			got := metricsOf(t, c.seen, hostWithAgent(t, c.text))
			for key, want := range c.want {
				value, ok := got[key]
				if want == -1 && ok || want != -1 && (!ok || value != want) {
					t.Errorf("%s is %v, %v; want %v", key, value, ok, want)
				}
			}
		})
	}
}

// TestSuperviseIsReadyOnlyWhereTheHostIsGuarded: every doubt is a reason.
func TestSuperviseIsReadyOnlyWhereTheHostIsGuarded(t *testing.T) {
	agent := hostWithAgent(t, "ok").Agent
	good := host.Seen{Health: host.Health{Phase: host.Installed}, At: time.Unix(1, 0)}
	if why := notReady(t.Context(), good, agent); why != "" {
		t.Errorf("not ready: %s", why)
	}
	good.Faults = []host.Fault{{What: host.FaultPolicies}} // it is guarded, by its own
	if why := notReady(t.Context(), good, agent); why != "" {
		t.Errorf("not ready: %s", why)
	}
	for name, edit := range map[string]func(*host.Seen){
		"not looked at":   func(s *host.Seen) { s.At = time.Time{} },
		"taken off":       func(s *host.Seen) { s.Left = true },
		"halfway":         func(s *host.Seen) { s.Phase = host.Installing },
		"weaker settings": func(s *host.Seen) { s.Faults = []host.Fault{{What: host.FaultOffered}} },
		"a fault":         func(s *host.Seen) { s.Faults = []host.Fault{{What: host.FaultAgent}} },
	} {
		seen := good
		edit(&seen)
		if notReady(t.Context(), seen, agent) == "" {
			t.Errorf("%s: ready", name)
		}
	}
	if notReady(t.Context(), good, firsthand.Agent{Root: t.TempDir()}) == "" {
		t.Error("ready without an agent")
	}
}

// TestEveryMetricOfSuperviseIsDocumented: docs/metrics.md tells what HELP tells.
func TestEveryMetricOfSuperviseIsDocumented(t *testing.T) {
	docs, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	from := hostWithAgent(t, "")
	text, err := render(t.Context(), host.Seen{}, from, &reasons{log: from.Log})
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		help, ok := strings.CutPrefix(strings.TrimSpace(line), "# HELP ")
		if !ok {
			continue
		}
		rows++
		name, meaning, _ := strings.Cut(help, " ")
		if row := "| `" + name + "` | " + meaning + " |\n"; !strings.Contains(string(docs), row) {
			t.Errorf("docs/metrics.md lacks %s", row)
		}
	}
	if documented := strings.Count(string(docs), "\n| `cosentry_host_"); rows != documented {
		t.Errorf("%d metrics and %d rows", rows, documented)
	}
}
