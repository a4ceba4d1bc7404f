package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Trust is how things stand with one reference of a policy.
type Trust struct {
	Kind, Name string
	// Cluster says that a policy of the cluster refers to it, and not one of the node's own.
	Cluster bool
	OK      bool
	// Unkept says that the disk does not hold what is in use.
	Unkept bool
	// Root says that it is a trust root, Expires when it will not be used any more, and Ends when no authority of some kind
	// in it still signs; zero: never.
	Root          bool
	Expires, Ends time.Time
}

// WatchTrust adds gauges that say how things stand with what policies refer to. It may be called once. Kinds are the same
// as in Options. The name of a trust root is a label: it is the node's owner who chooses it, or who may write TrustRoots in the cluster, and
// there are only so many.
func (m *Metrics) WatchTrust(kinds []string, states func() []Trust) {
	m.registry.MustRegister(&trust{
		kinds:  kinds,
		states: states,
		expiry: prometheus.NewDesc("cosentry_trust_root_expiry_timestamp_seconds", "When a trust root expires, in seconds since the epoch, by its name and whose policies it is for (node, cluster). Those that never do are left out.", []string{"layer", "root"}, nil),
		ends:   prometheus.NewDesc("cosentry_trust_root_signing_end_timestamp_seconds", "When no authority of some kind (certificate authorities, logs, timestamps) in a trust root still signs, in seconds since the epoch, by its name and whose policies it is for (node, cluster). What was signed before is accepted afterwards too. Those without a known end are left out.", []string{"layer", "root"}, nil),
		unkept: prometheus.NewDesc("cosentry_trust_unkept", "What was fetched for policies and is in use, or was withdrawn, while trust.cacheDir could not be made to say the same, by kind and by whose policies it is for (node, cluster). It would be missing, or used again, after a restart.", []string{"layer", "kind"}, nil),
		broken: prometheus.NewDesc("cosentry_trust_unusable", "References of policies that cannot be used now, because what they refer to is not there, was never reached or has expired, by kind and by whose policies they are (node, cluster).", []string{"layer", "kind"}, nil),
	})
}

type trust struct {
	kinds  []string
	states func() []Trust

	expiry, ends, broken, unkept *prometheus.Desc
}

func (t *trust) Describe(out chan<- *prometheus.Desc) {
	out <- t.expiry
	out <- t.ends
	out <- t.broken
	out <- t.unkept
}

func (t *trust) Collect(out chan<- prometheus.Metric) {
	type of struct{ layer, name string }
	unusable, unkept, roots := map[of]int{}, map[of]int{}, map[of]bool{}
	for _, s := range t.states() {
		layer := either(s.Cluster, "cluster", "node")
		if !s.OK {
			unusable[of{layer, s.Kind}]++
		}
		if s.Unkept {
			unkept[of{layer, s.Kind}]++
		}
		root := of{layer, s.Name}
		if !s.Root || roots[root] { // a name twice would end the whole scrape
			continue
		}
		roots[root] = true
		if !s.Expires.IsZero() {
			out <- prometheus.MustNewConstMetric(t.expiry, prometheus.GaugeValue, float64(s.Expires.Unix()), layer, s.Name)
		}
		if !s.Ends.IsZero() {
			out <- prometheus.MustNewConstMetric(t.ends, prometheus.GaugeValue, float64(s.Ends.Unix()), layer, s.Name)
		}
	}
	for _, layer := range []string{"node", "cluster"} {
		for _, kind := range t.kinds {
			out <- prometheus.MustNewConstMetric(t.broken, prometheus.GaugeValue, float64(unusable[of{layer, kind}]), layer, kind)
			out <- prometheus.MustNewConstMetric(t.unkept, prometheus.GaugeValue, float64(unkept[of{layer, kind}]), layer, kind)
		}
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
