package rules_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/cosign/v2/cmd/cosign/cli/options"
	cosign "github.com/sigstore/cosign/v2/pkg/policy"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/rules"
)

// envelope is what cosign's function reads, too.
type envelope []byte

func (e envelope) Payload() ([]byte, error) { return e, nil }

func enveloped(statement string) envelope {
	out, err := json.Marshal(map[string]any{
		"payloadType": "application/vnd.in-toto+json", "payload": base64.StdEncoding.EncodeToString([]byte(statement)),
		"signatures": []any{map[string]string{"keyid": "", "sig": "AA=="}},
	})
	if err != nil {
		panic(err)
	}
	return out
}

func statement(uri, predicate string) string {
	return `{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"` + uri + `","subject":[{"name":"r.example/a","digest":{"sha256":"ab"}}],"predicate":` + predicate + `}`
}

// Each type with a predicate of its shape, and with one that is not. Where cosign gives a type no shape, every
// predicate is of it.
var predicates = map[string]struct{ right, wrong string }{
	"custom":           {`{"Data":"<b>","Timestamp":"now"}`, ""},
	"slsaprovenance":   {`{"builder":{"id":"https://b.example"},"buildType":"t","materials":[{"uri":"git+https://g","digest":{"sha1":"aa"}}]}`, `{"builder":"b"}`},
	"slsaprovenance02": {`{"builder":{"id":"https://b.example"}}`, ""},
	"slsaprovenance1":  {`{"buildDefinition":{"buildType":"t"},"runDetails":{"builder":{"id":"b"}}}`, ""},
	"spdx":             {`{"spdxVersion":"SPDX-2.3","packages":[]}`, ""},
	"spdxjson":         {`{"spdxVersion":"SPDX-2.3"}`, ""},
	"cyclonedx":        {`{"bomFormat":"CycloneDX","components":[{"name":"x"}]}`, ""},
	"link":             {`{"name":"step","materials":{},"products":{},"byproducts":{},"environment":{},"command":["make"]}`, `{"name":["step"]}`},
	"vuln":             {`{"invocation":{"uri":"i","event_id":"e","builder.id":"b"},"scanner":{"uri":"trivy","db":{"uri":"d"},"result":{"n":1}},"metadata":{"scanStartedOn":"2026-01-01T00:00:00Z","scanFinishedOn":"2026-01-01T00:00:01Z"}}`, `{"metadata":{"scanStartedOn":"yesterday"}}`},
	"openvex":          {`{"@context":"https://openvex.dev/ns","statements":[]}`, ""},

	"https://example.com/own/v1":                       {`{"anything":[1,{"a":null}]}`, ""},
	"https://slsa.dev/provenance/v0.2":                 {`{"builder":"whatever"}`, ""},
	"https://cosign.sigstore.dev/attestation/vuln/v1":  {`{"scanner":{"uri":"trivy"}}`, ""},
	"https://cosign.sigstore.dev/attestation/vuln/v2 ": {`{}`, ""},
}

func uriOf(predicateType string) string {
	if uri, ok := rules.PredicateURI(predicateType); ok {
		return uri
	}
	return predicateType
}

func TestPayloadsAreWrittenAsCosignDoes(t *testing.T) {
	for predicateType, p := range predicates {
		t.Run(predicateType, func(t *testing.T) {
			e := enveloped(statement(uriOf(predicateType), p.right))
			got, err := rules.Payload(predicateType, e)
			if err != nil || got == nil {
				t.Fatalf("%q, %v", got, err)
			}
			want, _, err := cosign.AttestationToPayloadJSON(t.Context(), predicateType, e)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Error(diff)
			}
			if payload, err := rules.Payload(predicateType, enveloped(statement("https://example.com/other", p.right))); payload != nil || err != nil {
				t.Errorf("of another type: %q, %v", payload, err)
			}
		})
	}
}

