package config

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const head = "apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\n"

// pemKey is somebody's public key.
const pemKey = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEBI9e0YBvrSiWykmUvJV91hj82o3T
DXoFe07ohVkMywQYyXgsk5quGYDF8O6LBCpeukkjzxyY+S9eH5fYSovr2g==
-----END PUBLIC KEY-----
`

func TestDefaultsAreValid(t *testing.T) {
	c, err := Parse([]byte(head))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c); diff != "" {
		t.Errorf("a file that sets nothing differs from the defaults (-want +got):\n%s", diff)
	}
	if c.Mode != Enforce || c.Policies.NoMatch != "deny" {
		t.Errorf("the defaults are mode %s, noMatch %s: they must be closed", c.Mode, c.Policies.NoMatch)
	}
}

func TestEverySettingIsRead(t *testing.T) {
	c, err := Parse([]byte(head + `
mode: observe
node: n1
listen: /run/a.sock
runtime: {endpoint: unix:///run/b.sock, type: cri, namespace: ns, unknownMethods: forward}
policies: {dir: /p, noMatch: warn}
clusterPolicies:
  dir: /c
  publicKey: |
    -----BEGIN PUBLIC KEY-----
    MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEBI9e0YBvrSiWykmUvJV91hj82o3T
    DXoFe07ohVkMywQYyXgsk5quGYDF8O6LBCpeukkjzxyY+S9eH5fYSovr2g==
    -----END PUBLIC KEY-----
namespaces: {enforce: [prod, "team-*"], exempt: [kube-system], file: /n}
sandbox: {image: registry.example/pause:1, refuse: true}
trust: {dir: /t, cacheDir: /u, refresh: 3h, updatePublicGood: false, roots: [{name: corp, file: /r.json}]}
verification: {createTimeout: 5s, pullTimeout: 6s}
cache: {size: 7, allowTTL: 8m, denyTTL: 9s}
registry: {hostsDir: "/h:/i", dockerConfig: /d}
evidence: {dir: /e, size: 2}
audit: {dir: /a, maxFileSize: 1Mi, maxFiles: 3, required: true}
http: {address: "[::1]:1"}
log: {format: text, level: debug}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		APIVersion: APIVersion, Kind: Kind, Mode: Observe, Node: "n1", Listen: "/run/a.sock",
		Runtime:         Runtime{"/run/b.sock", "cri", "ns", "forward"},
		Policies:        Policies{"/p", "warn"},
		ClusterPolicies: ClusterPolicies{"/c", pemKey},
		Namespaces:      Namespaces{Scope{Globs: Globs{"prod", "team-*"}}, Globs{"kube-system"}, "/n"},
		Sandbox:         Sandbox{"registry.example/pause:1", true},
		Trust:           Trust{"/t", "/u", Duration(3 * time.Hour), false, RootFiles{{"corp", "/r.json"}}},
		Verification:    Verification{Duration(5 * time.Second), Duration(6 * time.Second)},
		Cache:           Cache{7, Duration(8 * time.Minute), Duration(9 * time.Second)},
		Registry:        Registry{"/h:/i", "/d"},
		Evidence:        Evidence{"/e", 2},
		Audit:           Audit{"/a", 1 << 20, 3, true},
		HTTP:            HTTP{"[::1]:1"},
		Log:             Log{"text", "debug"},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestFaultsAreNamed(t *testing.T) {
	for name, tc := range map[string]struct{ yaml, want string }{
		"empty file":                       {"", "the file is empty"},
		"no apiVersion":                    {"kind: NodeConfig\n", "apiVersion, kind"},
		"another kind":                     {"apiVersion: cosentry.dev/v1alpha1\nkind: Pod\n", `"Pod"`},
		"unknown key, with its line":       {head + "modee: enforce\n", "line 3: unknown setting modee"},
		"unknown nested key":               {head + "audit:\n  require: true\n", "line 4: unknown setting require"},
		"key in another case":              {head + "Mode: observe\n", "unknown setting Mode"},
		"repeated key":                     {head + "mode: enforce\nmode: observe\n", "line 4: mapping key \"mode\" already defined"},
		"second document":                  {head + "---\n" + head, "more than one document"},
		"a relative folder of the cluster": {head + "clusterPolicies: {dir: cluster}\n", "clusterPolicies.dir: \"cluster\" is not an absolute path"},
		"a key that nothing asks for":      {head + "clusterPolicies:\n  publicKey: |\n    " + strings.ReplaceAll(pemKey, "\n", "\n    ") + "\n", "clusterPolicies.publicKey: is of no use"},
		"a key that is no key":             {head + "clusterPolicies: {dir: /c, publicKey: /etc/key.pub}\n", "clusterPolicies.publicKey: \"/etc/key.pub\" is not part of a PEM block"},
		"a private key":                    {head + "clusterPolicies:\n  dir: /c\n  publicKey: |\n    -----BEGIN EC PRIVATE KEY-----\n    AAAA\n    -----END EC PRIVATE KEY-----\n", "clusterPolicies.publicKey"},
		"mode misspelt":                    {head + "mode: enforced\n", `mode: "enforced" is not one of enforce, observe`},
		"noMatch misspelt":                 {head + "policies: {noMatch: Deny}\n", "policies.noMatch"},
		"relative path":                    {head + "listen: c.sock\n", "listen: \"c.sock\" is not an absolute path"},
		"socket is the runtime's":          {head + "listen: /run/containerd/../containerd/containerd.sock\n", "runtime's own socket"},
		"socket is root's to ask at":       {head + "listen: /run/cosentry/agent.sock\n", "listen: /run/cosentry/agent.sock is where the agent tells root"},
		"runtime is the agent itself":      {head + "runtime: {endpoint: /run/cosentry/agent.sock}\n", "runtime.endpoint: /run/cosentry/agent.sock is where"},
		"create timeout beyond kubelet's":  {head + "verification: {createTimeout: 2m}\n", "verification.createTimeout"},
		"no time to verify":                {head + "verification: {pullTimeout: 0s}\n", "verification.pullTimeout"},
		"a number is no duration":          {head + "cache: {allowTTL: 5}\n", "line 3: \"5\" is not a duration"},
		"all faults at once: duration":     {head + "cache: {allowTTL: 5}\nfoo: 1\n", "unknown setting foo"},
		"cache without room":               {head + "cache: {size: 0}\n", "cache.size"},
		"no evidence to keep":              {head + "evidence: {size: 0}\n", "evidence.size"},
		"audit file too small":             {head + "audit: {maxFileSize: 1Ki}\n", "audit.maxFileSize"},
		"a size with an unknown unit":      {head + "audit: {maxFileSize: 1MB}\n", "is not a size"},
		"a size that overflows":            {head + "audit: {maxFileSize: 99999999999Gi}\n", "is not a size"},
		"one audit file cannot rotate":     {head + "audit: {maxFiles: 1}\n", "audit.maxFiles"},
		"metrics for the world":            {head + "http: {address: 0.0.0.0:9477}\n", "not a loopback address"},
		"metrics on every address":         {head + "http: {address: \":9477\"}\n", "not a loopback address"},
		"metrics on a name":                {head + "http: {address: example.com:9477}\n", "not a loopback address"},
		"metrics on an impossible port":    {head + "http: {address: 127.0.0.1:70000}\n", "not a port"},
		"log level misspelt":               {head + "log: {level: verbose}\n", "log.level"},
		"unknown runtime type":             {head + "runtime: {type: docker}\n", "runtime.type"},
		"value of the wrong type":          {head + "cache: {size: many}\n", "line 3"},
		"not YAML":                         {"{", "yaml"},
		"a list where settings should be":  {"- a\n", "line 1: a list stands where a group of settings"},
		"a list for a group":               {head + "log: [json]\n", "line 3: a list stands where a group of settings, one a line belongs"},
		"text for a group":                 {head + "log: json\n", `line 3: "json" stands where a group of settings, one a line belongs`},
		"a group for text":                 {head + "node: {a: b}\n", "line 3: a group of settings stands where text belongs"},
		"a list for the mode":              {head + "mode: [enforce]\n", "line 3: a list stands where text belongs"},
		"text for true or false":           {head + "audit: {required: always}\n", `line 3: "always" stands where true or false belongs`},
		"a fraction for a number":          {head + "cache: {size: 1.5}\n", `line 3: "1.5" is not a whole number`},
		"a list for a duration":            {head + "cache: {allowTTL: [1h]}\n", "line 3"},
		"enforce misspelt":                 {head + "namespaces: {enforce: labeled}\n", `line 3: namespaces.enforce: "labeled" is not one of all, labelled, or a list`},
		"enforce in a group":               {head + "namespaces: {enforce: {a: b}}\n", "a group of settings stands where a word or a list belongs"},
		"a name where a list belongs":      {head + "namespaces: {enforce: prod}\n", "or a list such as"},
		"a word in a list":                 {head + "namespaces: {enforce: [all]}\n", "are not written in a list"},
		"nothing is judged":                {head + "namespaces: {enforce: []}\n", "an empty list would judge nothing"},
		"a list in a list":                 {head + "namespaces: {enforce: [[a]]}\n", "line 3: a list stands where text belongs"},
		"everything is exempt":             {head + "namespaces: {exempt: [\"**\"]}\n", "exempts every namespace"},
		"text for a list":                  {head + "namespaces: {exempt: kube-system}\n", "stands where a list belongs"},
		"a glob that matches nothing":      {head + "namespaces: {exempt: [Kube-System]}\n", `namespaces.exempt: "Kube-System" matches no name`},
		"a glob of another language":       {head + "namespaces: {enforce: [\"team-?\"]}\n", `namespaces.enforce: "team-?" matches no name`},
		"an empty glob":                    {head + "namespaces: {enforce: [\"\"]}\n", `"" matches no name`},
		"a pod in place of a namespace":    {head + "namespaces: {exempt: [a/b]}\n", "matches no name"},
		"namespaces file by relative path": {head + "namespaces: {file: n.yaml}\n", "namespaces.file"},
		"trust folder by relative path":    {head + "trust: {dir: t}\n", "trust.dir"},
		"trust refreshed without a pause":  {head + "trust: {refresh: 1s}\n", "trust.refresh: 1s is not between 1m0s and 168h0m0s"},
		"a root without a name":            {head + "trust: {roots: [{file: /a}]}\n", "trust.roots: \"\" is no name"},
		"a root without a file":            {head + "trust: {roots: [{name: a}]}\n", "trust.roots: \"\" is not an absolute path"},
		"two roots of one name":            {head + "trust: {roots: [{name: a, file: /a}, {name: a, file: /b}]}\n", "named twice"},
		"a root with an unknown key":       {head + "trust: {roots: [{name: a, path: /a}]}\n", "line 3: unknown setting path"},
		"text for roots":                   {head + "trust: {roots: /a}\n", "stands where a list belongs"},
		"several faults, each with a name": {head + "mode: x\nnode: \"\"\n", "node: must not be empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(tc.yaml))
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %q does not say %q", err, tc.want)
			}
			for _, word := range []string{"config.", "!!", "unmarshal"} {
				if strings.Contains(err.Error(), word) {
					t.Errorf("error %q speaks of the program, not of the file: %s", err, word)
				}
			}
		})
	}
}

