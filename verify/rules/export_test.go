package rules

import (
	"context"
	"time"
)

// EvaluateWithin is Evaluate with another time limit, for inputs that take a slow machine under the race detector
// longer than a node ever waits.
func EvaluateWithin(ctx context.Context, limit time.Duration, name, kind, text string, input []byte) (string, error) {
	return newTurns(maxAtOnce, limit).evaluate(ctx, name, kind, text, input)
}
