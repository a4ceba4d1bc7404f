package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rules"
)

const (
	policyDoc      = "../docs/policy.md"
	publicGoodRoot = "../verify/trustroot/publicgood/root.json"
)

// block is a fenced block of a page, with the last line of text before it.
type block struct {
	line             int
	lang, said, text string
}

func blocks(t *testing.T, path string) []block {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []block
	var open *block
	said, indent := "", ""
	for i, line := range strings.Split(string(page), "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case open == nil && strings.HasPrefix(trimmed, "```"):
			open = &block{line: i + 1, lang: strings.TrimPrefix(trimmed, "```"), said: said}
			indent = line[:len(line)-len(strings.TrimLeft(line, " "))]
		case open != nil && trimmed == "```":
			all = append(all, *open)
			open, said = nil, ""
		case open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		case trimmed != "":
			said = trimmed
		}
	}
	if open != nil {
		t.Fatalf("%s:%d: the block has no end", path, open.line)
	}
	return all
}

// filled puts something real in place of what an example leaves to its reader.
func filled(t *testing.T, text string) string {
	t.Helper()
	rootJSON, err := os.ReadFile(publicGoodRoot)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for words, real := range map[string][]byte{
		"<base64 of root.json>":                rootJSON,
		"<base64 of the PEM key>":              public,
		"<base64 of the PEM chain, root last>": chain,
	} {
		text = strings.ReplaceAll(text, words, base64.StdEncoding.EncodeToString(real))
	}
	return text
}

// TestPolicyExamplesAreRead: whoever copies an example has a policy, or settings, that the agent takes.
func TestPolicyExamplesAreRead(t *testing.T) {
	policies, settings := 0, 0
	for _, b := range blocks(t, policyDoc) {
		if b.lang != "yaml" {
			continue
		}
		text := filled(t, b.text)
		if strings.Contains(text, "kind: NodeConfig") {
			settings++
			if _, err := config.Parse([]byte(text)); err != nil {
				t.Errorf("%s:%d: %v", policyDoc, b.line, err)
			}
			continue
		}
		policies++
		found, err := policy.Parse("example", []byte(text))
		if err != nil {
			t.Errorf("%s:%d: %v", policyDoc, b.line, err)
		}
		if n := strings.Count(text, "\nkind: "); len(found.Policies)+len(found.TrustRoots) != n {
			t.Errorf("%s:%d: %d documents, %d were read", policyDoc, b.line, n, len(found.Policies)+len(found.TrustRoots))
		}
	}
	if policies < 9 || settings < 4 {
		t.Errorf("%d examples of policies and %d of settings were found: is the page read as it is written?", policies, settings)
	}
}

// TestRuleExamplesDecideAsThePageSays asks each rule about the inputs that follow it.
func TestRuleExamplesDecideAsThePageSays(t *testing.T) {
	var rule block
	asked := map[string]int{}
	for _, b := range blocks(t, policyDoc) {
		switch {
		case b.lang == rules.CUE || b.lang == rules.Rego:
			rule = b
			if err := rules.Check(b.lang, b.text); err != nil {
				t.Errorf("%s:%d: %v", policyDoc, b.line, err)
			}
			continue
		case b.lang != "json" || !strings.HasPrefix(b.said, "Accepts") && b.said != "Refuses:":
			continue
		}
		warning, err := rules.Evaluate(t.Context(), "the example", rule.lang, rule.text, []byte(b.text))
		var refused *rules.Refused
		said := "Accepts:"
		switch {
		case errors.As(err, &refused):
			said = "Refuses:"
		case err != nil:
			t.Fatalf("%s:%d: %v", policyDoc, b.line, err)
		case warning != "":
			said = "Accepts, with a warning:"
		}
		if said != b.said {
			t.Errorf("%s:%d: the page says %q, the rule %q (%v %s)", policyDoc, b.line, b.said, said, err, warning)
		}
		asked[said]++
	}
	if asked["Accepts:"] < 5 || asked["Refuses:"] < 5 || asked["Accepts, with a warning:"] < 2 {
		t.Errorf("inputs that were asked about: %v; is the page read as it is written?", asked)
	}
}

// TestTheResultExampleHasTheNamesOfAResult: what rules are told to look for is what they are given.
func TestTheResultExampleHasTheNamesOfAResult(t *testing.T) {
	for _, b := range blocks(t, policyDoc) {
		if b.lang != "json" || !strings.Contains(b.text, "authority") || strings.HasPrefix(b.said, "Accepts") || b.said == "Refuses:" {
			continue
		}
		var result rules.Result
		dec := json.NewDecoder(strings.NewReader(b.text))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&result); err != nil {
			t.Fatalf("%s:%d: %v", policyDoc, b.line, err)
		}
		if len(result.AuthorityMatches) != 3 || result.Metadata == nil || len(result.Config) != 1 {
			t.Errorf("%s:%d: %+v", policyDoc, b.line, result)
		}
		if diff := cmp.Diff(rules.Pod(), result.Type); diff != "" {
			t.Error(diff)
		}
		return
	}
	t.Error("the page has no such example")
}

