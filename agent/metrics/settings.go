package metrics

// Settings adds a gauge that says whether the settings in the file are in force. It may be called once.
func (m *Metrics) Settings(broken bool) {
	m.gauge("settings_broken", "1 if the settings file was faulty or missing when the agent started, and a copy of the settings with which it last started well is in force.", nil).Set(number(broken))
}
