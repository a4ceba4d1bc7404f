package rules_test

import (
	"encoding/json"
	"errors"
	"testing"

	cosign "github.com/sigstore/cosign/v2/pkg/policy"

	"github.com/cosentry/cosentry/verify/rescue"
	"github.com/cosentry/cosentry/verify/rules"
)

// Whatever is judged: no panic is seen, no answer is an allow that cosign does not give.
func FuzzEvaluate(f *testing.F) {
	for _, c := range verdicts {
		f.Add(c.kind == rules.CUE, c.text, []byte(c.input))
	}
	f.Add(true, "a: \"\\(b)\"\nb: string", []byte(`{"b":"x"}`))
	f.Add(true, "a: b\nb: a & {c: 1}", []byte(`{"a":{"b":[1e400]}}`))
	f.Fuzz(func(t *testing.T, cue bool, text string, input []byte) {
		kind := rules.Rego
		if cue {
			kind = rules.CUE
		}
		// Rules may do much with little, as fuzzing finds soon; what is sought are answers to inputs.
		text, input = text[:min(len(text), 1<<10)], input[:min(len(input), 1<<12)]
		checked := rules.Check(kind, text)
		_, err := rules.Evaluate(t.Context(), "x", kind, text, input)
		if err != nil {
			return
		}
		if checked != nil {
			t.Fatalf("a rule passes that is not taken: %v", checked)
		}
		if !json.Valid(input) {
			t.Fatal("what is no JSON passes")
		}
		if rescue.Do(nil, "cosign", func() error {
			warns, fails := cosign.EvaluatePolicyAgainstJSON(t.Context(), "x", kind, text, input)
			return errors.Join(warns, fails)
		}) != nil {
			t.Fatal("it passes here, and not with cosign")
		}
	})
}

func FuzzPayload(f *testing.F) {
	for predicateType, p := range predicates {
		f.Add(predicateType, []byte(enveloped(statement(uriOf(predicateType), p.right))))
		f.Add(predicateType, []byte(statement(uriOf(predicateType), p.right)))
	}
	f.Add("vuln", []byte(`{"payload":{}}`))
	f.Fuzz(func(t *testing.T, predicateType string, input []byte) {
		for _, e := range []envelope{input, enveloped(string(input))} {
			payload, err := rules.Payload(predicateType, e)
			if err != nil || payload == nil {
				if payload != nil {
					t.Fatal("a payload beside an error")
				}
				continue
			}
			var want []byte
			if err := rescue.Do(nil, "cosign", func() (err error) {
				want, _, err = cosign.AttestationToPayloadJSON(t.Context(), predicateType, e)
				return err
			}); err != nil {
				t.Fatalf("read here, and not by cosign: %v", err)
			}
			if string(want) != string(payload) {
				t.Fatalf("cosign gives %q, here it is %q", want, payload)
			}
		}
	})
}
