package criproxy

import (
	"sync"
	"time"
)

const (
	// sayAgain is how long something that a client can make happen at will is not logged
	// again: kubelet asks a runtime for what it lacks several times a minute, for ever.
	sayAgain = 10 * time.Minute
	// maxSaid bounds the memory for what was said: clients choose the names of methods.
	maxSaid = 64
)

// quiet says of each key whether it is worth a log line now.
type quiet struct {
	now  func() time.Time
	mu   sync.Mutex
	said map[string]time.Time
}

func newQuiet() *quiet { return &quiet{now: time.Now, said: map[string]time.Time{}} }

// due is true the first time that it is asked about key, and then once per sayAgain. Keys beyond
// maxSaid share one turn.
func (q *quiet) due(key string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	if _, known := q.said[key]; !known && len(q.said) >= maxSaid {
		for k, at := range q.said {
			if now.Sub(at) >= sayAgain {
				delete(q.said, k)
			}
		}
		if len(q.said) >= maxSaid {
			key = ""
		}
	}
	if at, known := q.said[key]; known && now.Sub(at) < sayAgain {
		return false
	}
	q.said[key] = now
	return true
}
