// Package rescue turns a panic into an error.
//
// A parser that panics on a stranger's bytes must not end the agent: one crafted manifest would take the
// runtime's socket from the node, and again after each restart. recover works only on the goroutine that
// panics, so [Do] stands around the work of every goroutine that is started on the way of a request.
//
// It promises an error that wraps [ErrPanicked], and so can be told from everything that was found out about an
// image: what panicked was neither allowed nor refused. It cannot help against what Go does not recover from: running
// out of memory or stack, and concurrent writes to a map.
package rescue

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
)

// ErrPanicked is wrapped by the error that stands for a panic.
var ErrPanicked = errors.New("internal error")

// maxWords is how much of a panic's text an error carries, in bytes.
const maxWords = 200

// Do runs f and gives its error, or one that wraps ErrPanicked if f panicked. What says what was being done. The
// stack goes to log at debug level; log may be nil.
//
// Only the runtime's own words, like "index out of range", are passed on. Any other value may quote what was being
// read or sent, a credential among it, and errors end up in a pod's events: of that the type alone is named.
func Do(log *slog.Logger, what string, f func() error) (err error) {
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		words := fmt.Sprintf("a %T", r)
		if own, ok := r.(runtime.Error); ok {
			words = own.Error()
		}
		err = fmt.Errorf("%w: %s panicked: %.*q", ErrPanicked, what, maxWords, words)
		if log != nil {
			log.Debug("recovered from a panic", "while", what, "panic", words, "stack", string(debug.Stack()))
		}
	}()
	return f()
}
