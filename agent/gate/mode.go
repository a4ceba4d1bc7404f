package gate

import (
	"time"

	"github.com/cosentry/cosentry/agent/audit"
)

// mode is the one that holds now.
func (g *Gate) mode() string {
	switch {
	case g.o.Observe:
		return audit.ModeObserve
	case g.o.BreakGlass():
		return audit.ModeBreakGlass
	}
	return audit.ModeEnforce
}

// lenient reports whether r goes on whatever is decided. A request without a mode is judged.
func (r request) lenient() bool { return r.mode == audit.ModeObserve || r.mode == audit.ModeBreakGlass }

// breakGlassPatience is how long a decision may take that changes nothing any more. The glass is broken where something is in
// the way, often a registry that does not answer, and each image would wait for that to the end.
const breakGlassPatience = 3 * time.Second

// patience is how long the decision on r may take, of limit.
func (r request) patience(limit time.Duration) time.Duration {
	if r.mode == audit.ModeBreakGlass {
		return min(limit, breakGlassPatience)
	}
	return limit
}
