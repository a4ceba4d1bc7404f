package supervise

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

// hostPrefix and syncPrefix are how the names of supervise's own metrics and of sync's begin. The agent has none of those names.
const hostPrefix, syncPrefix = "cosentry_host_", "cosentry_sync_"

// shows is who showed metrics. sync is nil if it was not asked.
type shows struct {
	agent bool
	sync  *bool
}

// answer is what one of them showed.
type answer struct {
	text  []byte
	asked bool
	err   error
}

// ask asks the agent and sync for their metrics, at once: if both hang, what is known of the host is still shown in time.
func (from Sources) ask(ctx context.Context) (agent, sync answer) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		sync.text, sync.asked, sync.err = from.Sync.Metrics(ctx)
	}()
	agent.asked = true
	agent.text, agent.err = from.Agent.Metrics(ctx)
	<-asked
	return agent, sync
}

// render makes supervise's own metrics, and the agent's and sync's if they show them, in Prometheus' text format.
func render(ctx context.Context, seen host.Seen, from Sources, noted *reasons) ([]byte, error) {
	var text bytes.Buffer
	enc := expfmt.NewEncoder(&text, expfmt.NewFormat(expfmt.TypeTextPlain))
	pass := func(body []byte, is func(name string) bool) (bool, error) {
		// Read, and written again: half an answer would spoil the rest.
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
		if err != nil {
			return false, nil
		}
		for _, name := range slices.Sorted(maps.Keys(families)) {
			if !is(name) {
				continue
			}
			if err := enc.Encode(families[name]); err != nil {
				return false, fmt.Errorf("writing metrics: %w", err)
			}
		}
		return true, nil
	}
	agent, sync := from.ask(ctx)
	noted.note("the agent", agent.err)
	up := shows{agent: agent.err == nil}
	var err error
	if up.agent {
		up.agent, err = pass(agent.text, func(name string) bool {
			return !strings.HasPrefix(name, hostPrefix) && !strings.HasPrefix(name, syncPrefix)
		})
		if err != nil {
			return nil, err
		}
	}
	if sync.asked {
		noted.note("sync", sync.err)
		there := sync.err == nil
		if there {
			// What is common to all programs, such as their memory, is the agent's here.
			if there, err = pass(sync.text, func(name string) bool { return strings.HasPrefix(name, syncPrefix) }); err != nil {
				return nil, err
			}
		}
		up.sync = &there
	}
	own := prometheus.NewRegistry()
	if err := register(own, seen, up, from.Version); err != nil {
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
func register(r *prometheus.Registry, seen host.Seen, up shows, version string) error {
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
	info.WithLabelValues(seen.Agent.Version, version).Set(1)
	for _, c := range []prometheus.Collector{faults, repairs, info} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	if up.sync != nil {
		if err := gauge("sync_up", "1 if sync showed its metrics to supervise. Missing where the cluster has no say.", is(*up.sync)); err != nil {
			return err
		}
	}
	for _, err := range []error{
		gauge("installed", "1 if cosentry is installed on this host and nothing of it is wrong.", is(seen.Phase == host.Installed && seen.Whole() && !seen.Left)),
		gauge("removed", "1 if cosentry was taken off this host on purpose, and the host is left alone.", is(seen.Left)),
		gauge("agent_up", "1 if the agent of this host showed its metrics to supervise.", is(up.agent)),
		gauge("looked_timestamp_seconds", "When the host was last looked at, in seconds since the epoch; 0: not yet.", looked),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}
