// Package metrics holds the agent's Prometheus metrics. Names and units follow
// https://prometheus.io/docs/practices/naming/. No label takes a value that a pod's author or a
// registry can choose, so that nobody can grow the number of series.
package metrics

import (
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
)

// Metrics are one agent's.
type Metrics struct {
	registry *prometheus.Registry

	decisions      *prometheus.CounterVec
	verification   *prometheus.HistogramVec
	cacheLookups   *prometheus.CounterVec
	registryReqs   *prometheus.CounterVec
	registryTime   *prometheus.HistogramVec
	forwarded      *prometheus.CounterVec
	policyInfo     *prometheus.GaugeVec
	policies       prometheus.Gauge
	policyReloads  *prometheus.CounterVec
	policyLoaded   prometheus.Gauge
	policyBroken   prometheus.Gauge
	auditFailures  prometheus.Counter
	auditFailed    atomic.Uint64
	runtimeUp      prometheus.GaugeFunc
	currentRuntime func() bool
}

// New returns the metrics of one agent. version names the build; up says whether the runtime
// can be reached.
func New(version, mode string, up func() bool) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), currentRuntime: up}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "cosentry", Name: name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "cosentry", Name: name, Help: help})
		m.registry.MustRegister(g)
		return g
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "cosentry", Name: name, Help: help, Buckets: buckets}, labels)
		m.registry.MustRegister(h)
		return h
	}
	network := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

	m.decisions = counter("decisions_total", "Decisions, by action (pull, create, mount) and decision (allow, warn, deny, error).", "action", "decision")
	m.verification = histogram("verification_duration_seconds", "Time to reach a verdict that was not in the cache, by result (verdict, error).", network, "result")
	m.cacheLookups = counter("verdict_cache_lookups_total", "Look-ups in the verdict cache, by result (hit, miss).", "result")
	m.registryReqs = counter("registry_requests_total", "Requests to registries for evidence, by operation and HTTP status code (0: no answer).", "operation", "code")
	m.registryTime = histogram("registry_request_duration_seconds", "Time of requests to registries for evidence, by operation.", network, "operation")
	m.forwarded = counter("cri_requests_total", "CRI calls answered, by method and gRPC code.", "method", "code")
	m.policyInfo = prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "cosentry", Name: "policy_info", Help: "1, labelled with the revision of the policies in force."}, []string{"revision"})
	m.registry.MustRegister(m.policyInfo)
	m.policies = gauge("policies", "Number of policies in force.")
	m.policyReloads = counter("policy_reloads_total", "Attempts to load the policies, by result (success, failure).", "result")
	m.policyLoaded = gauge("policy_last_success_timestamp_seconds", "When the policies in force were loaded, in seconds since the epoch.")
	m.policyBroken = gauge("policy_broken", "1 if the policies on disk could not be loaded and an older set, or none, is in force.")
	m.auditFailures = prometheus.NewCounter(prometheus.CounterOpts{Namespace: "cosentry", Name: "audit_failures_total", Help: "Audit records that could not be written when they were due."})
	m.runtimeUp = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "cosentry", Name: "runtime_up", Help: "1 if the runtime's socket can be reached."}, func() float64 {
		if m.currentRuntime() {
			return 1
		}
		return 0
	})
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "cosentry", Name: "build_info", Help: "1, labelled with the version and mode of this agent.", ConstLabels: prometheus.Labels{"version": version, "mode": mode}})
	info.Set(1)
	m.registry.MustRegister(m.auditFailures, m.runtimeUp, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// Decided counts a decision.
func (m *Metrics) Decided(action, decision string) {
	m.decisions.WithLabelValues(action, decision).Inc()
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

// Forwarded counts a CRI call.
func (m *Metrics) Forwarded(method string, code codes.Code, _ time.Duration) {
	m.forwarded.WithLabelValues(method, code.String()).Inc()
}

// AuditFailed counts a record that could not be written when it was due.
func (m *Metrics) AuditFailed(error) {
	m.auditFailures.Inc()
	m.auditFailed.Add(1)
}

// AuditFailures returns how many records could not be written when they were due.
func (m *Metrics) AuditFailures() uint64 { return m.auditFailed.Load() }

// PoliciesLoaded tells of a set put in force.
func (m *Metrics) PoliciesLoaded(revision string, count int, at time.Time) {
	m.policyInfo.Reset()
	m.policyInfo.WithLabelValues(revision).Set(1)
	m.policies.Set(float64(count))
	m.policyLoaded.Set(float64(at.UnixMilli()) / 1000)
	m.policyBroken.Set(0)
	m.policyReloads.WithLabelValues("success").Inc()
}

// PoliciesBroken tells of a set that could not be loaded.
func (m *Metrics) PoliciesBroken() {
	m.policyBroken.Set(1)
	m.policyReloads.WithLabelValues("failure").Inc()
}

// Decisions returns the decisions counted so far, by action and decision.
func (m *Metrics) Decisions() map[string]map[string]uint64 {
	counts := map[string]map[string]uint64{}
	families, err := m.registry.Gather()
	if err != nil {
		return counts
	}
	for _, f := range families {
		if f.GetName() != "cosentry_decisions_total" {
			continue
		}
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
