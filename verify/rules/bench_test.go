package rules_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/verify/rules"
)

// packages is a list of packages as large images have them.
func packages(n int) []byte {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,{"name":"p%d","version":"1.%d","licenses":[{"license":{"id":"MIT"}}],"purl":"pkg:deb/debian/p%d@1"}`, i, i, i)
	}
	return []byte(`{"predicateType":"https://cyclonedx.org/bom","predicate":{"components":[` + b.String()[1:] + `]}}`)
}

func BenchmarkEvaluate(b *testing.B) {
	for _, c := range []struct {
		name, kind, text string
		input            []byte
	}{
		{"cue/authorities", rules.CUE, bothInCUE, []byte(twoPassed)},
		{"rego/authorities", rules.Rego, bothInRego, []byte(twoPassed)},
		{"cue/scan", rules.CUE, `predicate: scanner: uri: "trivy"`, []byte(vulnStatement)},
		{"rego/scan", rules.Rego, "package sigstore\nisCompliant { input.predicate.scanner.uri == \"trivy\" }", []byte(vulnStatement)},
		{"cue/1000-packages", rules.CUE, `predicate: components: [...{name: !="log4j"}]`, packages(1000)},
		{"rego/1000-packages", rules.Rego, "package sigstore\nisCompliant { count([c | c := input.predicate.components[_]; c.name == \"log4j\"]) == 0 }", packages(1000)},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := rules.Evaluate(b.Context(), "x", c.kind, c.text, c.input); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	for kind, text := range map[string]string{rules.CUE: bothInCUE, rules.Rego: bothInRego} {
		b.Run(kind, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := rules.Check(kind, text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPayload(b *testing.B) {
	e := enveloped(string(packages(1000)))
	b.SetBytes(int64(len(e)))
	b.ReportAllocs()
	for b.Loop() {
		if payload, err := rules.Payload("cyclonedx", e); err != nil || payload == nil {
			b.Fatal(err)
		}
	}
}
