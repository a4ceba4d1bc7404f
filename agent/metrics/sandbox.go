package metrics

import "github.com/prometheus/client_golang/prometheus"

// Sandbox is an image that the runtime makes sandboxes of, and whether policy accepts it.
type Sandbox struct {
	Image   string
	Allowed bool
}

// WatchSandbox adds a gauge for each image of sandboxes that was judged. It may be called once. The name is a label: it is
// the node's owner who writes it into the runtime's settings.
func (m *Metrics) WatchSandbox(judged func() []Sandbox) {
	m.registry.MustRegister(&sandboxes{judged, prometheus.NewDesc("cosentry_sandbox_image_allowed",
		"1 if the image that the runtime makes pods' sandboxes of is accepted by the policies, 0 if it is not, by its name. One that is not on the node yet is left out.", []string{"image"}, nil)})
}

type sandboxes struct {
	judged  func() []Sandbox
	allowed *prometheus.Desc
}

func (s *sandboxes) Describe(out chan<- *prometheus.Desc) { out <- s.allowed }

func (s *sandboxes) Collect(out chan<- prometheus.Metric) {
	seen := map[string]bool{}
	for _, image := range s.judged() {
		if !seen[image.Image] {
			seen[image.Image] = true
			out <- prometheus.MustNewConstMetric(s.allowed, prometheus.GaugeValue, number(image.Allowed), image.Image)
		}
	}
}

// WatchBreakGlass adds a gauge that says whether everything is let through because somebody broke the glass, and a counter of what
// was, with a series for each of the actions from the start. It may be called once; what it returns counts.
func (m *Metrics) WatchBreakGlass(actions []string, open func() bool) (letThrough func(action, decision string)) {
	m.asked("break_glass_active", "1 while a break-glass has everything let through.", func() float64 { return number(open()) })
	c := m.counters("break_glass_let_through_total", "Calls that would have been refused and went on because of a break-glass, by action (pull, create, mount, sandbox).", nil, "action")
	for _, action := range actions {
		c.WithLabelValues(action)
	}
	return func(action, _ string) { c.WithLabelValues(action).Inc() }
}
