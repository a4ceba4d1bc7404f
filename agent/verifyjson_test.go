package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/sigstore"
)

var update = flag.Bool("update", false, "write docs/verify-json.md anew")

// jsonFields are the meanings of all fields of `verify -o json`.
var jsonFields = map[string]string{
	"image":                           "The image as it was given.",
	"decision":                        "What a node in mode enforce does: `allow`, `warn` (let through, and recorded), `deny`, or `error` (it could not be told, and a node refuses). The exit status is 0, 0, 1 and 2.",
	"note":                            "Why nothing was judged, although the decision is `allow`: the namespace is not enforced.",
	"error":                           "Why there is no verdict: the image's name cannot be judged (`deny`), or something was not to be had (`error`).",
	"verdict":                         "The verdict; with `error`, what could be found out all the same.",
	"verdict.image":                   "The image as it was given. Policies are matched by it.",
	"verdict.repository":              "The image's repository in its canonical form. Signatures were looked for there, unless a policy names another place.",
	"verdict.digest":                  "The digest that was judged.",
	"verdict.allowed":                 "Every policy that matches passed, or only warns.",
	"verdict.warn":                    "`allowed` rests on a policy of mode warn that failed, or on `noMatch` warn.",
	"verdict.noMatch":                 "None of the node's own policies matched, and this (`deny`, `warn` or `allow`) is what happens then. What the cluster's policies say comes on top.",
	"verdict.otherPods":               "How many of the node's own policies name the image and are for other pods, by their labels. Left out if none.",
	"verdict.policies":                "The policies that match, in order of their names, the node's own first; null if none does. The cluster's are asked, and listed, only if the node's own let the image through.",
	"verdict.policies[].policy":       "The policy's name.",
	"verdict.policies[].layer":        "`cluster` if the policy came by way of the API server. Left out for the node's own, which may have the same name.",
	"verdict.policies[].mode":         "`enforce` or `warn`.",
	"verdict.policies[].passed":       "One of the authorities passed, and so did the policy's own rule if it has one.",
	"verdict.policies[].reason":       "Why it failed, in at most 1 KiB.",
	"verdict.policies[].warning":      "What of a rule that accepted the image passed less than it seems to demand.",
	"verdict.policies[].undecided":    "It failed for something that could not be found out.",
	"verdict.policies[].reference":    "It failed because its rule could not be had: for the node's owner to mend.",
	"verdict.policies[].authorities":  "All its authorities, in the policy's order. Each is asked, so that the explanation is whole.",
	"verdict.revision":                "Names the policies in force; where the cluster has some, as `node+cluster`.",
	"verdict.cached":                  "Always false here: nothing is remembered between commands.",
	authority + ".authority":          "The authority's name.",
	authority + ".kind":               "`key`, `keyless` or `static`.",
	authority + ".passed":             "It vouches for the image.",
	authority + ".reason":             "The one reason most telling why it does not, in at most 512 bytes. Left out past the first 16 authorities of a policy that failed.",
	authority + ".keyFingerprint":     "The key that signed what was accepted first: `SHA256:` and the hex SHA-256 of its SubjectPublicKeyInfo.",
	authority + ".form":               "The form of what was accepted first: `classic` (cosign's tags) or `bundle`.",
	authority + ".found":              "How many signatures, or attestations, were looked at, in the forms that the authority takes.",
	authority + ".signers":            "Who signed what was accepted, the first 16.",
	authority + ".attestations":       "What became of each attestation that the authority asks for.",
	authority + ".undecided":          "Something that could not be found out may have let it pass.",
	authority + ".reference":          "It does not pass because of what the policy refers to and does not hold, such as a Secret, a KMS key or a trust root: for the node's owner to mend.",
	signer + ".id":                    "Names the signature: the hex digest of its layer, or of its bundle's manifest.",
	signer + ".form":                  "`classic` or `bundle`.",
	signer + ".keyFingerprint":        "The policy's key that it is by; left out where the authority asks for a certificate.",
	signer + ".issuer":                "Who vouched for the identity in the certificate.",
	signer + ".subject":               "The identity in the certificate: an address, or a URI.",
	signer + ".githubWorkflowTrigger": "From the certificate of a GitHub workflow: the event.",
	signer + ".githubWorkflowSha":     "The commit.",
	signer + ".githubWorkflowName":    "The workflow's name.",
	signer + ".githubWorkflowRepo":    "The repository.",
	signer + ".githubWorkflowRef":     "The branch or tag.",
	signer + ".logIndex":              "Its index in the transparency log, where the authority asks for one and the proof was good.",
	signer + ".logTime":               "When the log says it was added, where the log signed that.",
	signer + ".timestamp":             "The time of a signed timestamp, where the authority asks for one.",
	attestation + ".name":             "The attestation's name in the policy.",
	attestation + ".predicateType":    "The type that the policy asks for, as it is written there.",
	attestation + ".passed":           "There is one of the type, signed by the authority and accepted by the attestation's rule.",
	attestation + ".reason":           "Why there is none, in at most 512 bytes.",
	attestation + ".warning":          "What of a rule that accepted it passed less than it seems to demand.",
}

