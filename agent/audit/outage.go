package audit

import (
	"slices"
	"time"
)

// repeatAfter is how often an outage that lasts is logged again. A line for each
// record that waits is bad enough for whoever looks for its reason.
const repeatAfter = 10 * time.Minute

// outage is a time in which records cannot be written. The zero value is none.
type outage struct {
	err     error // why, at the last try
	hung    bool  // the disk has not answered
	since   time.Time
	said    time.Time
	reasons []string // that were reported
	records int      // that were due meanwhile
}

// fail notes that so many records were not written because of err. It says whether
// that is a new fault, and if not, whether to log it once more.
func (o *outage) fail(err error, records int) (fresh, again bool) {
	now := time.Now()
	if o.err == nil {
		o.since = now
	}
	o.err = err
	o.records += records
	if reason := err.Error(); len(o.reasons) < 8 && !slices.Contains(o.reasons, reason) {
		o.reasons = append(o.reasons, reason)
		fresh = true
	}
	again = !fresh && now.Sub(o.said) >= repeatAfter
	if fresh || again {
		o.said = now
	}
	return fresh, again
}

// news is what is to be told once no lock is held.
type news struct {
	err          error
	fresh, again bool
	lost         int
	waiting      []chan error
}

// tell reports first and answers then: when Append returns, its fault has been counted.
func (l *Log) tell(n news) {
	if n.fresh {
		l.opts.Log.Error("audit records cannot be written", "dir", l.opts.Dir, "required", l.opts.Required, "error", n.err)
		l.opts.Fault(n.err)
	}
	if n.again {
		l.mu.Lock()
		o := l.outage
		l.mu.Unlock()
		l.opts.Log.Error("audit records still cannot be written", "dir", l.opts.Dir, "required", l.opts.Required,
			"since", o.since, "records", o.records, "error", n.err)
	}
	if n.lost > 0 {
		l.opts.Lost(n.lost)
	}
	for _, done := range n.waiting {
		done <- n.err
	}
}

// event reports what is wrong with the files, though it may not keep records from being written.
func (l *Log) event(err error) {
	l.opts.Log.Error("audit log", "error", err)
	l.opts.Fault(err)
}
