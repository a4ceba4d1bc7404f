package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/cosentry/cosentry/agent/host"
)

// hostPrefix is how the names of supervise's own metrics begin. The agent has none of that name.
const hostPrefix = "cosentry_host_"

// superviseMetrics are supervise's own metrics, and the agent's if it shows them, in Prometheus' text format.
func superviseMetrics(ctx context.Context, seen host.Seen, agent agentAt) ([]byte, error) {
	var text bytes.Buffer
	enc := expfmt.NewEncoder(&text, expfmt.NewFormat(expfmt.TypeTextPlain))
	up := false
	if body, err := agent.get(ctx, "/metrics"); err == nil {
		// Read, and written again: half an answer would spoil the rest.
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
		up = err == nil
		for _, name := range slices.Sorted(maps.Keys(families)) {
			if !up || strings.HasPrefix(name, hostPrefix) {
				continue
			}
			if err := enc.Encode(families[name]); err != nil {
				return nil, fmt.Errorf("writing the agent's metrics: %w", err)
			}
		}
	}
	own := prometheus.NewRegistry()
	if err := register(own, seen, up); err != nil {
		return nil, err
	}
	families, err := own.Gather()
	if err != nil {
		return nil, err
	}
	for _, one := range families {
		if err := enc.Encode(one); err != nil {
			return nil, fmt.Errorf("writing metrics: %w", err)
		}
	}
	return text.Bytes(), nil
}

// register registers supervise's own metrics as they are now.
func register(r *prometheus.Registry, seen host.Seen, up bool) error {
	gauge := func(name, help string, value float64) error {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: hostPrefix + name, Help: help})
		g.Set(value)
		return r.Register(g)
	}
	is := func(yes bool) float64 {
		if yes {
			return 1
		}
		return 0
	}
	looked := 0.0
	if !seen.At.IsZero() {
		looked = float64(seen.At.Unix())
	}
	faults := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: hostPrefix + "fault", Help: "1 for each thing of the installation that is not as it should be (" + strings.Join(host.AllFaults(), ", ") + ").",
	}, []string{"what"})
	for _, what := range host.AllFaults() {
		faults.WithLabelValues(what).Set(0)
	}
	for _, f := range seen.Faults {
		faults.WithLabelValues(f.What).Set(1)
	}
	repairs := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: hostPrefix + "repairs_total", Help: "Times that the host was installed again because something stayed wrong, by result (success, failure).",
	}, []string{"result"})
	repairs.WithLabelValues("success").Add(float64(seen.Repaired))
	repairs.WithLabelValues("failure").Add(float64(seen.Failed))
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: hostPrefix + "build_info", Help: "1, labelled with the version that proved itself last on this host, and that of the command that watches it.",
	}, []string{"installed", "supervise"})
	info.WithLabelValues(seen.Agent.Version, buildVersion()).Set(1)
	for _, c := range []prometheus.Collector{faults, repairs, info} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	for _, err := range []error{
		gauge("installed", "1 if cosentry is installed on this host and nothing of it is wrong.", is(seen.Phase == host.Installed && seen.Whole() && !seen.Left)),
		gauge("removed", "1 if cosentry was taken off this host on purpose, and the host is left alone.", is(seen.Left)),
		gauge("agent_up", "1 if the agent of this host showed its metrics.", is(up)),
		gauge("looked_timestamp_seconds", "When the host was last looked at, in seconds since the epoch; 0: not yet.", looked),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}
