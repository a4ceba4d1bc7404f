package rules

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/rescue"
)

const (
	// TimeLimit is the longest that one evaluation may take, and the longest that one waits for its turn.
	TimeLimit = 5 * time.Second
	// maxAtOnce is how many evaluations run at once, those that were given up included.
	maxAtOnce = 4
	// largeInput is the number of elements from which on an input is large. Of evaluations with a large input no more
	// than one runs at once, so that the memory of all is about that of one.
	largeInput = 16 << 10
)

// Refused is the error for a rule that was evaluated and says no. Every other error of [Evaluate] means that the
// rule could not be evaluated. Neither is an allow.
type Refused struct {
	// Name is what the rule was evaluated for, and Kind its kind.
	Name, Kind string
	// Reason is the rule's or the evaluator's own words, on one line and cut; it may be empty.
	Reason string
}

func (e *Refused) Error() string {
	text := fmt.Sprintf("the %s rule for %s does not accept it", e.Kind, words(e.Name))
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// running is what runs in this process. The bound that it keeps is the process's: what has to be protected from
// rules that do not end are the processor and the memory that all verifiers share.
var running = newTurns(maxAtOnce, TimeLimit)

// Evaluate asks a rule about an input, which is JSON. Name says what it is evaluated for, in errors. A nil error means that
// the rule accepts the input; the warning is then what there is to be said about a rule that passes less than it seems to
// demand, and is no reason to refuse. A Rego rule that accepts with a warning of its own is a [*Refused]: to
// policy-controller it is not satisfied either.
//
// The evaluators cannot be stopped. One that is not done within TimeLimit, or when ctx ends, is given up: its
// answer will not be looked at, and until it ends by itself it costs the processor and the memory that it takes. So
// no more than four run at once, those given up included; no more than two of these by one rule; and the same
// rule is not asked again about the same input meanwhile. Beyond that the answer is an error at once.
func Evaluate(ctx context.Context, name, kind, text string, input []byte) (warning string, err error) {
	return running.evaluate(ctx, name, kind, text, input)
}

func (t *turns) evaluate(ctx context.Context, name, kind, text string, input []byte) (warning string, err error) {
	err = rescue.Do(nil, "evaluating a rule", func() error {
		if err := inBounds(kind, text); err != nil {
			return err
		}
		if err := boundInput(input); err != nil {
			return err
		}
		warning, err = t.take(ctx, ask(kind, text, input), func() (said string, err error) {
			err = rescue.Do(nil, "evaluating", func() error {
				said, err = evaluateKind(kind, text, input)
				return err
			})
			return said, err
		})
		return err
	})
	var no *saysNo
	switch {
	case errors.As(err, &no):
		return "", &Refused{Name: name, Kind: kind, Reason: words(no.reason)}
	case err != nil:
		return "", fmt.Errorf("evaluating the %s rule for %s: %w", words(kind), words(name), err)
	}
	return words(warning), nil
}

// saysNo is what evaluators give for a rule that was evaluated and does not accept.
type saysNo struct{ reason string }

func (e *saysNo) Error() string { return e.reason }

// evaluateKind evaluates on the calling goroutine. What no rule may do is looked for again, because nothing else ties
// the text that is evaluated to one that was checked.
func evaluateKind(kind, text string, input []byte) (string, error) {
	if kind == CUE {
		if err := refuseCUE(text); err != nil {
			return "", err
		}
		return evaluateCUE(text, input)
	}
	if err := refuseRego(text); err != nil {
		return "", err
	}
	return "", evaluateRego(text, input)
}

// boundInput refuses what is no JSON, and too much of it. JSON is asked for strictly: the CUE evaluator reads its input as
// CUE, of which JSON is a part, and what is only CUE could hold expressions.
func boundInput(input []byte) error {
	if err := limits.RuleInput.Check(int64(len(input))); err != nil {
		return err
	}
	if err := boundShape(input); err != nil {
		return err
	}
	if !json.Valid(input) {
		return errors.New("the input is not JSON")
	}
	return nil
}

// boundShape bounds what a JSON document becomes when it is parsed. It is no parser, and stands before one.
func boundShape(document []byte) error {
	if err := limits.RuleElements.Check(limits.CountElements(document)); err != nil {
		return err
	}
	var members []int64 // of each object or array that is open
	quoted := false
	for i := 0; i < len(document); i++ {
		switch c := document[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case quoted:
		case c == '{' || c == '[':
			members = append(members, 1)
			if err := limits.RuleDepth.Check(int64(len(members))); err != nil {
				return err
			}
		case (c == '}' || c == ']') && len(members) > 0:
			members = members[:len(members)-1]
		case c == ',' && len(members) > 0:
			members[len(members)-1]++
			if err := limits.RuleMembers.Check(members[len(members)-1]); err != nil {
				return err
			}
		}
	}
	return nil
}
