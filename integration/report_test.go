package integration

import (
	"encoding/json"
	"testing"

	"github.com/cosentry/cosentry/integration/harness"
)

// sum is what these tests read of `cosentry report -o json`.
type sum struct {
	Decisions map[string]int `json:"decisions"`
	Rows      []struct {
		Decision, Image, Reason string
		Count, Observed         int
		Pods                    []string
	} `json:"rows"`
}

// report runs `cosentry report` and expects its exit code.
func (w *world) report(code int, args ...string) (s sum) {
	w.t.Helper()
	output, got, err := w.agent.Command(w.t.Context(), append([]string{"report", "-o", "json", "--config", w.agent.Config()}, args...)...)
	must(w.t, err)
	if got != code {
		w.t.Fatalf("cosentry report %v: exit code %d, want %d\n%s", args, got, code, output)
	}
	if err := json.Unmarshal([]byte(output), &s); err != nil {
		w.t.Fatalf("cosentry report %v: %v\n%s", args, err, output)
	}
	return s
}

// running starts a container that stays, through the given kubelet.
func (w *world) running(k *harness.Kubelet, pod *harness.Pod, c harness.Container) {
	w.t.Helper()
	c.Command = []string{"/bin/sleep", "600"}
	ctx := w.t.Context()
	ref, err := k.Pull(ctx, pod, c.Image, nil)
	must(w.t, err)
	volumes := map[string]string{}
	for path, image := range c.Volumes {
		id, err := k.Pull(ctx, pod, image, nil)
		must(w.t, err)
		volumes[path] = id
	}
	id, err := k.Create(ctx, pod, c, ref, volumes)
	must(w.t, err)
	must(w.t, k.Start(ctx, id))
}

// In observe mode the report says what enforce mode would refuse, before it does.
func TestReportOfObserveMode(t *testing.T) {
	w := newWorld(t, func(_ *world, s *harness.Settings) { s.Mode = "observe" })
	w.pushSigned("good:1", "good")
	w.push("evil:1", "evil")
	w.wantRun(t, w.image("good:1"), "good")
	if s := w.report(0); len(s.Rows) > 0 || s.Decisions["allow"] != 2 {
		t.Errorf("after a signed image: %+v", s)
	}
	w.wantRun(t, w.image("evil:1"), "evil")
	s := w.report(1)
	if s.Decisions["deny"] != 2 || s.Decisions["allow"] != 2 {
		t.Errorf("decisions: %v", s.Decisions)
	}
	for _, row := range s.Rows {
		if row.Image != w.image("evil:1") || row.Decision != "deny" || row.Observed != row.Count || len(row.Pods) != 1 {
			t.Errorf("row: %+v", row)
		}
	}
}

// What was started past cosentry is not stopped, and it is told.
func TestReportOfWhatRuns(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("good:1", "good")
	w.push("evil:1", "evil")
	w.push("data:1", "data")
	w.running(w.kubelet, w.pod(), harness.Container{Name: "good", Image: w.image("good:1")})
	if s := w.report(0, "--running"); len(s.Rows) > 0 || s.Decisions["allow"] != 1 {
		t.Errorf("with a signed container: %+v", s)
	}
	records, err := w.agent.Records()
	must(t, err)
	w.running(w.Direct, w.pod(), harness.Container{Name: "evil", Image: w.image("evil:1")})
	w.running(w.Direct, w.pod(), harness.Container{Name: "volume", Image: w.image("good:1"), Volumes: map[string]string{"/data": w.image("data:1")}})
	s := w.report(1, "--running")
	refused := map[string]bool{}
	for _, row := range s.Rows {
		refused[row.Decision+" "+row.Image] = true
	}
	for _, image := range []string{"evil:1", "data:1"} {
		if !refused["deny "+w.image(image)] {
			t.Errorf("%s runs unsigned and is not told: %+v", image, s.Rows)
		}
	}
	if s.Decisions["allow"] != 2 || len(s.Rows) != 2 {
		t.Errorf("want two images allowed and two refused: %+v", s)
	}
	if again, err := w.agent.Records(); err != nil || len(again) != len(records) {
		t.Errorf("the report wrote %d records to the log (%v)", len(again)-len(records), err)
	}
}
