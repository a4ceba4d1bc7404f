package rules_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	cosign "github.com/sigstore/cosign/v2/pkg/policy"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/rules"
)

const (
	vulnStatement = `{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://cosign.sigstore.dev/attestation/vuln/v1",` +
		`"subject":[],"predicate":{"scanner":{"uri":"trivy","version":"1"},"metadata":{"scanFinishedOn":"2026-01-02T00:00:00Z"}}}`
	twoPassed = `{"authorityMatches":{"builder":{"signatures":[{"id":"1"}]},"scanner":{"attestations":{"scan":[{"id":"2"}]}}}}`
	onePassed = `{"authorityMatches":{"builder":{"signatures":[{"id":"1"}]}}}`
)

// verdicts of rules over inputs. Each is asked of cosign's own function too, which must say the same.
var verdicts = map[string]struct {
	kind, text, input string
	passes            bool
	says              string // in the warning, or in the refusal
}{
	"cue: field as demanded":         {rules.CUE, `predicate: scanner: uri: "trivy"`, vulnStatement, true, ""},
	"cue: field not as demanded":     {rules.CUE, `predicate: scanner: uri: "grype"`, vulnStatement, false, "conflicting values"},
	"cue: of another type":           {rules.CUE, `predicate: scanner: uri: int`, vulnStatement, false, "conflicting values"},
	"cue: by regexp":                 {rules.CUE, `predicate: scanner: uri: =~"^tri"`, vulnStatement, true, ""},
	"cue: recent enough":             {rules.CUE, "import \"time\"\nafter: time.Parse(time.RFC3339, \"2026-01-01T00:00:00Z\")\npredicate: metadata: scanFinishedOn: >after", vulnStatement, true, ""},
	"cue: too old":                   {rules.CUE, "import \"time\"\nafter: time.Parse(time.RFC3339, \"2026-02-01T00:00:00Z\")\npredicate: metadata: scanFinishedOn: >after", vulnStatement, false, "invalid value"},
	"cue: closed":                    {rules.CUE, "#Want: predicateType: string\n#Want", vulnStatement, false, "not allowed"},
	"cue: missing field passes":      {rules.CUE, `predicate: result: "clean"`, vulnStatement, true, "predicate.result"},
	"cue: missing with ! passes":     {rules.CUE, `predicate: result!: string`, vulnStatement, true, "predicate.result"},
	"cue: missing with ? passes":     {rules.CUE, `predicate: result?: string`, vulnStatement, true, ""},
	"cue: missing authority passes":  {rules.CUE, `authorityMatches: {builder: signatures: [_, ...], scanner: attestations: scan: [_, ...]}`, onePassed, true, "authorityMatches.scanner"},
	"cue: authorities by name, both": {rules.CUE, bothInCUE, twoPassed, true, ""},
	"cue: authorities by name, one":  {rules.CUE, bothInCUE, onePassed, false, "conflicting values"},
	"cue: a list of items":           {rules.CUE, "import \"list\"\nauthorityMatches: builder: signatures: list.MinItems(1)", twoPassed, true, ""},
	"cue: too few items":             {rules.CUE, "import \"list\"\nauthorityMatches: builder: signatures: list.MinItems(2)", twoPassed, false, "list.MinItems(2)"},

	"rego: true":                     {rules.Rego, compliant, `{"ok":true}`, true, ""},
	"rego: false":                    {rules.Rego, compliant, `{"ok":false}`, false, ""},
	"rego: undefined":                {rules.Rego, compliant, `{}`, false, ""},
	"rego: not a truth value":        {rules.Rego, "package sigstore\nisCompliant = \"yes\" { true }", `{}`, false, ""},
	"rego: default false":            {rules.Rego, "package sigstore\ndefault isCompliant = false\nisCompliant { input.ok }", `{"no":1}`, false, ""},
	"rego: both authorities":         {rules.Rego, bothInRego, twoPassed, true, ""},
	"rego: one authority":            {rules.Rego, bothInRego, onePassed, false, ""},
	"rego: messages, passes":         {rules.Rego, messages, `{"level":1}`, true, ""},
	"rego: messages, fails":          {rules.Rego, messages, `{"level":9}`, false, "level 9 is too high"},
	"rego: messages, none":           {rules.Rego, messages, `{}`, false, ""},
	"rego: set with an empty member": {rules.Rego, "package sigstore\nisCompliant[r] { r := {} }", `{}`, false, ""},
}

const (
	bothInCUE = `
import "list"
authorityMatches: {...}
passed: [for name, _ in authorityMatches {name}]
if len(passed) > 0 {
	both: list.Contains(passed, "builder") & list.Contains(passed, "scanner")
	both: true
}`
	bothInRego = `
package sigstore
isCompliant {
	count(input.authorityMatches.builder.signatures) > 0
	count(input.authorityMatches.scanner.attestations.scan) > 0
}`
	messages = `
package sigstore
isCompliant[response] {
	input.level < 5
	response := {"result": true, "error": "", "warning": ""}
}
isCompliant[response] {
	input.level >= 5
	response := {"result": false, "error": sprintf("level %d is too high", [input.level])}
}`
)

