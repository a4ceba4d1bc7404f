package rules_test

import (
	"strings"
	"testing"

	"github.com/cosentry/cosentry/verify/rules"
)

const compliant = "package sigstore\nisCompliant { input.ok == true }\n"

func TestCheckTakesARuleOfEachKind(t *testing.T) {
	for name, c := range map[string]struct{ kind, text string }{
		"cue":                           {rules.CUE, "predicateType: \"x\"\npredicate: scanner: uri: string"},
		"cue with a package and list":   {rules.CUE, "package sigstore\nimport \"list\"\nauthorityMatches: a: signatures: list.MinItems(1)"},
		"cue with an embedded schema":   {rules.CUE, "#Want: {a: int}\n#Want"},
		"rego":                          {rules.Rego, compliant},
		"rego by default and condition": {rules.Rego, "package sigstore\ndefault isCompliant = false\nisCompliant { input.ok }"},
		"rego with messages":            {rules.Rego, "package sigstore\nisCompliant[response] { response := {\"result\": true, \"error\": \"\"} }"},
		"rego of version 1":             {rules.Rego, "package sigstore\nimport rego.v1\nisCompliant if input.ok == true"},
		"rego with a clock":             {rules.Rego, "package sigstore\nisCompliant { time.now_ns() > 0 }"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := rules.Check(c.kind, c.text); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCheckRefusesARuleThatCannotBeJudged(t *testing.T) {
	for name, c := range map[string]struct{ kind, text, want string }{
		"of another kind":                   {"cel", "true", "of type cue or rego"},
		"of no kind":                        {"", "true", "of type cue or rego"},
		"empty cue":                         {rules.CUE, " \n\t", "empty"},
		"empty rego":                        {rules.Rego, "", "empty"},
		"too long":                          {rules.CUE, "a: 1 //" + strings.Repeat("x", rules.MaxText), "length of a rule"},
		"cue with comments alone":           {rules.CUE, "// predicate: 1", "demands nothing"},
		"cue with a package alone":          {rules.CUE, "package sigstore", "demands nothing"},
		"cue with a definition alone":       {rules.CUE, "#Want: {a: 1}", "demands nothing"},
		"cue with a hidden field alone":     {rules.CUE, "_want: {a: 1}", "demands nothing"},
		"cue that is no cue":                {rules.CUE, "a: {", "does not compile"},
		"cue with an unknown name":          {rules.CUE, "a: b", "does not compile"},
		"cue that contradicts itself":       {rules.CUE, "a: 1 & 2", "does not compile"},
		"cue with a module of another host": {rules.CUE, "import \"example.com/x\"\na: x.y", "does not compile"},
		"rego that is no rego":              {rules.Rego, "package sigstore\nisCompliant {", "does not compile"},
		"rego with comments alone":          {rules.Rego, "# package sigstore", ""},
		"rego with an unsafe variable":      {rules.Rego, "package sigstore\nisCompliant { x > y }", "does not compile"},
		"rego with an unknown function":     {rules.Rego, "package sigstore\nisCompliant { no.such(1) }", "does not compile"},
		"rego of another package":           {rules.Rego, "package signature\nisCompliant { true }", "package must be sigstore"},
		"rego of a package below":           {rules.Rego, "package sigstore.more\nisCompliant { true }", "package must be sigstore"},
		"rego without the rule":             {rules.Rego, "package sigstore\nallow { true }", "must define isCompliant"},
	} {
		t.Run(name, func(t *testing.T) {
			err := rules.Check(c.kind, c.text)
			if err == nil {
				t.Fatal("taken")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want %q", err, c.want)
			}
			if strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("an error on several lines: %q", err)
			}
		})
	}
}

// A rule that asks a server decides by what the server says, and tells it what runs here.
func TestCheckRefusesARuleThatReachesOut(t *testing.T) {
	in := func(body string) string { return "package sigstore\nisCompliant { " + body + " }" }
	for name, c := range map[string]struct{ kind, text, want string }{
		"http.send":                     {rules.Rego, in(`http.send({"method": "get", "url": "http://127.0.0.1"}).status_code == 200`), "http.send"},
		"http.send as a replacement":    {rules.Rego, in(`count([1]) == 1 with count as http.send`), "http.send"},
		"http.send in another rule":     {rules.Rego, "package sigstore\nisCompliant { ask }\nask { http.send(input.q) }", "http.send"},
		"http.send in a comprehension":  {rules.Rego, in(`count([r | r := http.send(input.q[_])]) > 0`), "http.send"},
		"http.send in a default's else": {rules.Rego, "package sigstore\nisCompliant { false } else = x { x := http.send(input) }", "http.send"},
		"http.send in brackets":         {rules.Rego, in(`http["send"]({"method": "get"})`), ""},
		"name lookup":                   {rules.Rego, in(`net.lookup_ip_addr("example.com")`), "net.lookup_ip_addr"},
		"the agent's environment":       {rules.Rego, in(`opa.runtime().env.HOME == "/root"`), "opa.runtime"},
		"a schema's references":         {rules.Rego, in(`json.match_schema(input, {"$ref": "http://127.0.0.1/"})[0]`), "json.match_schema"},
		"a schema's references, alone":  {rules.Rego, in(`json.verify_schema({"$ref": "file:///etc/hostname"})[0]`), "json.verify_schema"},
		"cue that runs a command":       {rules.CUE, "import \"tool/exec\"\na: exec.Run & {cmd: \"id\"}", "tool/exec"},
		"cue that asks a server":        {rules.CUE, "import h \"tool/http\"\na: h.Get & {url: \"http://127.0.0.1\"}", "tool/http"},
		"cue that reads a file":         {rules.CUE, "import \"tool/file\"\na: file.Read & {filename: \"/etc/hostname\"}", "tool/file"},
		"cue that embeds a file":        {rules.CUE, "@extern(embed)\npackage p\na: _ @embed(file=\"x.json\")", "@extern"},
	} {
		t.Run(name, func(t *testing.T) {
			err := rules.Check(c.kind, c.text)
			if err == nil {
				t.Fatal("taken")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want %q", err, c.want)
			}
		})
	}
}
