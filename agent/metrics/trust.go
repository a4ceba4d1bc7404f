package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Trust is how things stand with one reference of a policy.
type Trust struct {
	Kind, Name string
	OK         bool
	// Root says that it is a trust root, Expires when that ends; zero: never.
	Root    bool
	Expires time.Time
}

// WatchTrust adds gauges that say how things stand with what policies refer to. It may be called once. Kinds are the same
// as in Options. The name of a trust root is a label: it is the node's owner who chooses it.
func (m *Metrics) WatchTrust(kinds []string, states func() []Trust) {
	m.registry.MustRegister(&trust{
		kinds:  kinds,
		states: states,
		expiry: prometheus.NewDesc("cosentry_trust_root_expiry_timestamp_seconds", "When a trust root expires, in seconds since the epoch, by its name. Those that never do are left out.", []string{"root"}, nil),
		broken: prometheus.NewDesc("cosentry_trust_unusable", "References of policies that cannot be used now, because what they refer to is not there, was never reached or has expired, by kind.", []string{"kind"}, nil),
	})
}

type trust struct {
	kinds          []string
	states         func() []Trust
	expiry, broken *prometheus.Desc
}

func (t *trust) Describe(out chan<- *prometheus.Desc) { out <- t.expiry; out <- t.broken }

func (t *trust) Collect(out chan<- prometheus.Metric) {
	unusable, roots := map[string]int{}, map[string]bool{}
	for _, s := range t.states() {
		if !s.OK {
			unusable[s.Kind]++
		}
		if s.Root && !s.Expires.IsZero() && !roots[s.Name] { // a name twice would end the whole scrape
			roots[s.Name] = true
			out <- prometheus.MustNewConstMetric(t.expiry, prometheus.GaugeValue, float64(s.Expires.Unix()), s.Name)
		}
	}
	for _, kind := range t.kinds {
		out <- prometheus.MustNewConstMetric(t.broken, prometheus.GaugeValue, float64(unusable[kind]), kind)
	}
}

// WatchNamespaces adds a gauge that says which of its possible states the namespaces file is in. It may be called once.
func (m *Metrics) WatchNamespaces(possible []string, now func() string) {
	for _, state := range possible {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "cosentry", Name: "namespaces_file", ConstLabels: prometheus.Labels{"state": state},
			Help: "1 for the state that the namespaces file is in (unused, good, missing, broken). While it is missing images are judged in all namespaces; while it is broken, in those that it last said.",
		}, func() float64 { return number(now() == state) }))
	}
}
