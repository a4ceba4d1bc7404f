package monitoring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// series is one line of /metrics.
type series struct {
	labels labels.Labels
	value  float64
}

// parse reads what a target shows, with the labels that a scrape adds.
func parse(text []byte, instance string) (all []series, err error) {
	p, err := textparse.New(text, "text/plain; version=0.0.4", false, labels.NewSymbolTable())
	if err != nil {
		return nil, err
	}
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if entry != textparse.EntrySeries {
			continue
		}
		_, _, value := p.Series()
		var l labels.Labels
		p.Metric(&l)
		b := labels.NewBuilder(l)
		b.Set("instance", instance).Set("job", "cosentry").Set("node", nodeName)
		all = append(all, series{b.Labels(), value})
	}
}

// nodeName is the label node that podmonitor.yaml gives to a target.
const nodeName = "node-1"

// clusterNodes are what kube-state-metrics says of the cluster: the node that is scraped, one that is new (healthy has it not there
// yet), one of Windows, and one that is being taken off.
func clusterNodes() (all []series) {
	add := func(pairs ...string) {
		all = append(all, series{labels.FromStrings(append(pairs, "instance", "kube-state-metrics:8080", "job", "kube-state-metrics")...), 1})
	}
	for name, system := range map[string]string{
		nodeName: "Container-Optimized OS from Google", "new": "Ubuntu 24.04.2 LTS", "windows": "Windows Server 2022 Datacenter", "off": "Debian GNU/Linux 12 (bookworm)",
	} {
		add("__name__", "kube_node_info", "node", name, "os_image", system)
	}
	add("__name__", "kube_node_labels", "node", "off", "label_node_restriction_kubernetes_io_cosentry_uninstall", "true")
	add("__name__", "kube_node_labels", "node", nodeName)
	return all
}

// ups are what Prometheus itself says of a target that it scrapes: one that a PodMonitor found, and one found otherwise.
func ups(instance string) []series {
	return []series{
		{labels.FromStrings("__name__", "up", "instance", instance, "job", "cosentry-system/cosentry", "namespace", "cosentry-system", "pod", "cosentry-x7k2p", "node", nodeName), 1},
		{labels.FromStrings("__name__", "up", "instance", instance, "job", "cosentry"), 1},
	}
}

func (n *node) text() string {
	var b strings.Builder
	for _, s := range n.shown {
		if strings.HasPrefix(s.labels.Get("__name__"), "cosentry_") {
			fmt.Fprintln(&b, s.labels, s.value)
		}
	}
	return b.String()
}

// value is that of the first series that a selector selects; 0: there is none.
func (n *node) value(selector string) float64 {
	matchers, err := parser.ParseMetricSelector(selector)
	if err != nil {
		panic(err)
	}
	for _, s := range n.shown {
		if matches(s.labels, matchers) {
			return s.value
		}
	}
	return 0
}

func matches(l labels.Labels, all []*labels.Matcher) bool {
	return !slices.ContainsFunc(all, func(m *labels.Matcher) bool { return !m.Matches(l.Get(m.Name)) })
}

// past is what Prometheus would have of a node: a sample a minute for two hours.
const (
	past  = 2 * time.Hour
	every = time.Minute
)

// course says what a series was at a time, that long before the end, or that it was not there.
type course func(l labels.Labels, last float64, ago time.Duration) (float64, bool)

// history is a Prometheus that has scraped the node.
type history struct {
	end    time.Time
	series []promql.Series
}

func (n *node) history(was course) *history {
	h := &history{end: n.at.Truncate(time.Minute)}
	for _, s := range n.shown {
		one := promql.Series{Metric: s.labels}
		for ago := past; ago >= 0; ago -= every {
			if v, ok := was(s.labels, s.value, ago); ok {
				one.Floats = append(one.Floats, promql.FPoint{T: h.end.Add(-ago).UnixMilli(), F: v})
			}
		}
		h.series = append(h.series, one)
	}
	return h
}

// ask evaluates an expression at each minute of a while, up to the end.
func (h *history) ask(t *testing.T, expr string, while time.Duration) promql.Matrix {
	t.Helper()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 50_000_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, EnableAtModifier: true})
	q, err := engine.NewRangeQuery(t.Context(), h, nil, expr, h.end.Add(-while), h.end, every)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	defer q.Close()
	r := q.Exec(t.Context())
	if r.Err != nil {
		t.Fatalf("%s: %v", expr, r.Err)
	}
	m, err := r.Matrix()
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	out := slices.Clone(m)
	for i := range out {
		out[i].Floats = slices.Clone(out[i].Floats)
	}
	return out
}

// Querier makes a history something that an engine can ask.
func (h *history) Querier(_, _ int64) (storage.Querier, error) { return querier{h}, nil }

type querier struct{ *history }

func (q querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, all ...*labels.Matcher) storage.SeriesSet {
	found := &set{}
	for _, s := range q.series {
		if len(s.Floats) > 0 && matches(s.Metric, all) {
			found.all = append(found.all, promql.NewStorageSeries(s))
		}
	}
	return found
}

func (querier) LabelValues(context.Context, string, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, errors.New("not asked")
}

func (querier) LabelNames(context.Context, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, errors.New("not asked")
}

func (querier) Close() error { return nil }

// set gives series one after the other.
type set struct {
	all []storage.Series
	at  int
}

func (s *set) Next() bool                        { s.at++; return s.at <= len(s.all) }
func (s *set) At() storage.Series                { return s.all[s.at-1] }
func (s *set) Err() error                        { return nil }
func (s *set) Warnings() annotations.Annotations { return nil }

// selectors are all in an expression.
func selectors(t *testing.T, expr string) (all []*parser.VectorSelector) {
	t.Helper()
	e, err := parser.ParseExpr(expr)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		if v, ok := n.(*parser.VectorSelector); ok {
			all = append(all, v)
		}
		return nil
	})
	return all
}
