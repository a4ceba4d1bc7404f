package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/cosentry/cosentry/agent/audit"
)

// command runs cosentry as main would and returns what it printed and its exit code.
func command(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	err := root.ExecuteContext(context.Background())
	var exit exitError
	switch {
	case errors.As(err, &exit):
		code = int(exit)
	case err != nil:
		code = exitUndecided
		errs.WriteString(err.Error())
	}
	return out.String(), errs.String(), code
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// newNode writes settings for a node whose policies are given, and an empty audit log.
func newNode(t *testing.T, policies map[string]string) (config, dir string) {
	t.Helper()
	dir = t.TempDir()
	for file, text := range policies {
		write(t, filepath.Join(dir, "policies", file), text)
	}
	return write(t, filepath.Join(dir, "config.yaml"), `
apiVersion: cosentry.dev/v1alpha1
kind: NodeConfig
policies: {dir: `+dir+`/policies}
registry: {hostsDir: "", dockerConfig: ""}
audit: {dir: `+dir+`/audit}
trust: {dir: `+dir+`, cacheDir: `+dir+`/trust, updatePublicGood: false}
`), dir
}

func static(name, glob, action string) string {
	return "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: " + name + "}\n" +
		"spec:\n  images: [{glob: \"" + glob + "\"}]\n  authorities: [{static: {action: " + action + "}}]\n"
}

func push(t *testing.T) (image, digest string) {
	t.Helper()
	server := httptest.NewServer(registry.New())
	t.Cleanup(server.Close)
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return ref.String(), h.String()
}

// TestVerifyExitCodes: 0 allowed, 1 refused, 2 could not tell, and the same word in JSON.
func TestVerifyExitCodes(t *testing.T) {
	image, digest := push(t)
	for name, tc := range map[string]struct {
		policies map[string]string
		image    string
		code     int
		decision string
		says     string
	}{
		"allowed":            {map[string]string{"a.yaml": static("open", "**", "pass")}, image, 0, "allow", digest},
		"refused":            {map[string]string{"a.yaml": static("shut", "**", "fail")}, image, 1, "deny", "fails every image"},
		"no policy matches":  {map[string]string{"a.yaml": static("other", "elsewhere.example/**", "pass")}, image, 1, "deny", "no policy matches"},
		"path":               {map[string]string{"a.yaml": static("open", "**", "pass")}, "/tmp/x.tar", 1, "deny", "it is a path"},
		"registry away":      {map[string]string{"a.yaml": static("open", "**", "pass")}, "127.0.0.1:1/app:1", 2, "error", "127.0.0.1:1"},
		"tag is not there":   {map[string]string{"a.yaml": static("open", "**", "pass")}, image + "x", 2, "error", "not found"},
		"policies broken":    {map[string]string{"a.yaml": "kind: Nonsense\n"}, image, 2, "error", "a.yaml"},
		"policies not there": {nil, image, 2, "error", "policies"},
	} {
		t.Run(name, func(t *testing.T) {
			config, _ := newNode(t, tc.policies)
			out, errs, code := command(t, "verify", "--config", config, tc.image)
			if code != tc.code || !strings.Contains(out, tc.says) {
				t.Errorf("exit %d, want %d and %q:\n%s%s", code, tc.code, tc.says, out, errs)
			}
			out, _, code = command(t, "verify", "--config", config, "-o", "json", tc.image)
			var e explanation
			if err := json.Unmarshal([]byte(out), &e); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			if code != tc.code || e.Decision != tc.decision {
				t.Errorf("exit %d, decision %q, want %d, %q", code, e.Decision, tc.code, tc.decision)
			}
		})
	}
}

func TestPolicyCheckExitCodes(t *testing.T) {
	dir := t.TempDir()
	good := write(t, filepath.Join(dir, "good.yaml"), static("good", "registry.example/**", "fail"))
	open := write(t, filepath.Join(dir, "open.yaml"), static("open", "**", "pass"))
	twin := write(t, filepath.Join(dir, "twin.yaml"), static("good", "registry.example/**", "fail"))
	pipe := filepath.Join(t.TempDir(), "pipe.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	bad := write(t, filepath.Join(dir, "bad.yaml"), "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: bad}\n"+
		"spec:\n  images: [{glob: \"**\"}]\n  authorities: [{keyless: {identities: []}}]\n")
	for name, tc := range map[string]struct {
		args []string
		code int
		says string
	}{
		"good":                     {[]string{good}, 0, "1 policy, revision"},
		"dangerous":                {[]string{open}, 0, "warning:"},
		"a field it cannot judge":  {[]string{bad}, 1, "bad.yaml:6: spec.authorities[0].keyless"},
		"two of one name":          {[]string{good, twin}, 1, "good"},
		"good and bad":             {[]string{good, bad}, 1, "keyless"},
		"a folder with a bad file": {[]string{dir}, 1, "bad.yaml"},
		"not there":                {[]string{filepath.Join(dir, "none.yaml")}, 2, "none.yaml"},
		"a pipe nobody writes to":  {[]string{pipe}, 2, "not a regular file"},
		"nothing named":            {nil, 2, "arg"},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, code := command(t, append([]string{"policy", "check"}, tc.args...)...)
			if code != tc.code || !strings.Contains(out+errs, tc.says) {
				t.Errorf("exit %d, want %d and %q:\n%s%s", code, tc.code, tc.says, out, errs)
			}
		})
	}
}

