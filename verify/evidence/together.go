package evidence

import (
	"sync"

	"github.com/cosentry/cosentry/verify/rescue"
)

// together does several things at once and gives their errors in the same order. It is the one place in this package
// where goroutines are started: a panic in one of them is that one's error and not the end of the agent. What was
// found beside it stays, as it does beside any other error.
func (g *gathering) together(what string, work ...func() error) []error {
	errs := make([]error, len(work))
	var all sync.WaitGroup
	for i, do := range work {
		all.Go(func() { errs[i] = rescue.Do(g.fetcher.log, what, do) })
	}
	all.Wait()
	return errs
}
