package evidence

import (
	"log/slog"
	"sync"

	"github.com/cosentry/cosentry/verify/rescue"
)

// begin has work done by a goroutine of its own, which calls over with its error. It is the one place in this package
// where goroutines are started: a panic in one of them is that one's error and not the end of the agent.
func begin(log *slog.Logger, what string, work func() error, over func(error)) {
	go func() { over(rescue.Do(log, what, work)) }()
}

// together does several things at once and gives their errors in the same order. What was found beside one that
// panicked stays, as it does beside any other error.
func (g *gathering) together(what string, work ...func() error) []error {
	errs := make([]error, len(work))
	var all sync.WaitGroup
	all.Add(len(work))
	for i, do := range work {
		begin(g.fetcher.log, what, do, func(err error) {
			errs[i] = err
			all.Done()
		})
	}
	all.Wait()
	return errs
}
