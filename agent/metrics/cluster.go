package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Cluster is how things stand with the cluster's policies.
type Cluster struct {
	State    string // one of the states that WatchCluster was given
	Revision string // empty if none are in force
	Count    int
	Skipped  int
	// Heartbeat is when sync last knew its copy to be up to date; zero: never.
	Heartbeat time.Time
}

// WatchCluster adds gauges that say how things stand with the cluster's policies. It may be called once. No name of a
// document is a label.
func (m *Metrics) WatchCluster(possible []string, now func() Cluster) {
	gauge := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("cosentry_cluster_"+name, help, labels, nil)
	}
	m.registry.MustRegister(&clusterGauges{
		possible: possible, now: now,
		state:   gauge("policies_state", "1 for the state that the cluster's policies are in (off, none, good, broken). none: they have never come, and the node's own hold alone. broken: what came last cannot be loaded; an older set stays in force or, if cosentry_cluster_policy_info is missing, every gated call is refused.", "state"),
		count:   gauge("policies", "Number of the cluster's policies in force."),
		info:    gauge("policy_info", "1, labelled with the revision of the cluster's policies in force.", "revision"),
		skipped: gauge("documents_skipped", "Documents of the cluster that are not taken because they are not signed as clusterPolicies.publicKey demands."),
		beat:    gauge("heartbeat_timestamp_seconds", "When sync last knew the node's copy of the cluster's documents to be up to date, in seconds since the epoch. Missing if it never did."),
	})
}

type clusterGauges struct {
	possible []string
	now      func() Cluster

	state, count, info, skipped, beat *prometheus.Desc
}

func (c *clusterGauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.state, c.count, c.info, c.skipped, c.beat} {
		out <- d
	}
}

func (c *clusterGauges) Collect(out chan<- prometheus.Metric) {
	now := c.now()
	put := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for _, state := range c.possible {
		put(c.state, number(state == now.State), state)
	}
	put(c.count, float64(now.Count))
	put(c.skipped, float64(now.Skipped))
	if now.Revision != "" {
		put(c.info, 1, now.Revision)
	}
	if !now.Heartbeat.IsZero() {
		put(c.beat, float64(now.Heartbeat.Unix()))
	}
}
