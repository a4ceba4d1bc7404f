package monitoring

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

type dashboard struct {
	Title, UID string
	Panels     []struct {
		ID          int
		Type, Title string
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct{ Expr, LegendFormat, RefID string }
	}
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	data, err := os.ReadFile(folder + "dashboard.json")
	must(t, err)
	must(t, json.Unmarshal(data, &d))
	return d
}

// panels are the expressions of each, as Grafana sends them with all nodes chosen.
func panels(t *testing.T) map[string][]string {
	all := map[string][]string{}
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$instance", ".*", "$__rate_interval", "5m").Replace(target.Expr)
			all[p.Title] = append(all[p.Title], expr)
		}
	}
	return all
}

// dashboard: each panel shows something, of a node that is well or of one with every fault.
func (n *node) dashboard(t *testing.T) {
	d := readDashboard(t)
	if d.Title == "" || d.UID == "" {
		t.Error("no name")
	}
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || (p.Type == "row") != (len(p.Targets) == 0) {
			t.Errorf("panel %d %q of type %s, %d targets", p.ID, p.Title, p.Type, len(p.Targets))
		}
		ids[p.ID] = true
		if p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s is beyond the edge", p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
	well := n.history(func(l labels.Labels, last float64, ago time.Duration) (float64, bool) {
		if name := l.Get("__name__"); strings.HasSuffix(name, "_total") || strings.HasSuffix(name, "_bucket") {
			return grows(ago, last) // a rate of nothing is nothing
		}
		return n.healthy(l, last, ago)
	})
	sick := n.history(func(l labels.Labels, last float64, ago time.Duration) (float64, bool) {
		switch name := l.Get("__name__"); {
		case name == "cosentry_host_fault":
			return 1, true
		case strings.HasSuffix(name, "_allowed"), strings.HasSuffix(name, "_writable"), strings.HasSuffix(name, "_up"):
			return 0, true
		}
		return n.healthy(l, last, ago)
	})
	for title, exprs := range panels(t) {
		for _, expr := range exprs {
			if len(well.ask(t, expr, time.Hour)) == 0 && len(sick.ask(t, expr, time.Hour)) == 0 {
				t.Errorf("%s shows nothing: %s", title, expr)
			}
		}
	}
}
