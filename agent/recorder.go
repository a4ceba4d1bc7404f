package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/cosentry/cosentry/agent/audit"
)

// reopenEvery is how often an audit log that cannot be opened is tried again.
const reopenEvery = 10 * time.Second

// recorder is an audit log that may not be there. A folder with the wrong mode, or a second agent that holds the
// log, must not keep the node from its runtime: meanwhile each record goes to the agent's own log, and
// decisions follow audit.required as they do on a full disk.
type recorder struct {
	options audit.Options
	now     func() time.Time

	mu    sync.Mutex
	log   *audit.Log
	err   error // why log is nil
	tried time.Time
}

func newRecorder(o audit.Options) *recorder {
	r := &recorder{options: o, now: time.Now}
	if _, err := r.open(); err != nil {
		o.Log.Error("the audit log cannot be opened; it is tried again", "dir", o.Dir, "required", o.Required, "error", err)
		o.Failed(err)
	}
	return r
}

// open returns the log, opening it if that is due.
func (r *recorder) open() (*audit.Log, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log != nil || (r.err != nil && r.now().Sub(r.tried) < reopenEvery) {
		return r.log, r.err
	}
	r.tried = r.now()
	r.log, r.err = audit.Open(r.options)
	if r.err != nil {
		r.err = fmt.Errorf("opening the audit log: %w", r.err)
	}
	return r.log, r.err
}

// Append writes rec, or says why the decision may not go on without it.
func (r *recorder) Append(rec audit.Record) error {
	log, err := r.open()
	if err == nil {
		return log.Append(rec)
	}
	r.options.Failed(err)
	r.options.Log.Warn("audit record", "record", rec, "error", err)
	if r.options.Required {
		return err
	}
	return nil
}

// Head returns the last record written.
func (r *recorder) Head() audit.Head {
	if log, err := r.open(); err == nil {
		return log.Head()
	}
	return audit.Head{}
}

// Close ends the log.
func (r *recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log == nil {
		return nil
	}
	return r.log.Close()
}
