// Package metrics holds the agent's Prometheus metrics. Names and units follow
// https://prometheus.io/docs/practices/naming/. No label takes a value that a pod's author or a
// registry can choose, so that nobody can grow the number of series. Counters of what an alert
// is likely to ask for are there from the start with 0: rate and increase see nothing
// in a series that begins with 1.
package metrics

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
)

// Options say whose metrics they are.
type Options struct {
	Version string
	Mode    string // enforce or observe
	// Actions and Decisions are the values that Decided will be given.
	Actions, Decisions []string
	// Kinds are the values that TrustFetched will be given.
	Kinds []string
}

// Metrics are one agent's.
type Metrics struct {
	registry *prometheus.Registry
	counted  *prometheus.Registry // decisions alone

	decisions     *prometheus.CounterVec
	decisionTime  *prometheus.HistogramVec
	verification  *prometheus.HistogramVec
	cacheLookups  *prometheus.CounterVec
	registryReqs  *prometheus.CounterVec
	registryTime  *prometheus.HistogramVec
	forwarded     *prometheus.CounterVec
	forwardedTime prometheus.Histogram
	policyInfo    *prometheus.GaugeVec
	policies      prometheus.Gauge
	policyReloads *prometheus.CounterVec
	policyLoaded  prometheus.Gauge
	policyBroken  prometheus.Gauge
	auditFaults   prometheus.Counter
	auditLost     prometheus.Counter
	trustFailures *prometheus.CounterVec

	mu       sync.Mutex
	revision string // the one that policyInfo shows
}

var (
	// network is for what may take a round trip, or wait for a registry until it is given up.
	network = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	// deciding begins where an answer from the cache lies.
	deciding = append([]float64{.00001, .000025, .00005, .0001, .00025, .0005}, network...)
	// runtimeCalls ends beyond the longest that kubelet waits for a call.
	runtimeCalls = append([]float64{.00025, .0005}, append(network, 120, 300)...)
)

// New returns the metrics of one agent.
func New(o Options) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), counted: prometheus.NewRegistry()}
	m.decisions = m.counters("decisions_total", "Decisions, by action (pull, create, mount, sandbox), decision (allow, warn, deny, error) and mode (enforce, observe). In mode observe the call went on whatever the decision.",
		prometheus.Labels{"mode": o.Mode}, "action", "decision")
	m.counted.MustRegister(m.decisions)
	m.decisionTime = m.histograms("decision_duration_seconds", "Time from a request to the decision on an image, those from the cache included, by action.", deciding, "action")
	m.verification = m.histograms("verification_duration_seconds", "Time to reach a verdict that was not in the cache, by result (verdict, error).", network, "result")
	m.cacheLookups = m.counters("verdict_cache_lookups_total", "Look-ups in the verdict cache, by result (hit, miss).", nil, "result")
	m.registryReqs = m.counters("registry_requests_total", "Requests to registries for evidence, by operation and HTTP status code (0: no answer).", nil, "operation", "code")
	m.registryTime = m.histograms("registry_request_duration_seconds", "Time of requests to registries for evidence, by operation.", network, "operation")
	m.forwarded = m.counters("cri_requests_total", "CRI calls sent to the runtime and ended, by method and gRPC code. Calls that were refused or are not served were not sent.", nil, "method", "code")
	m.forwardedTime = prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "cosentry", Name: "cri_request_duration_seconds", Help: "Time that the runtime took for unary CRI calls, of all methods.", Buckets: runtimeCalls})
	m.policyInfo = prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "cosentry", Name: "policy_info", Help: "1, labelled with the revision of the policies in force."}, []string{"revision"})
	m.policies = m.gauge("policies", "Number of policies in force.", nil)
	m.policyReloads = m.counters("policy_reloads_total", "Attempts to load the policies, whether or not they had changed, by result (success, failure).", nil, "result")
	m.policyLoaded = m.gauge("policy_last_success_timestamp_seconds", "When the policies on disk were last read and found good, in seconds since the epoch.", nil)
	m.policyBroken = m.gauge("policy_broken", "1 if the policies on disk could not be loaded and an older set, or none, is in force.", nil)
	m.auditFaults = m.counter("audit_faults_total", "Times that the audit log could not do what it should: a write or a rotation that failed, a file altered by someone else.")
	m.auditLost = m.counter("audit_records_lost_total", "Audit records that are in no file and in no queue. The log of the agent has them.")
	m.trustFailures = m.counters("trust_fetch_failures_total", "Attempts to fetch what policies refer to that failed, by kind of reference.", nil, "kind")
	m.gauge("build_info", "1, labelled with the version and mode of this agent.", prometheus.Labels{"version": o.Version, "mode": o.Mode}).Set(1)
	m.registry.MustRegister(m.forwardedTime, m.policyInfo,
		collectors.NewGoCollector(), ownProcess{collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})})

	for _, action := range o.Actions {
		m.decisionTime.WithLabelValues(action)
		for _, decision := range o.Decisions {
			m.decisions.WithLabelValues(action, decision)
		}
	}
	for _, kind := range o.Kinds {
		m.trustFailures.WithLabelValues(kind)
	}
	for _, result := range []string{"verdict", "error"} {
		m.verification.WithLabelValues(result)
	}
	for _, result := range []string{"hit", "miss"} {
		m.cacheLookups.WithLabelValues(result)
	}
	for _, result := range []string{"success", "failure"} {
		m.policyReloads.WithLabelValues(result)
	}
	return m
}