func TestRulesMeanWhatTheyMeanToCosign(t *testing.T) {
	for name, c := range verdicts {
		t.Run(name, func(t *testing.T) {
			if err := rules.Check(c.kind, c.text); err != nil {
				t.Fatalf("not taken: %v", err)
			}
			warning, err := rules.Evaluate(t.Context(), "the test", c.kind, c.text, []byte(c.input))
			var refused *rules.Refused
			if c.passes != (err == nil) || err != nil && !errors.As(err, &refused) {
				t.Fatalf("error %v, want it to pass: %t", err, c.passes)
			}
			said := warning
			if err != nil {
				said = err.Error()
			}
			if !strings.Contains(said, c.says) || c.says == "" && warning != "" {
				t.Errorf("it says %q, want %q", said, c.says)
			}
			warns, fails := cosign.EvaluatePolicyAgainstJSON(t.Context(), "x", c.kind, c.text, []byte(c.input))
			if c.passes != (warns == nil && fails == nil) {
				t.Errorf("cosign says otherwise: %v, %v", warns, fails)
			}
		})
	}
}

// policy-controller takes what passes with a warning for not satisfied.
func TestARegoRuleThatWarnsDoesNotPass(t *testing.T) {
	text := "package sigstore\nisCompliant[r] { r := {\"result\": true, \"warning\": \"key is old\"} }"
	warning, err := rules.Evaluate(t.Context(), "the test", rules.Rego, text, []byte(`{}`))
	var refused *rules.Refused
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "warning: key is old") || warning != "" {
		t.Errorf("%q, %v", warning, err)
	}
	text = "package sigstore\nisCompliant[r] { r := {\"result\": false, \"error\": \"no\", \"warning\": \"key is old\"} }"
	if _, err = rules.Evaluate(t.Context(), "the test", rules.Rego, text, []byte(`{}`)); err == nil || !strings.Contains(err.Error(), "no; warning: key is old") {
		t.Errorf("%v", err)
	}
}

