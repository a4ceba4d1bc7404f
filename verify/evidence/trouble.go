package evidence

import (
	"sync"
	"time"
)

const (
	// troubleAgain is how often trouble that goes on is reported.
	troubleAgain = 10 * time.Minute
	// troubleSettles is how soon trouble is reported that comes again after it was over: what comes and goes with
	// each decision is reported no more often than this.
	troubleSettles = time.Minute
)

// trouble decides what is worth a line in the log about one thing that works or does not. Decisions are as many as
// pods' authors like; without it so would be the lines about a full disk.
type trouble struct {
	now func() time.Time

	mu       sync.Mutex
	reported time.Time // last
	told     bool      // of the trouble there is
}

// begins says whether to report that it does not work.
func (t *trouble) begins() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := troubleSettles
	if t.told {
		wait = troubleAgain
	}
	if now := t.now(); t.reported.IsZero() || now.Sub(t.reported) >= wait {
		t.reported, t.told = now, true
		return true
	}
	return false
}

// ends says whether to report that it works again: once, if it was reported that it did not.
func (t *trouble) ends() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	told := t.told
	t.told = false
	return told
}
