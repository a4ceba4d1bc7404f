package rules

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cosentry/cosentry/verify/limits"
)

// errBusy is wrapped by the error for an evaluation that was not begun.
var errBusy = errors.New("could not be evaluated now")

// turns gives evaluations their turn, and gives up those that take too long.
type turns struct {
	slots chan struct{} // holds one for each evaluation that runs
	large chan struct{} // and one for each of these with a large input
	limit time.Duration

	mu   sync.Mutex
	late map[question]struct{} // what was given up and still runs
}

func newTurns(width int, limit time.Duration) *turns {
	return &turns{
		slots: make(chan struct{}, width),
		large: make(chan struct{}, 1),
		limit: limit,
		late:  map[question]struct{}{},
	}
}

// question is a rule asked about an input, both by their hashes.
type question struct {
	rule, input [sha256.Size]byte
	large       bool
}

func ask(kind, text string, input []byte) question {
	return question{
		rule:  sha256.Sum256([]byte(kind + "\x00" + text)),
		input: sha256.Sum256(input),
		large: limits.CountElements(input) >= largeInput,
	}
}

// answer is what an evaluation came to.
type answer struct {
	warning string
	err     error
}

// take runs f, which must not panic, on a goroutine of its own, and gives its answer, or an error when the time is
// up. The goroutine keeps its turn until f ends.
func (t *turns) take(ctx context.Context, q question, f func() (string, error)) (string, error) {
	if err := t.mayBegin(q); err != nil {
		return "", err
	}
	if err := t.begin(ctx, q); err != nil {
		return "", err
	}
	timer := time.NewTimer(t.limit)
	defer timer.Stop()
	done := make(chan answer, 1)
	r := &run{turns: t, question: q}
	go func() {
		defer r.end()
		warning, err := f()
		done <- answer{warning, err}
	}()
	select {
	case a := <-done:
		return a.warning, a.err
	case <-timer.C:
		r.giveUp()
		return "", fmt.Errorf("it took longer than %s and was given up", t.limit)
	case <-ctx.Done():
		r.giveUp()
		return "", fmt.Errorf("it was given up: %w", ctx.Err())
	}
}

// mayBegin refuses what would come on top of evaluations that do not end.
func (t *turns) mayBegin(q question) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, same := t.late[q]; same {
		return fmt.Errorf("%w: the same question took too long before, and is still being worked on", errBusy)
	}
	if n := len(t.late); n >= cap(t.slots) {
		return fmt.Errorf("%w: %d evaluations took too long and still run", errBusy, n)
	}
	ofRule := 0
	for other := range t.late {
		if other.large && q.large {
			return fmt.Errorf("%w: one with a large input took too long and still runs", errBusy)
		}
		if other.rule == q.rule {
			ofRule++
		}
	}
	if ofRule >= max(1, cap(t.slots)/2) {
		return fmt.Errorf("%w: %d evaluations of this rule took too long and still run", errBusy, ofRule)
	}
	return nil
}

// begin waits for a turn, no longer than the limit.
func (t *turns) begin(ctx context.Context, q question) error {
	timer := time.NewTimer(t.limit)
	defer timer.Stop()
	if q.large {
		if err := t.wait(ctx, t.large, timer); err != nil {
			return err
		}
	}
	err := t.wait(ctx, t.slots, timer)
	if err != nil && q.large {
		<-t.large
	}
	return err
}

func (t *turns) wait(ctx context.Context, turn chan<- struct{}, timer *time.Timer) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case turn <- struct{}{}:
		return nil
	default: // of a free turn and a time that is up at once, select would take either
	}
	select {
	case turn <- struct{}{}:
		return nil
	case <-timer.C:
		return fmt.Errorf("%w: others were under way for %s", errBusy, t.limit)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run is one evaluation under way.
type run struct {
	*turns
	question
	ended bool // guarded by mu
}

// giveUp remembers that nobody waits for the evaluation any more.
func (r *run) giveUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.late[r.question] = struct{}{}
	}
}

// end gives the turn back. Two runs of one question may both be given up; that the first to end takes the second from the
// list lets one more be begun, which waits for a turn like any other.
func (r *run) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	delete(r.late, r.question)
	if r.question.large {
		<-r.turns.large
	}
	<-r.slots
}