// TestThePolicyPageNamesEveryField: a field that is read is one that is described.
func TestThePolicyPageNamesEveryField(t *testing.T) {
	page, err := os.ReadFile(policyDoc)
	if err != nil {
		t.Fatal(err)
	}
	// What Kubernetes' own shapes have, and what stands in sentences: in those it must be there, between quotes of code.
	described := map[string]bool{"items": true, "operator": true, "values": true}
	for _, name := range strings.Fields("apiVersion kind metadata status action message sha256sum signaturePullSecrets matchLabels matchExpressions oci tagPrefix " +
		"certificateAuthorities tLogs ctLogs timestampAuthorities uri certChain baseURL publicKey root mirror mirrorFS targets trustedRootTarget") {
		if !regexp.MustCompile("`[^`\n]*\\b" + name + "\\b[^`\n]*`|(?m)^ *(- )?\\{?" + name + ":").Match(page) {
			t.Errorf("%s does not name %s", policyDoc, name)
		}
		described[name] = true
	}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for _, span := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[1], -1) {
			for _, name := range regexp.MustCompile(`[A-Za-z0-9-]+`).FindAllString(span[1], -1) {
				described[name] = true
			}
		}
	}
	for _, path := range []string{"authority.go", "fields.go", "key.go", "keyless.go", "parse.go", "rule.go", "selector.go", "trustroot.go"} {
		source, err := os.ReadFile("../verify/policy/" + path)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range regexp.MustCompile(`r\.object\([^\n]*?,((?:\s*"[^"]+",?)+)`).FindAllSubmatch(source, -1) {
			for _, field := range regexp.MustCompile(`"([^"]+)"`).FindAllSubmatch(call[1], -1) {
				if !described[string(field[1])] {
					t.Errorf("%s reads %s, which no row of a table in %s describes", path, field[1], policyDoc)
				}
			}
		}
	}
}

// TestPolicyCheckWarnsOfARuleThatNamesAuthorities, because it asks for less than it seems to.
func TestPolicyCheckWarnsOfARuleThatNamesAuthorities(t *testing.T) {
	for _, b := range blocks(t, policyDoc) {
		if b.lang != rules.CUE || !strings.Contains(b.text, "authorityMatches") {
			continue
		}
		text := "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: p}\nspec:\n  images: [{glob: r.example/a}]\n" +
			"  authorities: [{static: {action: pass}}]\n  policy:\n    type: cue\n    data: |\n      " + strings.ReplaceAll(b.text, "\n", "\n      ") + "\n"
		found, err := policy.Parse("example", []byte(text))
		if err != nil {
			t.Fatalf("%s:%d: %v", policyDoc, b.line, err)
		}
		set, err := policy.NewSet(found)
		if err != nil {
			t.Fatal(err)
		}
		warned := false
		for _, w := range set.Warnings() {
			warned = warned || w.Field == "spec.policy.data" && strings.Contains(w.Text, "authorityMatches.builder")
		}
		if asks := strings.Contains(b.text, "list.Contains"); warned == asks {
			t.Errorf("%s:%d: it asks for authorities: %t, warned of: %t", policyDoc, b.line, asks, warned)
		}
	}
}

// TestNoPagePutsOff: what a page says is of this release. A page that sends its readers to one to come has them do by hand what the
// program does better, and is forgotten when that release is there.
func TestNoPagePutsOff(t *testing.T) {
	pages := 0
	for _, root := range []string{"../README.md", "../SECURITY.md", "../CONTRIBUTING.md", "../docs", "../deploy"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !slices.Contains([]string{".md", ".yaml", ".json"}, filepath.Ext(path)) {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			pages++
			for _, words := range putOff(string(text)) {
				t.Errorf("%s promises: %q", path, words)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if pages < 20 {
		t.Errorf("%d pages were found: are they looked for where they are?", pages)
	}
}

// TestWhatPutsOff: what the pages are searched for is found as people write it.
func TestWhatPutsOff(t *testing.T) {
	for text, found := range map[string]int{
		"There is no installer yet.":                                   1,
		"what it will do in a later\n   release":                       1,
		"# a later\n# release brings it":                               1,
		"A Future Release has it":                                      1,
		"**This part is not for\nproduction yet.**":                    1,
		"not yet ready for production":                                 1,
		"coming soon; will be in the next release":                     2,
		"fields may be added in later versions":                        0,
		"Kubernetes releases sign it; an older version is for a later": 0,
		"without an installer of packages; no release needs that":      0,
	} {
		if got := putOff(text); len(got) != found {
			t.Errorf("%q: found %q, want %d", text, got, found)
		}
	}
}

// putOff are the words of a text that promise something for later. Lines, and the signs that begin a comment, do not part them.
func putOff(text string) []string {
	text = strings.Join(strings.Fields(regexp.MustCompile(`(?m)^[ \t]*(#|//|>)+`).ReplaceAllString(text, " ")), " ")
	return regexp.MustCompile(`(?i)\b(later|future|coming|next) release\b|\bcoming soon\b|\bno installer\b|`+
		`\bnot (yet )?(ready )?for production\b|\bnot (yet )?production[- ]ready\b`).FindAllString(text, -1)
}