func TestWhatCannotBeEvaluatedIsNeitherAnAllowNorTheRulesNo(t *testing.T) {
	for name, c := range map[string]struct{ kind, text, input, want string }{
		"no kind":                        {"", "a: 1", `{}`, "of type cue or rego"},
		"another kind":                   {"cel", "true", `{}`, "of type cue or rego"},
		"no rule":                        {rules.CUE, "", `{}`, "empty"},
		"a rule that demands nothing":    {rules.CUE, "// nothing", `{}`, "demands nothing"},
		"a rule that does not compile":   {rules.CUE, "a: {", `{}`, "does not compile"},
		"a rego that does not compile":   {rules.Rego, "package sigstore\nisCompliant { x }", `{}`, "unsafe"},
		"a rego of another package":      {rules.Rego, "package x\nisCompliant { true }", `{}`, "package must be"},
		"a rule that reaches out":        {rules.Rego, "package sigstore\nisCompliant { http.send({\"method\": \"get\", \"url\": input.u}) }", `{}`, "http.send"},
		"no input":                       {rules.CUE, "a: _", ``, "not JSON"},
		"an input that is no JSON":       {rules.Rego, compliant, `{"ok":true`, "not JSON"},
		"two inputs":                     {rules.Rego, compliant, `{"ok":true}{"ok":false}`, "not JSON"},
		"an input that is CUE":           {rules.CUE, "a: >1", `{a: *2 | 3}`, "not JSON"},
		"an input with an expression":    {rules.CUE, "a: 2", `{"a": 1+1}`, "not JSON"},
		"an input with an interpolation": {rules.CUE, `a: "2"`, `{"a": "\(1+1)"}`, "not JSON"},
		"a rule with two answers":        {rules.Rego, "package sigstore\nisCompliant = x { x := input.a[_] }", `{"a":[true,false]}`, "conflict"},
		"a member that is no object":     {rules.Rego, "package sigstore\nisCompliant[r] { r := \"yes\" }", `{}`, "panicked"},
		"messages of another shape":      {rules.Rego, "package sigstore\nisCompliant[r] { r := {\"result\": \"yes\"} }", `{}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			warning, err := rules.Evaluate(t.Context(), "the test", c.kind, c.text, []byte(c.input))
			if err == nil {
				t.Fatal("allowed")
			}
			if !strings.Contains(err.Error(), c.want) || warning != "" {
				t.Errorf("%q, error %q; want %q", warning, err, c.want)
			}
			var refused *rules.Refused
			if errors.As(err, &refused) && c.want != "" {
				t.Errorf("taken for the rule's own no: %v", err)
			}
		})
	}
}

// An input that the bounds let through is one that no sound rule runs away on.
func TestInputsAreBounded(t *testing.T) {
	many := func(n int64, item string) string { return strings.TrimSuffix(strings.Repeat(item+",", int(n)), ",") }
	for name, c := range map[string]struct {
		input string
		bound limits.Bound
	}{
		"size":                  {`{"a":"` + strings.Repeat("x", int(limits.RuleInput.Max())) + `"}`, limits.RuleInput},
		"elements":              {`{"a":[` + many(limits.RuleElements.Max()/4, "[[],[]]") + `]}`, limits.RuleElements},
		"members of a list":     {`{"a":[` + many(limits.RuleMembers.Max()+1, "1") + `]}`, limits.RuleMembers},
		"members of an object":  {`{"a":{` + many(limits.RuleMembers.Max()+1, `"k":1`) + `}}`, limits.RuleMembers},
		"members after a child": {`{"a":[[],` + many(limits.RuleMembers.Max(), "1") + `]}`, limits.RuleMembers},
		"depth":                 {strings.Repeat(`{"a":`, int(limits.RuleDepth.Max())+1) + "1" + strings.Repeat("}", int(limits.RuleDepth.Max())+1), limits.RuleDepth},
		"depth without an end":  {strings.Repeat(`[`, 1<<20), limits.RuleDepth},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, text := range map[string]string{rules.CUE: "a: _", rules.Rego: "package sigstore\nisCompliant { true }"} {
				_, err := rules.Evaluate(t.Context(), "the test", kind, text, []byte(c.input))
				var exceeded *limits.Exceeded
				if !errors.As(err, &exceeded) {
					t.Fatalf("%s: %v", kind, err)
				}
				if exceeded.Bound != c.bound && name != "depth without an end" {
					t.Errorf("%s: %v, want the bound on %s", kind, err, c.bound)
				}
			}
		})
	}
	deep := strings.Repeat(`{"a":`, int(limits.RuleDepth.Max())) + "1" + strings.Repeat("}", int(limits.RuleDepth.Max()))
	wide := `{"a":[` + many(limits.RuleMembers.Max(), "1") + `],"quoted":"` + strings.Repeat(`\",{[`, int(limits.RuleMembers.Max())) + `"}`
	for name, input := range map[string]string{"as deep as may be": deep, "as wide as may be": wide} {
		for kind, text := range map[string]string{rules.CUE: "a: _", rules.Rego: "package sigstore\nisCompliant { input.a }"} {
			if _, err := rules.EvaluateWithin(t.Context(), 2*time.Minute, "the test", kind, text, []byte(input)); err != nil {
				t.Errorf("%s, %s: %v", name, kind, err)
			}
		}
	}
	if rules.MaxText != limits.RuleText.Max() {
		t.Errorf("MaxText is %d, the bound is %d", rules.MaxText, limits.RuleText.Max())
	}
}

// What a rule or an input says is shown to whoever reads a pod's events.
func TestForeignWordsAreOnOneLineAndCut(t *testing.T) {
	text := "package sigstore\nisCompliant[r] { r := {\"result\": false, \"error\": sprintf(\"a\\n%s\", [input.words])} }"
	for _, words := range []string{`\u001b[31mforged`, strings.Repeat("x", 1<<16), strings.Repeat("ü", 1<<16), `\u2028second line`} {
		_, err := rules.Evaluate(t.Context(), "n\name", rules.Rego, text, []byte(`{"words":"`+words+`"}`))
		if err == nil || strings.ContainsAny(err.Error(), "\n\x1b\u2028\uFFFD") || len(err.Error()) > 3000 {
			t.Errorf("%d bytes: %.100q", len(err.Error()), err)
		}
	}
	if _, err := rules.Evaluate(t.Context(), "x", rules.CUE, `a: "b"`, []byte(`{"a":"`+strings.Repeat(`\u001b`, 1<<12)+`"}`)); err == nil || strings.Contains(err.Error(), "\x1b") || len(err.Error()) > 3000 {
		t.Errorf("%.100q", err)
	}
}

func TestAnEndedRequestIsNotEvaluated(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := rules.Evaluate(ctx, "x", rules.CUE, "a: 1", []byte(`{"a":1}`)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestWarningsNameAuthoritiesThatAreNotAskedFor(t *testing.T) {
	for name, c := range map[string]struct{ kind, text, want string }{
		"two authorities":  {rules.CUE, "authorityMatches: {builder: signatures: [_], scanner: {...}}", "authorityMatches.builder, authorityMatches.scanner"},
		"one authority":    {rules.CUE, "authorityMatches: builder: signatures: [_]", "authorityMatches.builder"},
		"asked for":        {rules.CUE, bothInCUE, ""},
		"optional":         {rules.CUE, "authorityMatches: builder?: signatures: [_]", ""},
		"an attestation":   {rules.CUE, "predicate: x: 1", ""},
		"rego":             {rules.Rego, bothInRego, ""},
		"does not compile": {rules.CUE, "authorityMatches: {", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(rules.Warnings(c.kind, c.text), "\n")
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
