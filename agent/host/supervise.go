package host

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Watcher is what a [Supervisor] watches.
type Watcher interface {
	Look(ctx context.Context) Health
	Repair(ctx context.Context) error
	Keep(ctx context.Context) error
}

// Supervisor looks at a host again and again, and has mended what stays wrong. It never takes cosentry off, and leaves a host alone
// from which somebody else did.
type Supervisor struct {
	Host Watcher
	Log  *slog.Logger
	// Every is how often it looks, Patience how many looks in a row must find a fault before it is mended: a kubelet or an agent that is
	// being started is none. Mending is put off longer each time that it fails, up to Longest.
	Every    time.Duration
	Patience int
	Longest  time.Duration
	// RepairTimeout bounds one mending.
	RepairTimeout time.Duration

	mu  sync.Mutex
	now Seen
}

// Seen is what a supervisor knows.
type Seen struct {
	Health
	// At is when it last looked.
	At time.Time
	// Repaired and Failed count mendings.
	Repaired, Failed int
	// Last is why the last mending failed; empty if it did not.
	Last string
	// Left says that cosentry was taken off, and that this host is left alone.
	Left bool
}

// Seen is what it knows now.
func (s *Supervisor) Seen() Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *Supervisor) know(f func(*Seen)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.now)
}

// Run looks until ctx ends.
func (s *Supervisor) Run(ctx context.Context) error {
	tick := time.NewTicker(s.Every)
	defer tick.Stop()
	var p pace
	for {
		s.once(ctx, &p)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// pace is how a supervisor takes its time.
type pace struct {
	inRow   int           // looks that found a fault
	delay   time.Duration // after the last failure
	after   time.Time     // nothing is mended before
	was     bool          // there was an installation
	said    string
	keeping string
}

// once looks once, and mends what is to be mended.
func (s *Supervisor) once(ctx context.Context, p *pace) {
	health := s.Host.Look(ctx)
	if ctx.Err() != nil {
		return
	}
	left := health.Phase == Uninstalling || p.was && health.Gone
	p.was = p.was || health.Phase == Installed
	s.know(func(now *Seen) { now.Health, now.At, now.Left = health, time.Now(), left })
	s.tell(p, health, left)
	if left || health.Whole() {
		p.inRow, p.delay = 0, 0
		s.keep(ctx, p, left)
		return
	}
	if p.inRow++; p.inRow < s.Patience || !health.Repairable() || time.Now().Before(p.after) {
		return
	}
	s.repair(ctx, p)
}

// tell logs what changed, and that only.
func (s *Supervisor) tell(p *pace, health Health, left bool) {
	text := ""
	for _, f := range health.Faults {
		text += f.What + ": " + f.Why + "; "
	}
	if left {
		text = "left"
	}
	if text == p.said {
		return
	}
	switch {
	case left:
		s.Log.Warn("cosentry was taken off this host, which is left alone until the next installation")
	case text == "":
		s.Log.Info("the host is as it was installed", "version", health.Agent.Version)
	default:
		for _, f := range health.Faults {
			text := "the host is not as it was installed"
			if f.What == FaultOffered {
				text = "the host keeps its own settings; to have others, " + HowToWeaken
			}
			s.Log.Warn(text, "what", f.What, "why", f.Why)
		}
	}
	p.said = text
}

func (s *Supervisor) keep(ctx context.Context, p *pace, left bool) {
	if left {
		return
	}
	text := ""
	if err := s.Host.Keep(ctx); err != nil {
		text = err.Error()
	}
	if text != "" && text != p.keeping {
		s.Log.Warn("what is kept of this host, such as the copy of its settings for a boot that loses /etc, is not up to date", "error", text)
	}
	p.keeping = text
}

func (s *Supervisor) repair(ctx context.Context, p *pace) {
	s.Log.Info("installing again")
	ctx, cancel := context.WithTimeout(ctx, s.RepairTimeout)
	defer cancel()
	err := s.Host.Repair(ctx)
	p.inRow = 0
	if err == nil {
		p.delay, p.after = 0, time.Time{}
		s.know(func(now *Seen) { now.Repaired++; now.Last = "" })
		s.Log.Info("the host was mended")
		return
	}
	p.delay = min(max(2*p.delay, s.Every), s.Longest)
	p.after = time.Now().Add(p.delay)
	s.know(func(now *Seen) { now.Failed++; now.Last = err.Error() })
	s.Log.Error("the host could not be mended; it is tried again", "after", p.delay, "error", err)
}