func TestFileThatIsNotThere(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a named file that does not exist was passed over")
	}
	c, err := Load("")
	if err != nil || c.Mode != Enforce {
		t.Errorf("no file: %v, %v", c.Mode, err)
	}
}

// TestWhatCannotBeReadIsNotFaulty tells a file that needs mending from one that is not there.
func TestWhatCannotBeReadIsNotFaulty(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("mode: enforce\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{bad: true, pipe: false, dir: false, filepath.Join(dir, "none"): false} {
		_, err := Load(path)
		var faulty *FaultyError
		if err == nil || errors.As(err, &faulty) != want || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v (faulty: %v)", path, err, !want)
		}
	}
}

func TestFileBeyondItsBound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, append([]byte(head), bytes.Repeat([]byte("#"), maxSize)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(head))
	f.Add([]byte(head + "mode: observe\naudit: {maxFileSize: 64Mi}\n"))
	f.Add([]byte(head + "a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			return
		}
		if err := c.validate(); err != nil {
			t.Errorf("accepted and invalid: %v", err)
		}
	})
}

var update = flag.Bool("update", false, "write docs/settings.md anew")

// TestSettingsAreDocumented keeps docs/settings.md the one place where every setting is described, with
// its default as the code has it.
func TestSettingsAreDocumented(t *testing.T) {
	const path = "../../docs/settings.md"
	have, err := os.ReadFile(path)
	if err != nil && !*update {
		t.Fatal(err)
	}
	want := Reference()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(have)); diff != "" {
		t.Errorf("docs/settings.md is not what the settings are; run go test ./agent/config -update (-want +have):\n%s", diff)
	}
}

func TestEverySettingIsDescribed(t *testing.T) {
	names := map[string]bool{}
	for name := range settings(Default()) {
		names[name] = true
		if described[name] == "" {
			t.Errorf("setting %s is not described", name)
		}
	}
	for name := range described {
		if !names[name] {
			t.Errorf("%s is described and no setting", name)
		}
	}
}
