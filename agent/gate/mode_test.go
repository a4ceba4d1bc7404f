package gate

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cosentry/cosentry/agent/audit"
)

func TestBrokenGlassLetsThroughWhatIsRecordedAsRefused(t *testing.T) {
	w := newWorld()
	w.broken = true
	if _, err := w.pull(t, other+":1"); err != nil {
		t.Fatal(err)
	}
	w.here(other+":1", "bad")
	if err := w.create(t, spec(id("bad"), other+":1"), spec(id("bad"), other+":1")); err != nil {
		t.Fatal(err)
	}
	if len(w.records) != 3 {
		t.Fatalf("%d records", len(w.records))
	}
	for i, action := range []string{audit.ActionPull, audit.ActionCreate, audit.ActionMount} {
		rec := w.records[i]
		if rec.Action != action || rec.Decision != audit.DecisionDeny || rec.Mode != audit.ModeBreakGlass || rec.Reason == "" {
			t.Errorf("%+v", rec)
		}
		if w.through[i] != action+" deny" {
			t.Errorf("counted %q", w.through)
		}
	}
	// As in observe mode, requests go on as they came.
	if got := w.pulled[0].GetImage().GetImage(); got != other+":1" {
		t.Errorf("pulled %q", got)
	}
}

func TestGlassThatIsWholeRefuses(t *testing.T) {
	w := newWorld()
	_, err := w.pull(t, other+":1")
	w.wantRefused(t, err)
	if rec := w.records[0]; rec.Mode != audit.ModeEnforce || len(w.through) > 0 {
		t.Errorf("%+v, %q", rec, w.through)
	}
}

// What is accepted is no matter of the glass, and is not counted as let through.
func TestBrokenGlassCountsOnlyWhatWouldBeRefused(t *testing.T) {
	w := newWorld()
	w.broken = true
	if _, err := w.pull(t, app+":1"); err != nil || len(w.through) > 0 || w.records[0].Decision != audit.DecisionAllow {
		t.Errorf("%v, %q, %+v", err, w.through, w.records)
	}
}

// A glass that is broken or mended while a call is judged must not have it half judged: refused by the verdict and yet
// not bound to it, or the other way round.
func TestModeHoldsForAWholeCall(t *testing.T) {
	w := newWorld()
	w.here(other+":1", "bad")
	g := w.gate(t)
	asked := 0
	g.o.BreakGlass = func() bool { asked++; return asked > 1 } // broken right after the call came
	_, err := g.CreateContainer(t.Context(), createRequest(spec(id("bad"), other+":1")), w.forwardCreate)
	w.wantRefused(t, err)
	if asked != 1 {
		t.Errorf("the glass was looked at %d times", asked)
	}
}

// The glass is for the worst of days: nothing that fails may keep a pod from starting.
func TestBrokenGlassWhenNothingWorks(t *testing.T) {
	w := newWorld()
	w.broken = true
	w.recordErr, w.resolveErr, w.lookupErr = errors.New("disk full"), errors.New("no answer"), errors.New("no answer")
	if _, err := w.pull(t, app+":1"); err != nil {
		t.Error(err)
	}
	if err := w.create(t, spec(id("good"), app+":1")); err != nil {
		t.Error(err)
	}
}

func TestRequestWithoutAModeIsJudged(t *testing.T) {
	w := newWorld()
	r := request{action: audit.ActionPull, image: app}
	if err := w.gate(t).settle(r, w.verdicts["none"], nil); err == nil {
		t.Error("it goes on")
	} else {
		wantMessage(t, err, codes.Unknown, "SignatureValidationFailed: ")
	}
}
