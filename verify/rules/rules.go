// Package rules evaluates the CUE and Rego policies of a ClusterImagePolicy: those over attestations, and that of the
// policy itself over the authorities that passed.
//
// It promises the meaning that they have to policy-controller, because they are evaluated by the same code: cosign's
// pkg/policy. What that code does not bound is bounded here: text and input in size, elements and depth, each
// evaluation in time, and the number of those that run at once. A rule that cannot be evaluated, for whichever
// reason, is never an allow; a panic in an evaluator is an error like any other.
//
// It refuses rules that reach for the network, for files or for the agent's environment: what a node decides depends on
// what it holds in memory.
//
// The languages are those of https://cuelang.org and https://www.openpolicyagent.org (Rego v0, as cosign
// reads it). What rules are given is specified by policy-controller's PolicyResult, see [Result], and by cosign's
// AttestationToPayloadJSON, see [Payload].
package rules

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/rescue"
)

// The kinds of rules.
const (
	CUE  = "cue"
	Rego = "rego"
)

// MaxText is the longest text of a rule, in bytes: that of limits.RuleText.
const MaxText = 256 << 10

// maxWords is how much of an evaluator's own words an error carries, in bytes.
const maxWords = 2000

// Check reports what is wrong with a rule that can be known without an input: text that does not compile, and what
// no rule may do here. What passes it may still refuse every input.
func Check(kind, text string) error {
	return rescue.Do(nil, "checking a "+words(kind)+" rule", func() error {
		if err := inBounds(kind, text); err != nil {
			return err
		}
		if kind == CUE {
			return checkCUE(text)
		}
		return checkRego(text)
	})
}

func inBounds(kind, text string) error {
	if kind != CUE && kind != Rego {
		return fmt.Errorf("rules are of type %s or %s, not %q", CUE, Rego, words(kind))
	}
	if err := limits.RuleText.Check(int64(len(text))); err != nil {
		return err
	}
	if strings.TrimSpace(text) == "" {
		return errors.New("the rule is empty")
	}
	return nil
}
