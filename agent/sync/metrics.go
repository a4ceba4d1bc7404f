package sync

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are those of one sync. Labels take values of closed sets alone.
type Metrics struct {
	registry *prometheus.Registry

	documents, held, references *prometheus.GaugeVec
	written                     prometheus.Counter
	broken, beat                prometheus.Gauge
}

func newMetrics() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "cosentry", Subsystem: "sync", Name: name, Help: help}, labels)
		m.registry.MustRegister(g)
		return g
	}
	m.documents = gauges("documents", "Documents of the cluster that are on this node, by resource (clusterimagepolicies, trustroots).", "resource")
	m.held = gauges("documents_held", "Those of them of which the API server does not tell and that stay, because their definition was removed or may not be looked at, or because the resource may not be read.", "resource")
	m.references = gauges("references", "Secrets and ConfigMaps that policies of the cluster name, by state (waiting, live, absent, refused, unreachable).", "state")
	m.broken = gauges("broken", "1 if what the cluster holds cannot be put in force, and an older set, or none, is.").WithLabelValues()
	m.beat = gauges("up_to_date_timestamp_seconds", "When this node's copy was last known to be what the cluster holds, in seconds since the epoch; 0: not since sync began.").WithLabelValues()
	m.written = prometheus.NewCounter(prometheus.CounterOpts{Namespace: "cosentry", Subsystem: "sync", Name: "sets_written_total", Help: "Times that the node's copy was changed."})
	m.registry.MustRegister(m.written)
	for _, resource := range []string{policies, trustRoots} {
		m.documents.WithLabelValues(resource)
		m.held.WithLabelValues(resource)
	}
	for _, state := range states() {
		m.references.WithLabelValues(string(state))
	}
	return m
}

// watch adds gauges that say how each source stands.
func (m *Metrics) watch(sources map[string]*source) {
	for name, s := range sources {
		for _, state := range states() {
			m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Namespace: "cosentry", Subsystem: "sync", Name: "source", ConstLabels: prometheus.Labels{"resource": name, "state": string(state)},
				Help: "1 for the state in which a resource of the API server is (waiting, live, absent, refused, unreachable).",
			}, func() float64 {
				if s.view().state == state {
					return 1
				}
				return 0
			}))
		}
	}
}

// round tells of one round of the loop.
func (m *Metrics) round(b *built, wrote string, err error, refs map[reference]*watchedReference) {
	if wrote != "" {
		m.written.Inc()
	}
	if errors.Is(err, errNotYet) {
		return
	}
	inForce := b.now
	m.broken.Set(0)
	if err == nil {
		inForce = b.next
	} else {
		m.broken.Set(1)
	}
	counts := map[string]int{}
	for _, d := range inForce.Documents {
		counts[d.Kind]++
	}
	for _, resource := range []string{policies, trustRoots} {
		m.documents.WithLabelValues(resource).Set(float64(counts[kindOf(resource)]))
		m.held.WithLabelValues(resource).Set(float64(b.held[resource]))
	}
	byState := map[State]int{}
	for _, w := range refs {
		byState[w.view().state]++
	}
	for _, state := range states() {
		m.references.WithLabelValues(string(state)).Set(float64(byState[state]))
	}
}

func (m *Metrics) upToDate(at time.Time) { m.beat.Set(float64(at.UnixMilli()) / 1000) }

// MetricsHandler serves /metrics, for the network.
func (s *Sync) MetricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{Registry: s.metrics.registry}))
	return mux
}

// HealthHandler serves /healthz, for kubelet. A pod that cannot reach the API server is healthy: to start it again would
// change nothing.
func (s *Sync) HealthHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if since := time.Since(*s.round.Load()); since > hung {
			http.Error(w, fmt.Sprintf("the last round ended %s ago", since.Round(time.Second)), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}