const (
	authority   = "verdict.policies[].authorities[]"
	signer      = authority + ".signers[]"
	attestation = authority + ".attestations[]"
)

// field is one field of the JSON, found in the types that are encoded.
type field struct {
	path, kind string
	required   bool
}

// fields walks the types as encoding/json does.
func fields(prefix string, of reflect.Type) (all []field) {
	for i := range of.NumField() {
		f := of.Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && tag == "" {
			all = append(all, fields(prefix, f.Type)...)
			continue
		}
		if tag == "-" || !f.IsExported() {
			continue
		}
		path, kind := prefix+tag, f.Type
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		name := map[reflect.Kind]string{reflect.Bool: "boolean", reflect.Int: "integer", reflect.Int64: "integer", reflect.String: "string", reflect.Slice: "array", reflect.Struct: "object"}[kind.Kind()]
		if kind == reflect.TypeFor[time.Time]() {
			name = "string, RFC 3339"
		}
		all = append(all, field{path, name, !strings.Contains(options, "omitempty")})
		switch {
		case name == "array":
			all = append(all, fields(path+"[].", kind.Elem())...)
		case name == "object":
			all = append(all, fields(path+".", kind)...)
		}
	}
	return all
}

// schema is the JSON Schema of what stands below prefix.
func schema(all []field, prefix string) map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, f := range all {
		name, ok := strings.CutPrefix(f.path, prefix)
		if !ok || strings.ContainsAny(name, ".[") {
			continue
		}
		p := map[string]any{"type": f.kind}
		switch f.kind {
		case "object":
			p = schema(all, f.path+".")
		case "array":
			p["items"] = schema(all, f.path+"[].")
			if f.required {
				p["type"] = []string{"array", "null"}
			}
		case "string, RFC 3339":
			p = map[string]any{"type": "string", "format": "date-time"}
		}
		if values := enums()[f.path]; values != nil {
			p["enum"] = values
		}
		properties[name] = p
		if f.required {
			required = append(required, name)
		}
	}
	return map[string]any{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
}

func enums() map[string][]string {
	return map[string][]string{
		"decision": {"allow", "warn", "deny", "error"}, "verdict.noMatch": {"deny", "warn", "allow"},
		"verdict.policies[].mode": {"enforce", "warn"}, "verdict.policies[].layer": {"cluster"}, signer + ".form": {"classic", "bundle"}, authority + ".form": {"classic", "bundle"},
	}
}