// CVE-2026-39395: an attestation that could not be read counted as one that passed.
func TestABrokenAttestationIsAnError(t *testing.T) {
	for predicateType, p := range predicates {
		uri := uriOf(predicateType)
		right := statement(uri, p.right)
		broken := map[string]envelope{
			"a predicate that is no JSON":       enveloped(strings.Replace(right, `"predicate":{`, `"predicate":{{`, 1)),
			"a statement that is cut off":       enveloped(right[:len(right)-1]),
			"a statement with more behind it":   enveloped(right + right),
			"a statement that is a list":        enveloped(`[` + right + `]`),
			"a statement that is a text":        enveloped(`"` + uri + `"`),
			"a subject that is no list":         enveloped(strings.Replace(right, `"subject":[`, `"subject":{"x":[`, 1) + `}`),
			"a subject of another shape":        enveloped(strings.Replace(right, `"digest":{"sha256":"ab"}`, `"digest":"ab"`, 1)),
			"a predicate type that is a number": enveloped(strings.Replace(right, `"`+uri+`"`, `1`, 1)),
			"no statement":                      enveloped(""),
			"no payload":                        envelope(`{"payloadType":"application/vnd.in-toto+json"}`),
			"a payload that is null":            envelope(`{"payload":null}`),
			"a payload that is a number":        envelope(`{"payload":5}`),
			"a payload that is no base64":       envelope(`{"payload":"%%%%"}`),
			"an envelope that is no JSON":       envelope(`{"payload":`),
			"an envelope with more behind it":   append(enveloped(right), '{'),
			"no envelope":                       nil,
		}
		if p.wrong != "" {
			broken["a predicate of another shape"] = enveloped(statement(uri, p.wrong))
			broken["a predicate that is a text"] = enveloped(statement(uri, `"text"`))
			broken["a predicate that is a list"] = enveloped(statement(uri, `[]`))
		}
		for name, e := range broken {
			t.Run(predicateType+"/"+name, func(t *testing.T) {
				if payload, err := rules.Payload(predicateType, e); err == nil {
					t.Errorf("taken: %q", payload)
				}
			})
		}
	}
	if _, err := rules.Payload("", enveloped(statement("", "{}"))); err == nil {
		t.Error("without a type, every attestation without one is taken")
	}
}

func TestPayloadsAreBounded(t *testing.T) {
	uri := uriOf("custom")
	for name, c := range map[string]struct {
		envelope envelope
		bound    limits.Bound
	}{
		"an envelope that is too large":  {enveloped(statement(uri, `"`+strings.Repeat("x", int(limits.Attestation.Max()))+`"`)), limits.Attestation},
		"a statement of many elements":   {enveloped(statement(uri, `[`+strings.Repeat("[[]],", int(limits.RuleElements.Max()/2))+`1]`)), limits.RuleElements},
		"a statement that is too deep":   {enveloped(statement(uri, strings.Repeat("[", 1000)+strings.Repeat("]", 1000))), limits.RuleDepth},
		"an envelope that is too deep":   {envelope(strings.Repeat("[", 1000) + strings.Repeat("]", 1000)), limits.RuleDepth},
		"a list with too many members":   {enveloped(statement(uri, `[`+strings.Repeat("1,", int(limits.RuleMembers.Max()))+`1]`)), limits.RuleMembers},
		"an envelope with many elements": {envelope(`{"payload":"","x":[` + strings.Repeat("[1,1],", int(limits.RuleElements.Max()/2)) + `1]}`), limits.RuleElements},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rules.Payload("custom", c.envelope)
			var exceeded *limits.Exceeded
			if !errors.As(err, &exceeded) || exceeded.Bound != c.bound {
				t.Errorf("%v, want the bound on %s", err, c.bound)
			}
		})
	}
}

func TestShortNamesAreCosigns(t *testing.T) {
	for short, want := range options.PredicateTypeMap {
		if got, ok := rules.PredicateURI(short); !ok || got != want {
			t.Errorf("%s is %q, want %q", short, got, want)
		}
	}
	for _, none := range []string{"", "Custom", "slsa", "https://slsa.dev/provenance/v1"} {
		if uri, ok := rules.PredicateURI(none); ok {
			t.Errorf("%q is taken for %q", none, uri)
		}
	}
}
