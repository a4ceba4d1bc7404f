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
	// being started is none. Mending is put off longer each time that it fails, or that the same comes back within an hour, up to Longest:
	// where another program writes the same files, kubelet must not be restarted all the time.
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
	p := pace{clock: time.Now}
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
	mended  map[string]mended
	clock   func() time.Time
	said    string
	keeping string
}

// mended is when a fault was last mended, and how long it is put off if it comes back.
type mended struct {
	at    time.Time
	delay time.Duration
}

// soon is within what time a fault is one that came back.
const soon = time.Hour

// put says until when it is put off to mend these faults.
func (p *pace) put(faults []Fault) (until time.Time) {
	for _, f := range faults {
		if m, ok := p.mended[f.What]; ok && m.at.Add(m.delay).After(until) {
			until = m.at.Add(m.delay)
		}
	}
	return until
}

// note remembers that these faults were mended.
func (p *pace) note(faults []Fault, first, longest time.Duration) {
	now := p.clock()
	if p.mended == nil {
		p.mended = map[string]mended{}
	}
	for _, f := range faults {
		m, ok := p.mended[f.What]
		if !ok || now.Sub(m.at) > soon+m.delay {
			p.mended[f.What] = mended{at: now}
			continue
		}
		p.mended[f.What] = mended{at: now, delay: min(max(2*m.delay, first), longest)}
	}
}

// once looks once, and mends what is to be mended.
func (s *Supervisor) once(ctx context.Context, p *pace) {
	health := s.Host.Look(ctx)
	if ctx.Err() != nil {
		return
	}
	s.know(func(now *Seen) { now.Health, now.At = health, time.Now() })
	s.tell(p, health)
	if health.Left || health.Whole() {
		p.inRow, p.delay = 0, 0
		s.keep(ctx, p, health.Left)
		return
	}
	now := p.clock()
	if p.inRow++; p.inRow < s.Patience || !health.Repairable() || now.Before(p.after) || now.Before(p.put(health.Faults)) {
		return
	}
	s.repair(ctx, p, health.Faults)
}

// tell logs what changed, and that only.
func (s *Supervisor) tell(p *pace, health Health) {
	text := ""
	for _, f := range health.Faults {
		text += f.What + ": " + f.Why + "; "
	}
	if health.Left {
		text = "left"
	}
	if text == p.said {
		return
	}
	switch {
	case health.Left:
		s.Log.Warn("cosentry was taken off this host, which is left alone until the next installation", "where a person did it", OffFile)
	case text == "":
		s.Log.Info("the host is as it was installed", "version", health.Agent.Version)
	default:
		for _, f := range health.Faults {
			text := "the host is not as it was installed"
			switch f.What {
			case FaultOffered:
				text = "the host keeps its own settings; to have others, " + HowToWeaken
			case FaultPolicies:
				text = "the host keeps its own policies; to have others, " + HowToReplacePolicies
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

func (s *Supervisor) repair(ctx context.Context, p *pace, faults []Fault) {
	s.Log.Info("installing again")
	ctx, cancel := context.WithTimeout(ctx, s.RepairTimeout)
	defer cancel()
	err := s.Host.Repair(ctx)
	p.inRow = 0
	if err == nil {
		p.delay, p.after = 0, time.Time{}
		p.note(faults, 3*s.Every, s.Longest)
		s.know(func(now *Seen) { now.Repaired++ })
		s.Log.Info("the host was mended")
		return
	}
	p.delay = min(max(2*p.delay, s.Every), s.Longest)
	p.after = p.clock().Add(p.delay)
	s.know(func(now *Seen) { now.Failed++ })
	s.Log.Error("the host could not be mended; it is tried again", "after", p.delay, "error", err)
}