// example has every field but note and error, which stand where there is no verdict, and noMatch.
func example() explanation {
	index, at := int64(1234567), time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	d := digest.FromString("an image")
	byKey := sigstore.Signer{ID: digest.FromString("a layer").Encoded(), Form: "classic", KeyFingerprint: "SHA256:" + digest.FromString("a key").Encoded(), LogIndex: &index, LogTime: &at}
	byCI := sigstore.Signer{ID: digest.FromString("a bundle").Encoded(), Form: "bundle", Issuer: "https://token.actions.githubusercontent.com",
		Subject:   "https://github.com/example/app/.github/workflows/release.yaml@refs/tags/v1.2",
		GitHub:    sigstore.GitHub{WorkflowTrigger: "push", WorkflowSHA: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b", WorkflowName: "release", WorkflowRepo: "example/app", WorkflowRef: "refs/tags/v1.2"},
		Timestamp: &at}
	return explanation{Image: "registry.example/app:1.2", Decision: "deny", Verdict: &verify.Verdict{
		Image: "registry.example/app:1.2", Repository: "registry.example/app", Digest: d, Revision: "3f2a9c1b0d4e5f67+b04d2c9e8a7f6135",
		Policies: []verify.PolicyResult{
			{Policy: "released", Mode: "enforce", Passed: true, Warning: "the rule warns: the scan is twenty days old", Authorities: []verify.AuthorityResult{
				{Authority: "release-key", Kind: "key", Passed: true, KeyFingerprint: byKey.KeyFingerprint, Form: "classic", Found: 2, Signers: []sigstore.Signer{byKey}},
				{Authority: "ci", Kind: "keyless", Passed: true, Form: "bundle", Found: 1, Signers: []sigstore.Signer{byCI}},
			}},
			{Policy: "scanned", Layer: verify.ClusterLayer, Mode: "enforce", Reason: `authority "scanner": attestation "clean" (vuln): none of that type`, Authorities: []verify.AuthorityResult{
				{Authority: "scanner", Kind: "key", Found: 1, Reason: `attestation "clean" (vuln): none of that type`,
					Attestations: []verify.AttestationResult{{Name: "clean", PredicateType: "vuln", Reason: "none of that type"}}},
			}},
		},
	}}
}

func jsonReference(t *testing.T) string {
	t.Helper()
	all := fields("", reflect.TypeFor[explanation]())
	var b strings.Builder
	b.WriteString("# What `verify -o json` and `policy test -o json` print\n\n" +
		"One JSON object on standard output. Fields are added in later versions and neither renamed nor given another meaning; read what\n" +
		"you know and pass over the rest. A field that is not always there is left out where it says nothing.\n\n" +
		"This page is made from the code by `go test ./agent -run VerifyJSON -update` and checked by the same test, which also holds the\n" +
		"commands' real output against it.\n\n" +
		"| field | type | always | meaning |\n|---|---|---|---|\n")
	for _, f := range all {
		always := ""
		if f.required {
			always = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.path, f.kind, always, jsonFields[f.path])
	}
	s := schema(all, "")
	s["$schema"], s["title"] = "https://json-schema.org/draft/2020-12/schema", "cosentry verify -o json"
	for _, part := range []struct {
		title string
		v     any
	}{{"An image that one policy accepts and another refuses", example()}, {"JSON Schema", s}} {
		var text bytes.Buffer
		enc := json.NewEncoder(&text)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(part.v); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "\n## %s\n\n```json\n%s```\n", part.title, text.String())
	}
	return b.String()
}

// TestVerifyJSONIsDocumented keeps docs/verify-json.md what is printed.
func TestVerifyJSONIsDocumented(t *testing.T) {
	known := map[string]bool{}
	for _, f := range fields("", reflect.TypeFor[explanation]()) {
		known[f.path] = true
		if jsonFields[f.path] == "" {
			t.Errorf("%s is not described", f.path)
		}
	}
	for path := range jsonFields {
		if !known[path] {
			t.Errorf("%s is described and not printed", path)
		}
	}
	path := filepath.Join("..", "docs", "verify-json.md")
	want := jsonReference(t)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, readFile(t, path)); diff != "" {
		t.Errorf("docs/verify-json.md is not what is printed; run go test ./agent -run VerifyJSON -update (-want +have):\n%s", diff)
	}
}

