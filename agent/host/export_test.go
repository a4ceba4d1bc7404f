package host

import "context"

// Stepwise looks once for each call, as [Supervisor.Run] does for each tick.
func (s *Supervisor) Stepwise(ctx context.Context) func() Seen {
	var p pace
	return func() Seen {
		s.once(ctx, &p)
		return s.Seen()
	}
}
