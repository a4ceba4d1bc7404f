package breakglass

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// lookEvery is how often the file is looked at.
const lookEvery = time.Second

// Options configure a Watch. All are required.
type Options struct {
	Path string
	// Now is the clock: [Now]. While it fails the glass is whole.
	Now func() (Moment, error)
	// Record is told of each beginning and each end, in words for the audit log.
	Record func(words string)
	Log    *slog.Logger
}

// Watch knows whether the glass of a node is broken.
type Watch struct {
	o    Options
	open atomic.Pointer[Glass]

	mu   sync.Mutex
	last Glass  // what the file said last that was not at fault
	said string // the fault that was told last
}

// NewWatch returns a Watch that has looked once.
func NewWatch(o Options) *Watch {
	w := &Watch{o: o}
	w.look(true)
	return w
}

// Run looks until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.look(false)
		}
	}
}

// Open reports whether everything is let through now.
func (w *Watch) Open() bool { return w.now() != nil }

// now is the glass that is open now, or nil. What ends on time does so without waiting for the next look.
func (w *Watch) now() *Glass {
	g := w.open.Load()
	if g == nil {
		return nil
	}
	if now, err := w.o.Now(); err != nil || !g.Open(now) {
		return nil
	}
	return g
}

// State is the glass that is open now, if there is one, and what is wrong with the file, if something is.
func (w *Watch) State() (g *Glass, fault string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if open := w.now(); open != nil {
		glass := *open
		g = &glass
	}
	return g, w.said
}

// look brings the Watch up to date. first: this process has not looked before.
func (w *Watch) look(first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var g Glass
	now, err := w.o.Now()
	if err == nil {
		g, err = Read(w.o.Path, now)
	}
	w.fault(err)
	was := w.open.Load()
	switch {
	case was == nil && err == nil && g.Open(now) && !same(g, w.last):
		w.begin(g, first)
	case was == nil && first && err == nil:
		w.last = g
		w.tell(false, "the glass that "+told(g)+" was over before this start")
	case was == nil:
	case err != nil && errors.Is(err, fs.ErrNotExist):
		w.end("its file was removed")
	case err != nil:
		w.end(err.Error())
	case !same(g, *was):
		w.end("another took its place")
		if g.Open(now) {
			w.begin(g, false)
		}
	case g.Ended != nil:
		w.end("by " + g.Ended.By.String())
	case !g.Open(now):
		w.end("its time is over")
	}
}

// same reports whether two are one glass, ended or not.
func same(a, b Glass) bool {
	return a.Begun.Equal(b.Begun) && a.Until.Equal(b.Until) && a.Boot == b.Boot && a.BegunUp == b.BegunUp && a.UntilUp == b.UntilUp &&
		a.Reason == b.Reason && a.By == b.By
}

func (w *Watch) begin(g Glass, first bool) {
	w.last = g
	w.open.Store(&g)
	words := "the glass is broken: everything is let through. It " + told(g)
	if first {
		words = "the glass is still broken at this start: everything is let through. It " + told(g)
	}
	w.tell(true, words)
}

func (w *Watch) end(why string) {
	was := w.open.Swap(nil)
	w.tell(true, "the glass is whole again, "+why+". It "+told(*was))
}

func told(g Glass) string {
	return fmt.Sprintf("was broken at %s until %s by %s, because: %s", g.Begun.UTC().Format(time.RFC3339), g.Until.UTC().Format(time.RFC3339), g.By, g.Reason)
}

func (w *Watch) tell(loud bool, words string) {
	level := slog.LevelInfo
	if loud {
		level = slog.LevelWarn
	}
	w.o.Log.Log(context.Background(), level, "break-glass", "what", words)
	w.o.Record(words)
}

// fault tells once what is wrong with the file.
func (w *Watch) fault(err error) {
	said := ""
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		said = err.Error()
	}
	if said != "" && said != w.said {
		w.o.Log.Error("a break-glass file changes nothing", "error", said)
	}
	w.said = said
}