// TestVerifyJSONIsWhatIsPrinted holds the commands' output against the schema: no field that is not in it, and all that it requires.
func TestVerifyJSONIsWhatIsPrinted(t *testing.T) {
	s, stranger := newSigned(t), newSigned(t)
	dir := t.TempDir()
	good := write(t, dir+"/good.yaml", s.policy("good", s.publicKey))
	bad := write(t, dir+"/bad.yaml", s.policy("bad", stranger.publicKey))
	attested := write(t, dir+"/attested.yaml", s.policy("attested", s.publicKey)+"    attestations: [{name: scan, predicateType: vuln}]\n")
	config, _ := newNode(t, map[string]string{"a.yaml": static("shut", "**", "fail")})
	test := func(more ...string) []string { return append([]string{"policy", "test", "--image", s.image}, more...) }
	documented := schema(fields("", reflect.TypeFor[explanation]()), "")
	seen := map[string]bool{}
	for name, args := range map[string][]string{
		"allowed":        test("--policy", good),
		"refused":        test("--policy", good, "--policy", bad, "--policy", attested),
		"no match":       {"policy", "test", "--policy", good, "--image", "registry.example/x@" + s.digest},
		"could not tell": test("--policy", dir+"/none"),
		"verify":         {"verify", "--config", config, s.image},
		"a namespace":    {"verify", "--config", config, "--namespace", "kube-system", s.image},
		"not an image":   {"verify", "--config", config, "/x.tar"},
	} {
		out, _, _ := command(t, append(args, "-o", "json")...)
		var printed any
		if err := json.Unmarshal([]byte(out), &printed); err != nil {
			t.Fatalf("%s: %v in %s", name, err, out)
		}
		conforms(t, name, printed, documented, seen)
	}
	for _, path := range []string{"verdict.policies[].authorities[].signers[].keyFingerprint", "verdict.noMatch", "error"} {
		if !seen[path] {
			t.Errorf("%s was never printed", path)
		}
	}
}

// conforms checks a value against the parts of JSON Schema that the page uses.
func conforms(t *testing.T, at string, v any, s map[string]any, seen map[string]bool) {
	t.Helper()
	conformsAt(t, at, "", v, s, seen)
}

func conformsAt(t *testing.T, of, path string, v any, s map[string]any, seen map[string]bool) {
	t.Helper()
	seen[path] = true
	switch v := v.(type) {
	case map[string]any:
		properties, ok := s["properties"].(map[string]any)
		if !ok {
			t.Errorf("%s: %s is an object, documented as %v", of, path, s["type"])
			return
		}
		for _, name := range s["required"].([]string) {
			if _, ok := v[name]; !ok {
				t.Errorf("%s: %s.%s is missing", of, path, name)
			}
		}
		for name, value := range v {
			below, ok := properties[name].(map[string]any)
			if !ok {
				t.Errorf("%s: %s.%s is not documented", of, path, name)
				continue
			}
			conformsAt(t, of, strings.TrimPrefix(path+"."+name, "."), value, below, seen)
		}
	case []any:
		items, ok := s["items"].(map[string]any)
		if !ok {
			t.Errorf("%s: %s is an array, documented as %v", of, path, s["type"])
			return
		}
		for _, item := range v {
			conformsAt(t, of, path+"[]", item, items, seen)
		}
	default:
		kinds := map[string]string{"string": "string", "bool": "boolean", "float64": "integer", "<nil>": "null"}
		kind := kinds[fmt.Sprintf("%T", v)]
		if types, ok := s["type"].([]string); kind != s["type"] && (!ok || !slices.Contains(types, kind)) {
			t.Errorf("%s: %s is %v, documented as %v", of, path, v, s["type"])
		}
		if values, ok := s["enum"].([]string); ok && !slices.Contains(values, v.(string)) {
			t.Errorf("%s: %s is %v, documented as one of %v", of, path, v, values)
		}
	}
}
