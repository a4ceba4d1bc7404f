package host

import (
	"context"
	"time"
)

// Stepwise looks once for each call, as [Supervisor.Run] does for each tick. clock tells it the time; nil is the real one.
func (s *Supervisor) Stepwise(ctx context.Context, clock func() time.Time) func() Seen {
	if clock == nil {
		clock = time.Now
	}
	p := pace{clock: clock}
	return func() Seen {
		s.once(ctx, &p)
		return s.Seen()
	}
}
