package evidence

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/cosentry/cosentry/verify/limits"
)

// maxWords is how much foreign text an error carries: enough to recognise, too little to flood a pod's events.
const maxWords = 200

// escape makes foreign text safe to show: no control characters, and not long.
func escape(s string) string {
	if len(s) > maxWords {
		s = cut(s, maxWords)
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// clean words an error without the URL that net/http puts into it: the URL of a redirect may be a signed one, which
// is a credential.
func clean(err error) string {
	var at *url.Error
	for errors.As(err, &at) {
		err = at.Err
	}
	return escape(err.Error())
}

// transportError words what kept an exchange from having an answer. Bounds and the end of the context stay visible
// to errors.Is and errors.As; the rest is text, cleaned.
func transportError(err error, what string) error {
	var exceeded *limits.Exceeded
	switch {
	case errors.As(err, &exceeded):
		return fmt.Errorf("%s: %w", what, exceeded)
	case errors.Is(err, errLedAway):
		return fmt.Errorf("%w: %s: %s", ErrMismatch, what, clean(err))
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %s: no answer in time: %w", ErrUnavailable, what, context.DeadlineExceeded)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, what, context.Canceled)
	default:
		return fmt.Errorf("%w: %s: %s", ErrUnavailable, what, clean(err))
	}
}
