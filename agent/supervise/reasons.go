package supervise

import (
	"log/slog"
	"sync"
)

// reasons logs why somebody cannot be asked, each reason once.
type reasons struct {
	log *slog.Logger

	mu   sync.Mutex
	said map[string]string
}

func (r *reasons) note(who string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	why := ""
	if err != nil {
		why = err.Error()
	}
	if r.said[who] == why {
		return
	}
	if r.said == nil {
		r.said = map[string]string{}
	}
	r.said[who] = why
	if err != nil {
		r.log.Warn("metrics cannot be had", "of", who, "error", err)
		return
	}
	r.log.Info("metrics can be had again", "of", who)
}
