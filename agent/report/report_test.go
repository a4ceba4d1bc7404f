package report_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/report"
)

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func record(minute int, decision, image, reason, pod string) audit.Record {
	return audit.Record{
		Time: noon.Add(time.Duration(minute) * time.Minute), Action: audit.ActionCreate, Decision: decision, Image: image,
		Reason: reason, Pod: audit.Pod{Namespace: "shop", Name: pod}, Mode: "observe",
	}
}

func TestOneRowForEachImageAndReason(t *testing.T) {
	var r report.Report
	for _, rec := range []audit.Record{
		record(0, audit.DecisionAllow, "r.example/good", "", "a"),
		record(1, audit.DecisionError, "r.example/away", "registry unavailable", "b"),
		record(2, audit.DecisionDeny, "r.example/bad", "no signature", "c"),
		record(3, audit.DecisionDeny, "r.example/bad", "no signature", "d"),
		record(4, audit.DecisionDeny, "r.example/bad", "signed by another key", "d"),
		record(5, audit.DecisionDeny, "r.example/bad", "no signature", "c"),
		record(6, audit.DecisionDeny, "r.example/bad", "no signature", "e"),
		record(7, audit.DecisionDeny, "r.example/bad", "no signature", "f"),
		{Action: audit.ActionAudit, Decision: audit.DecisionError, Reason: "a notice of the log itself", Time: noon},
	} {
		r.Add(rec)
	}
	r.Sort()
	want := []report.Row{
		{Decision: "deny", Image: "r.example/bad", Reason: "no signature", Count: 5, Observed: 5, First: noon.Add(2 * time.Minute), Last: noon.Add(7 * time.Minute),
			Pods: []string{"shop/c", "shop/d", "shop/e"}, MorePods: true},
		{Decision: "deny", Image: "r.example/bad", Reason: "signed by another key", Count: 1, Observed: 1, First: noon.Add(4 * time.Minute), Last: noon.Add(4 * time.Minute), Pods: []string{"shop/d"}},
		{Decision: "error", Image: "r.example/away", Reason: "registry unavailable", Count: 1, Observed: 1, First: noon.Add(time.Minute), Last: noon.Add(time.Minute), Pods: []string{"shop/b"}},
	}
	if diff := cmp.Diff(want, r.Rows); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int{"allow": 1, "deny": 6, "error": 1}, r.Decisions); diff != "" {
		t.Errorf("decisions (-want +got):\n%s", diff)
	}
	if r.Refusals() != 7 || !r.Since.Equal(noon) || !r.Until.Equal(noon.Add(7*time.Minute)) {
		t.Errorf("%d refusals from %s to %s", r.Refusals(), r.Since, r.Until)
	}
}

// A warning's record has no reason of its own: the policy that failed has it.
func TestWarningTellsWhy(t *testing.T) {
	var r report.Report
	rec := record(0, audit.DecisionWarn, "r.example/app", "", "a")
	rec.Policies = []audit.PolicyResult{{Policy: "good", Result: "pass"}, {Policy: "strict", Result: "fail", Reason: "no signatures found"}}
	r.Add(rec)
	if want := "policy strict: no signatures found"; r.Rows[0].Reason != want {
		t.Errorf("reason %q, want %q", r.Rows[0].Reason, want)
	}
}

// A pod's author chooses image names: they must not grow the report without end, nor vanish from its count.
func TestRowsAreBounded(t *testing.T) {
	var r report.Report
	for i := range report.MaxRows + 5 {
		r.Add(record(i, audit.DecisionDeny, fmt.Sprintf("r.example/x%d", i), "no signature", "a"))
	}
	if len(r.Rows) != report.MaxRows || r.Omitted != 5 || r.Refusals() != report.MaxRows+5 {
		t.Errorf("%d rows, %d omitted, %d refusals", len(r.Rows), r.Omitted, r.Refusals())
	}
}

// A canary is refused because cosentry works. Were it counted, no node to which one was sent, as each installation does, would ever
// have a report that says that nothing is refused.
func TestCanariesAreCountedForThemselves(t *testing.T) {
	var r report.Report
	digest := "sha256:" + strings.Repeat("0", 64)
	sent := record(3, audit.DecisionDeny, "127.0.0.1:40123/cosentry-canary/"+strings.Repeat("a", 32)+"@"+digest, "no policy matches", "")
	sent.Action, sent.Pod, sent.Digest = audit.ActionPull, audit.Pod{}, digest
	later := sent
	later.Time, later.Decision = noon.Add(9*time.Minute), audit.DecisionAllow
	r.Add(record(4, audit.DecisionAllow, "r.example/good", "", "a"))
	r.Add(sent)
	r.Add(later)
	r.Sort()
	if r.Refusals() != 0 || len(r.Rows) != 0 || !r.Until.Equal(noon.Add(4*time.Minute)) || !cmp.Equal(r.Decisions, map[string]int{"allow": 1}) {
		t.Errorf("a canary is in the sum: %+v", r)
	}
	if want := (report.Canaries{Count: 2, Last: later.Time, Decisions: map[string]int{"deny": 1, "allow": 1}}); r.Canaries == nil || !cmp.Equal(*r.Canaries, want) {
		t.Errorf("canaries: %+v, want %+v", r.Canaries, want)
	}
	// A pod whose image is named like one is a pod.
	web := sent
	web.Pod = audit.Pod{Namespace: "shop", Name: "web", UID: "u"}
	r = report.Report{}
	r.Add(web)
	if r.Refusals() != 1 || len(r.Rows) != 1 || r.Canaries != nil {
		t.Errorf("a pod's image vanished among the canaries: %+v", r)
	}
}
