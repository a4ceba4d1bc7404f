package config

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const head = "apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\n"

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
		Runtime:      Runtime{"/run/b.sock", "cri", "ns", "forward"},
		Policies:     Policies{"/p", "warn"},
		Verification: Verification{Duration(5 * time.Second), Duration(6 * time.Second)},
		Cache:        Cache{7, Duration(8 * time.Minute), Duration(9 * time.Second)},
		Registry:     Registry{"/h:/i", "/d"},
		Evidence:     Evidence{"/e", 2},
		Audit:        Audit{"/a", 1 << 20, 3, true},
		HTTP:         HTTP{"[::1]:1"},
		Log:          Log{"text", "debug"},
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
		"mode misspelt":                    {head + "mode: enforced\n", `mode: "enforced" is not one of enforce, observe`},
		"noMatch misspelt":                 {head + "policies: {noMatch: Deny}\n", "policies.noMatch"},
		"relative path":                    {head + "listen: c.sock\n", "listen: \"c.sock\" is not an absolute path"},
		"socket is the runtime's":          {head + "listen: /run/containerd/../containerd/containerd.sock\n", "runtime's own socket"},
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
		"a list where settings should be":  {"- a\n", "line 1"},
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
	want := reference(t)
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

func reference(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	b.WriteString(referenceHead)
	seen := map[string]bool{}
	d := Default()
	d.Node = "the host name"
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		for i := range v.NumField() {
			name := prefix + v.Type().Field(i).Tag.Get("yaml")
			f := v.Field(i)
			if f.Kind() == reflect.Struct {
				walk(name+".", f)
				continue
			}
			text, ok := described[name]
			if !ok {
				t.Errorf("setting %s is not described", name)
			}
			seen[name] = true
			fmt.Fprintf(&b, "| `%s` | `%v` | %s |\n", name, f.Interface(), text)
		}
	}
	walk("", reflect.ValueOf(d))
	for name := range described {
		if !seen[name] {
			t.Errorf("%s is described and no setting", name)
		}
	}
	b.WriteString(referenceTail)
	return b.String()
}

const referenceHead = `# Settings

cosentry reads one YAML document, by default from ` + "`/etc/cosentry/config.yaml`" + `. Reading is strict: an unknown or
repeated key, a wrong type and a value out of bounds are errors with line or field, and the agent does not start
with them. Durations are written ` + "`30s`, `5m`, `1h`" + `; sizes are bytes, or ` + "`512Ki`, `64Mi`, `1Gi`" + `. Settings are
read at start; policies are read again whenever they change.

This page is made from the code by ` + "`go test ./agent/config -update`" + ` and checked by the same test.

| setting | default | meaning |
|---|---|---|
`

const referenceTail = `
The smallest file says what it is and nothing else:

` + "```yaml\n" + head + "```\n" + `
A first week on a node that runs containerd:

` + "```yaml\n" + head + `mode: observe            # record what would be refused, refuse nothing
policies:
  dir: /etc/cosentry/policies
  noMatch: deny
` + "```\n"

var described = map[string]string{
	"apiVersion":                 "Required, as written.",
	"kind":                       "Required, as written.",
	"mode":                       "`enforce` refuses what policy refuses. `observe` records it and lets it through.",
	"node":                       "This node's name in audit records.",
	"listen":                     "The socket that kubelet is pointed at. Made with mode 0660 for root, unless systemd hands one over. Keep the runtime's name in the file name: kubelet picks its way of collecting stats by the suffix `crio.sock`.",
	"runtime.endpoint":           "The runtime's own socket. `unix://` in front is taken off.",
	"runtime.type":               "`containerd`: images are looked up in its image store. `cri`: CRI's ImageStatus is all there is, and what it does not say is refused. `auto`: ask the runtime for its name.",
	"runtime.namespace":          "The containerd namespace of CRI's images.",
	"runtime.unknownMethods":     "CRI methods that this build does not know: `refuse` answers Unimplemented, as an older runtime would; `forward` passes them on unjudged. `RestorePod` is never passed on.",
	"policies.dir":               "Folder of ClusterImagePolicy files (`.yaml`, `.yml`, `.json`; not its subfolders). Read again when it changes, on SIGHUP, and every minute.",
	"policies.noMatch":           "What happens to an image that no policy matches: `deny`, `warn` (let through, recorded as a warning) or `allow`.",
	"verification.createTimeout": "How long judging one image of a CreateContainer may take: 100ms to 1m50s, below kubelet's 2 minutes.",
	"verification.pullTimeout":   "How long judging a PullImage may take, the pull itself not counted: 100ms to 10m.",
	"cache.size":                 "Verdicts kept in memory, 1 to 1048576; the one used longest ago goes first.",
	"cache.allowTTL":             "How long an allow is kept: 1s to 168h. Verdicts also end with the policies under which they were reached.",
	"cache.denyTTL":              "How long a refusal or a warning is kept: 1s to 1h. So long may it take until a new signature counts.",
	"registry.hostsDir":          "containerd's `config_path`: folders of `<host>/hosts.toml`, several separated by `:`. Signatures are fetched through the same mirrors, with the same CAs and client certificates, as the image. Empty: none.",
	"registry.dockerConfig":      "The node's docker config file, used after the credentials in the request. May be missing. Empty: none. Credential helpers are not run.",
	"evidence.dir":               "Folder in which signatures that were accepted are kept, one OCI image layout an image, for when a registry is away or wants credentials that came only with the pull. They are judged again at every use. Empty: none are kept.",
	"evidence.size":              "Images whose signatures are kept, 1 to 65536; at most 1 MiB each, a few KiB as a rule.",
	"audit.dir":                  "Folder of the audit log, made with mode 0700.",
	"audit.maxFileSize":          "Size at which a new audit file is begun, at least 64Ki.",
	"audit.maxFiles":             "Audit files kept, the current one included: 2 to 1000. The oldest is removed at rotation.",
	"audit.required":             "`true`: a call whose record cannot be written (disk full) is refused. `false`: it goes on, the record goes to the agent's log and waits in memory (1024 records) for the disk, and a metric counts it.",
	"http.address":               "Loopback address of `/metrics`, `/healthz`, `/readyz` and `/status`. Empty: not served, and `cosentry status` has nobody to ask.",
	"log.format":                 "`json` or `text`, on standard error.",
	"log.level":                  "`debug`, `info`, `warn` or `error`.",
}