func TestAuditCommands(t *testing.T) {
	config, dir := newNode(t, nil)
	log, err := audit.Open(audit.Options{Dir: filepath.Join(dir, "audit"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{"registry.example/one:1", "registry.example/two:1\x1b[2J"} {
		if err := log.Append(audit.Record{Action: audit.ActionPull, Decision: audit.DecisionDeny, Image: image}); err != nil {
			t.Fatal(err)
		}
	}
	head := log.Head()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}

	if out, _, code := command(t, "audit", "verify", "--config", config, "--head", head.String()); code != 0 || !strings.Contains(out, head.String()) {
		t.Errorf("intact log: exit %d\n%s", code, out)
	}
	if out, _, code := command(t, "audit", "verify", "--config", config, "--head", "1:"+strings.Repeat("0", 64)); code != 1 || !strings.Contains(out, "BROKEN") {
		t.Errorf("another head: exit %d\n%s", code, out)
	}
	if _, errs, code := command(t, "audit", "verify", "--config", config, "--head", "nonsense"); code != 2 {
		t.Errorf("no head at all: exit %d\n%s", code, errs)
	}
	out, _, code := command(t, "audit", "tail", "--config", config)
	if code != 0 || !strings.Contains(out, "registry.example/one:1") || strings.Contains(out, "\x1b") {
		t.Errorf("tail: exit %d\n%q", code, out)
	}
	out, _, _ = command(t, "audit", "tail", "--config", config, "-n", "1", "-o", "json")
	var rec audit.Record
	if err := json.Unmarshal([]byte(out), &rec); err != nil || !strings.HasPrefix(rec.Image, "registry.example/two:1") {
		t.Errorf("tail -o json: %v in %s", err, out)
	}
	if _, errs, code := command(t, "audit", "tail", "--config", config, "-o", "yaml"); code != 2 || !strings.Contains(errs, "table, json") {
		t.Errorf("unknown output: exit %d\n%s", code, errs)
	}

	path := filepath.Join(dir, "audit", "audit.jsonl")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, strings.Replace(string(data), "one:1", "one:2", 1))
	if out, _, code := command(t, "audit", "verify", "--config", config); code != 1 || !strings.Contains(out, "audit.jsonl") {
		t.Errorf("edited log: exit %d\n%s", code, out)
	}
}

func TestSettingsThatCannotBeReadStopEveryCommand(t *testing.T) {
	config := write(t, filepath.Join(t.TempDir(), "c.yaml"), "apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\nmode: off\n")
	for _, args := range [][]string{{"run"}, {"verify", "app:1"}, {"status"}, {"audit", "verify"}} {
		if _, errs, code := command(t, append(args, "--config", config)...); code != 2 || !strings.Contains(errs, "mode") {
			t.Errorf("%v: exit %d\n%s", args, code, errs)
		}
	}
}

// TestConfigCheckExitCodes: 0 good, 1 faulty, 2 unreadable, so that a script can check before it restarts.
func TestConfigCheckExitCodes(t *testing.T) {
	dir := t.TempDir()
	head := "apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\n"
	good := write(t, filepath.Join(dir, "good.yaml"), head+"mode: observe\n")
	bad := write(t, filepath.Join(dir, "bad.yaml"), head+"modee: observe\ncache: {size: many}\n")
	pipe := filepath.Join(dir, "pipe.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"good":                     {[]string{good}, 0, []string{good, "good", "mode observe"}},
		"faulty":                   {[]string{bad}, 1, []string{bad, "line 3: unknown setting modee", "line 4"}},
		"named by --config":        {[]string{"--config", bad}, 1, []string{bad}},
		"argument before --config": {[]string{"--config", bad, good}, 0, []string{good}},
		"not there":                {[]string{filepath.Join(dir, "none.yaml")}, 2, []string{"none.yaml"}},
		"a pipe nobody writes to":  {[]string{pipe}, 2, []string{pipe, "not a regular file"}},
		"two files":                {[]string{good, bad}, 2, []string{"arg"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, code := command(t, append([]string{"config", "check"}, tc.args...)...)
			if code != tc.code {
				t.Errorf("exit %d, want %d", code, tc.code)
			}
			for _, words := range tc.says {
				if !strings.Contains(out+errs, words) {
					t.Errorf("%q is not said:\n%s%s", words, out, errs)
				}
			}
		})
	}
	if _, errs, _ := command(t, "run", "--config", bad); !strings.Contains(errs, "cosentry config check "+bad) {
		t.Errorf("a start that fails on its settings does not say how to check them:\n%s", errs)
	}
}

// TestMisspeltCommandFails: a script that runs `audit verfy` must not find every log intact.
func TestMisspeltCommandFails(t *testing.T) {
	for _, args := range [][]string{
		{"audit", "verfy"}, {"policy", "bogus"}, {"config", "chek"}, {"completion", "cmd"}, {"bogus"},
		{"audit", "--dir", "/nowhere", "verfy"},
	} {
		out, errs, code := command(t, args...)
		if code != 2 || !strings.Contains(errs, "unknown command \""+args[len(args)-1]+"\"") {
			t.Errorf("%v: exit %d\n%s%s", args, code, out, errs)
		}
	}
	if _, errs, _ := command(t, "audit", "verfy"); !strings.Contains(errs, "did you mean verify?") {
		t.Errorf("no suggestion: %s", errs)
	}
	if out, errs, code := command(t, "audit"); code != 0 || !strings.Contains(out, "verify") {
		t.Errorf("without a command: exit %d\n%s%s", code, out, errs)
	}
	if out, errs, code := command(t, "completion", "bash", "--help"); code != 0 || !strings.Contains(out, "cosentry") {
		t.Errorf("completion: exit %d %s", code, errs)
	}
}

// TestDefaultsAreAnnounced: an agent whose settings file was lost must not look like one that has it.
func TestDefaultsAreAnnounced(t *testing.T) {
	var log bytes.Buffer
	if _, _, err := settingsForRun("", &log); err != nil || !strings.Contains(log.String(), "built-in defaults") || !strings.Contains(log.String(), defaultConfig) {
		t.Errorf("%v: %s", err, &log)
	}
	log.Reset()
	config, _ := newNode(t, nil)
	if _, _, err := settingsForRun(config, &log); err != nil || log.Len() > 0 {
		t.Errorf("%v: %s", err, &log)
	}
}

func TestNoAuditLogYet(t *testing.T) {
	config, dir := newNode(t, nil)
	for _, args := range [][]string{{"audit", "verify"}, {"audit", "tail"}} {
		_, errs, code := command(t, append(args, "--config", config)...)
		if want := "no audit log in " + dir + "/audit yet; --dir names another"; code != 2 || !strings.Contains(errs, want) {
			t.Errorf("%v: exit %d, %q is not said:\n%s", args, code, want, errs)
		}
	}
}

// TestResolvingIsSaidOnce: the error of a tag that cannot be resolved is for a person to read.
func TestResolvingIsSaidOnce(t *testing.T) {
	config, _ := newNode(t, map[string]string{"a.yaml": static("open", "**", "pass")})
	if out, _, _ := command(t, "verify", "--config", config, "127.0.0.1:1/app:1"); strings.Count(out, "resolving") != 1 {
		t.Errorf("%s", out)
	}
}

func TestStatusWithoutAnAgent(t *testing.T) {
	dir := t.TempDir()
	config := write(t, filepath.Join(dir, "c.yaml"), "apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\nlisten: "+dir+"/cri.sock\n")
	if _, errs, code := command(t, "status", "--config", config); code != 2 || !strings.Contains(errs, "no agent answers") {
		t.Errorf("exit %d\n%s", code, errs)
	}
}

// TestWeakeningIsForPeople: no container takes an enforcing node's settings back, by mistake or on purpose, and no manifest asks for it.
func TestWeakeningIsForPeople(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"of nothing":            {[]string{"install", "--dry-run", "--weaken"}, "--settings"},
		"in a container":        {[]string{"install", "--dry-run", "--weaken", "--settings", "x", "--host-root", t.TempDir()}, "on the node itself"},
		"by what watches a pod": {[]string{"supervise", "--weaken"}, "unknown flag"},
	} {
		if _, errs, code := command(t, c.args...); code != 2 || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d: %s", name, code, errs)
		}
	}
	err := filepath.WalkDir("../deploy", func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		if bytes.Contains(data, []byte("--weaken")) {
			t.Errorf("%s has --weaken", p)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	for _, cmd := range rootCommand().Commands() {
		for _, c := range append(cmd.Commands(), cmd) {
			if c.Runnable() && c.Name() != "completion" && c.Parent().Name() != "completion" && c.Example == "" {
				t.Errorf("%s has no example", c.CommandPath())
			}
		}
	}
}