func (m *Metrics) counters(name, help string, always prometheus.Labels, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "cosentry", Name: name, Help: help, ConstLabels: always}, labels)
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) counter(name, help string) prometheus.Counter {
	return m.counters(name, help, nil).WithLabelValues()
}

func (m *Metrics) gauge(name, help string, always prometheus.Labels) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "cosentry", Name: name, Help: help, ConstLabels: always})
	m.registry.MustRegister(g)
	return g
}

func (m *Metrics) histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "cosentry", Name: name, Help: help, Buckets: buckets}, labels)
	m.registry.MustRegister(h)
	return h
}

// asked adds a gauge whose value is asked for at each scrape.
func (m *Metrics) asked(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "cosentry", Name: name, Help: help}, value))
}

// WatchRuntime adds a gauge that says whether the runtime can be reached. It may be called once.
func (m *Metrics) WatchRuntime(up func() bool) {
	m.asked("runtime_up", "1 if the runtime's socket can be reached.", func() float64 { return number(up()) })
}

// WatchAudit adds gauges that say how the audit log stands: fault is why records are not being
// written, or nil; queued is how many wait to be. It may be called once.
func (m *Metrics) WatchAudit(fault func() error, queued func() int) {
	m.asked("audit_writable", "1 if audit records are being written, 0 if they cannot be.", func() float64 { return number(fault() == nil) })
	m.asked("audit_queued_records", "Audit records that wait in memory until they can be written.", func() float64 { return float64(queued()) })
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// ownProcess leaves out process_network_*: that is what the node sent and received, because the
// agent lives in the node's network namespace, and would be taken for the agent's own.
type ownProcess struct{ prometheus.Collector }

func (p ownProcess) Collect(out chan<- prometheus.Metric) {
	all := make(chan prometheus.Metric)
	go func() {
		defer close(all)
		p.Collector.Collect(all)
	}()
	for metric := range all {
		if !strings.Contains(metric.Desc().String(), `"process_network_`) {
			out <- metric
		}
	}
}

// Decided counts and measures a decision.
func (m *Metrics) Decided(action, decision string, took time.Duration) {
	m.decisions.WithLabelValues(action, decision).Inc()
	m.decisionTime.WithLabelValues(action).Observe(took.Seconds())
}

// Judged measures a verification that was made.
func (m *Metrics) Judged(d time.Duration, err error) {
	m.verification.WithLabelValues(either(err == nil, "verdict", "error")).Observe(d.Seconds())
}

// Cache counts a look-up in the verdict cache.
func (m *Metrics) Cache(hit bool) {
	m.cacheLookups.WithLabelValues(either(hit, "hit", "miss")).Inc()
}

// Registry counts and measures a request for evidence. The host is no label: names of registries
// come from pods.
func (m *Metrics) Registry(_, operation string, code int, d time.Duration, _ error) {
	m.registryReqs.WithLabelValues(operation, strconv.Itoa(code)).Inc()
	m.registryTime.WithLabelValues(operation).Observe(d.Seconds())
}

// Forwarded counts a CRI call that was sent to the runtime, and measures it unless it is a
// stream: those live as long as their client wants. Method must be a name that the proxy knows.
func (m *Metrics) Forwarded(method string, stream bool, code codes.Code, d time.Duration) {
	m.forwarded.WithLabelValues(method, code.String()).Inc()
	if !stream {
		m.forwardedTime.Observe(d.Seconds())
	}
}

// AuditFault counts a fault of the audit log.
func (m *Metrics) AuditFault(error) { m.auditFaults.Inc() }

// AuditLost counts records that are in no audit file and will be in none.
func (m *Metrics) AuditLost(n int) { m.auditLost.Add(float64(n)) }

// TrustFetched counts an attempt to fetch what a policy refers to, if it failed. The name is no label: it would be a series
// for each key.
func (m *Metrics) TrustFetched(kind, _ string, err error) {
	if err != nil {
		m.trustFailures.WithLabelValues(kind).Inc()
	}
}

// PoliciesLoaded tells of an attempt to load the policies that went well, whether or not they had changed.
func (m *Metrics) PoliciesLoaded(revision string, count int, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.revision != revision {
		m.policyInfo.Reset()
		m.policyInfo.WithLabelValues(revision).Set(1)
		m.revision = revision
	}
	m.policies.Set(float64(count))
	m.policyLoaded.Set(float64(at.UnixMilli()) / 1000)
	m.policyBroken.Set(0)
	m.policyReloads.WithLabelValues("success").Inc()
}

// PoliciesBroken tells of an attempt to load the policies that failed.
func (m *Metrics) PoliciesBroken() {
	m.policyBroken.Set(1)
	m.policyReloads.WithLabelValues("failure").Inc()
}

// Decisions returns the decisions counted so far, by action and decision.
func (m *Metrics) Decisions() map[string]map[string]uint64 {
	counts := map[string]map[string]uint64{}
	families, err := m.counted.Gather()
	if err != nil {
		return counts
	}
	for _, f := range families {
		for _, series := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range series.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if counts[labels["action"]] == nil {
				counts[labels["action"]] = map[string]uint64{}
			}
			counts[labels["action"]][labels["decision"]] = uint64(series.GetCounter().GetValue())
		}
	}
	return counts
}

func either(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
