package pause

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/agent/gate"
)

const image = "registry.example/pause:3.10"

// host is a runtime and a gate.
type host struct {
	names    []string
	err      error
	outcome  gate.SandboxImage
	recorded []gate.SandboxImage
	log      bytes.Buffer
}

func (h *host) watch(enforcing bool) *Watch {
	return New(Options{
		Names:     func(context.Context) ([]string, error) { return h.names, h.err },
		Judge:     func(_ context.Context, name string) gate.SandboxImage { s := h.outcome; s.Name = name; return s },
		Record:    func(s gate.SandboxImage) error { h.recorded = append(h.recorded, s); return errors.New("disk full") },
		Changed:   func() Inputs { return Inputs{} },
		Enforcing: enforcing,
		Log:       slog.New(slog.NewTextHandler(&h.log, nil)),
	})
}

func accepted(what string) gate.SandboxImage {
	return gate.SandboxImage{Digest: digest.FromString(what), Allowed: true}
}

func refused(what string) gate.SandboxImage {
	return gate.SandboxImage{Digest: digest.FromString(what), Reason: "not signed"}
}

// Each change is one record, so that the log tells from when to when the image was not what policy accepts; what stays as it is is
// not told every minute.
func TestEachChangeOfTheOutcomeIsOneRecord(t *testing.T) {
	h := &host{names: []string{image}}
	w := h.watch(true)
	for _, step := range []struct {
		name    string
		outcome gate.SandboxImage
		records int
	}{
		{"not on the node", gate.SandboxImage{Absent: true, Reason: "no such image"}, 0},
		{"signed", accepted("a"), 1},
		{"the same", accepted("a"), 1},
		{"replaced by one that is not signed", refused("b"), 2},
		{"the same", refused("b"), 2},
		{"replaced by one that is signed", accepted("c"), 3},
		{"and by another that is", accepted("d"), 4},
		{"the policies changed", refused("d"), 5},
	} {
		h.outcome = step.outcome
		w.look(t.Context())
		s := w.State()
		if len(h.recorded) != step.records || len(s.Images) != 1 || s.Images[0].Allowed != step.outcome.Allowed || s.Looked.IsZero() {
			t.Fatalf("%s: %d records, want %d; %+v", step.name, len(h.recorded), step.records, s)
		}
	}
}

func TestImageThatIsNotAcceptedIsLoudWhereTheNodeEnforces(t *testing.T) {
	for name, tc := range map[string]struct {
		enforcing bool
		want      string
	}{
		"enforce": {true, "level=ERROR msg=\"THE IMAGE OF SANDBOXES IS NOT ACCEPTED"},
		"observe": {false, "level=WARN msg=\"the image of sandboxes would not be accepted"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &host{names: []string{image}, outcome: refused("b")}
			w := h.watch(tc.enforcing)
			w.look(t.Context())
			w.look(t.Context())
			if n := strings.Count(h.log.String(), tc.want); n != 1 {
				t.Errorf("told %d times:\n%s", n, h.log.String())
			}
			w.told[image] = time.Now().Add(-sayAgain)
			w.look(t.Context())
			if n := strings.Count(h.log.String(), tc.want); n != 2 {
				t.Errorf("told %d times after a while:\n%s", n, h.log.String())
			}
		})
	}
}

// A runtime that says nothing must not look like one whose image is fine.
func TestImageThatIsNotKnownIsAFault(t *testing.T) {
	h := &host{names: []string{image}, outcome: accepted("a")}
	w := h.watch(true)
	w.look(t.Context())
	h.err = errors.New("no answer")
	if again := w.look(t.Context()); again != againAfter {
		t.Errorf("asked again after %v", again)
	}
	if s := w.State(); s.Fault != "no answer" || len(s.Images) != 1 {
		t.Errorf("%+v", s)
	}
	h.names, h.err = nil, nil
	w.look(t.Context())
	if s := w.State(); !strings.Contains(s.Fault, "sandbox.image") || len(s.Images) != 0 {
		t.Errorf("%+v", s)
	}
	h.names = []string{image}
	w.look(t.Context())
	if s := w.State(); s.Fault != "" || len(s.Images) != 1 {
		t.Errorf("%+v", s)
	}
}

func TestJudgedAgainWhenPoliciesOrImagesChange(t *testing.T) {
	var judged atomic.Int64
	var mu sync.Mutex
	var now Inputs
	w := New(Options{
		Names:   func(context.Context) ([]string, error) { return []string{image}, nil },
		Judge:   func(context.Context, string) gate.SandboxImage { judged.Add(1); return accepted("a") },
		Record:  func(gate.SandboxImage) error { return nil },
		Changed: func() Inputs { mu.Lock(); defer mu.Unlock(); return now },
		Log:     slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { w.Run(ctx); close(ended) }()
	until := func(n int64) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); judged.Load() < n; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("judged %d times, want %d", judged.Load(), n)
			}
		}
	}
	until(1)
	for i, next := range []Inputs{{Revision: "b"}, {Revision: "b", Images: 1}} {
		mu.Lock()
		now = next
		mu.Unlock()
		until(int64(i + 2))
	}
	cancel()
	<-ended
}

// What is asked of a runtime that is going away must not be taken for an answer.
func TestNothingIsToldOfAnEnd(t *testing.T) {
	h := &host{names: []string{image}, outcome: refused("b")}
	w := h.watch(true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.look(ctx)
	if len(h.recorded) > 0 || h.log.Len() > 0 || !w.State().Looked.IsZero() {
		t.Errorf("%d records, %+v\n%s", len(h.recorded), w.State(), h.log.String())
	}
}
