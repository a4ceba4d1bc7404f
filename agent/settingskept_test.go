package main

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/criproxy/critest"
)

// service is an agent as systemd runs it: with a folder for its state. It can be started again.
func service(t *testing.T, more string) (p *process, again func() *process) {
	t.Helper()
	p = newProcess(t, more)
	state := p.dir + "/state"
	if err := errors.Join(os.Mkdir(state, 0o755), os.Mkdir(p.dir+"/policies", 0o700)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("STATE_DIRECTORY", state)
	p.cmd.Env = append(p.cmd.Env, "STATE_DIRECTORY="+state)
	critest.Serve(t, p.dir+"/r.sock", critest.NewRuntime(0))
	return p, func() *process {
		next := &process{dir: p.dir, socket: p.socket, http: p.http, ended: make(chan struct{})}
		next.cmd = exec.Command(p.cmd.Args[0], p.cmd.Args[1:]...)
		next.cmd.Env = p.cmd.Env
		return next
	}
}

func (p *process) settings() string { return p.dir + "/config.yaml" }

func (p *process) copyOf() string { return config.KeptFile(p.dir+"/state", p.settings()) }

// serves waits until kubelet has its runtime.
func (p *process) serves(t *testing.T) {
	t.Helper()
	p.eventually(t, "kubelet has its runtime", func() bool { return callVersion(t, p.socket) == nil })
}

func (p *process) keeps(t *testing.T, text string) {
	t.Helper()
	p.eventually(t, "a copy of the settings is kept", func() bool {
		data, err := os.ReadFile(p.copyOf())
		return err == nil && string(data) == text
	})
}

// refusesToStart waits until the agent ends with an error that says so.
func (p *process) refusesToStart(t *testing.T, words string) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		t.Fatalf("it started\n%s", p.log.String())
	}
	for end := time.Now().Add(10 * time.Second); !strings.Contains(p.log.String(), words); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q is not said:\n%s", words, p.log.String())
		}
	}
	if p.err == nil {
		t.Error("it ended as if all were well")
	}
}

// Whoever makes a typo and restarts the service must not take the runtime from kubelet. The settings from before hold, and everybody who looks is told.
func TestATypoInTheSettingsTakesNothingFromKubelet(t *testing.T) {
	p, again := service(t, "mode: observe\n")
	good := readFile(t, p.settings())
	p.start(t)
	p.serves(t)
	p.keeps(t, good)
	if s := p.status(t); s.SettingsBroken != nil {
		t.Errorf("good settings are called broken: %+v", s.SettingsBroken)
	}
	if body, _ := p.get(t, "/metrics"); !strings.Contains(body, "\ncosentry_settings_broken 0\n") {
		t.Error("no metric says that the settings are good")
	}
	p.stop(t)

	write(t, p.settings(), strings.Replace(good, "mode: observe", "mode: enforec", 1)+"polices: {}\n")
	out, errs, code := command(t, "config", "check", "--config", p.settings())
	if code != 1 || !strings.Contains(errs, "polices") || !strings.Contains(errs, "goes on with the settings with which it last started well") || !strings.Contains(errs, "mode observe") {
		t.Errorf("config check: exit %d\n%s%s", code, out, errs)
	}
	p = again()
	p.start(t)
	p.serves(t)
	p.says(t, "NOT IN FORCE")
	p.says(t, "unknown setting polices")
	s := p.status(t)
	if b := s.SettingsBroken; s.Mode != "observe" || b == nil || b.File != p.settings() || !strings.Contains(b.Fault, "unknown setting polices") || b.Copy != p.copyOf() || b.Kept.IsZero() {
		t.Errorf("status: mode %s, %+v", s.Mode, b)
	}
	if body, _ := p.get(t, "/metrics"); !strings.Contains(body, "\ncosentry_settings_broken 1\n") {
		t.Error("no metric says that the settings are broken")
	}
	p.eventually(t, "it is said that it is not as its owner believes", func() bool {
		body, code := p.get(t, "/readyz")
		return code == http.StatusServiceUnavailable && strings.Contains(body, "not in force")
	})
	out, errs, code = command(t, "status", "--config", p.settings())
	if code != 1 || !strings.Contains(out, "SETTINGS BROKEN") || !strings.Contains(out, "polices") || !strings.Contains(errs, "NOT IN FORCE") {
		t.Errorf("status: exit %d\n%s%s", code, out, errs)
	}
	if out, _, _ := command(t, "audit", "tail", "--dir", p.dir+"/audit"); strings.Count(out, "start") != 2 || !strings.Contains(out, "THE SETTINGS FILE IS NOT IN FORCE") {
		t.Errorf("the audit log does not tell:\n%s", out)
	}
	if readFile(t, p.copyOf()) != good {
		t.Error("the copy is not what it was")
	}
	p.stop(t)

	mended := strings.Replace(good, "mode: observe", "mode: enforce", 1)
	write(t, p.settings(), mended)
	p = again()
	p.start(t)
	p.serves(t)
	p.keeps(t, mended)
	if s := p.status(t); s.Mode != "enforce" || s.SettingsBroken != nil {
		t.Errorf("mended settings: mode %s, %+v", s.Mode, s.SettingsBroken)
	}
	p.stop(t)
}

// The agent that systemd runs tells it, for systemctl status.
func TestSystemdIsToldOfBrokenSettings(t *testing.T) {
	s := runWith{path: "/etc/cosentry/config.yaml", fault: errors.New("settings: line 3: unknown\nsettings: line 4: too"), kept: config.Kept{Config: config.Default()}}
	if b := s.status(); strings.Contains(b.Fault, "\n") || !strings.Contains(b.Fault, "line 4") {
		t.Errorf("%q", b.Fault)
	}
	c, _ := newNode(t, nil)
	settings, err := config.Load(c)
	if err != nil {
		t.Fatal(err)
	}
	s.Config = settings
	s.Evidence.Dir = "" // not this machine's
	a, err := assemble(s, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	if line := a.statusLine(); !strings.Contains(line, "SETTINGS BROKEN: /etc/cosentry/config.yaml is not in force") {
		t.Error(line)
	}
}

// Removing the file is no way to change what runs on a node, in neither direction.
func TestSettingsThatAreGoneAreNoDefaults(t *testing.T) {
	p, again := service(t, "mode: observe\n")
	p.start(t)
	p.serves(t)
	p.keeps(t, readFile(t, p.settings()))
	p.stop(t)
	if err := os.Remove(p.settings()); err != nil {
		t.Fatal(err)
	}
	p = again()
	p.start(t)
	p.serves(t)
	if s := p.status(t); s.Mode != "observe" || s.SettingsBroken == nil || !strings.Contains(s.SettingsBroken.Fault, "no such file") {
		t.Errorf("mode %s, %+v", s.Mode, s.SettingsBroken)
	}
	p.stop(t)
	if _, errs, code := command(t, "config", "check", "--config", p.settings()); code != 2 || !strings.Contains(errs, "goes on with the settings") {
		t.Errorf("config check: exit %d\n%s", code, errs)
	}
	// Without --config it is the file in its usual place that is gone.
	state := p.dir + "/state"
	if err := config.Keep(state, defaultConfig, []byte("apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\nmode: observe\n")); err != nil {
		t.Fatal(err)
	}
	if s, err := settingsToRun("", state); err != nil || s.Mode != config.Observe || !errors.Is(s.fault, fs.ErrNotExist) {
		t.Errorf("%+v, %v", s, err)
	}
}

// Without settings that were good there is nothing to go by, and what somebody tries out by hand is not what the service goes by.
func TestWhereNoAgentStarts(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(t *testing.T, p *process)
		words string
	}{
		"first start": {func(t *testing.T, p *process) {
			if err := os.Remove(p.copyOf()); err != nil {
				t.Fatal(err)
			}
		}, "none has started well before"},
		"copy that others can write to": {func(t *testing.T, p *process) {
			if err := os.Chmod(p.copyOf(), 0o666); err != nil {
				t.Fatal(err)
			}
		}, "cannot be used"},
		"copy with a fault": {func(t *testing.T, p *process) { write(t, p.copyOf(), "mode: enforec\n") }, "cannot be used"},
		"by hand":           {func(_ *testing.T, p *process) { p.cmd.Env = append(p.cmd.Env, "STATE_DIRECTORY=") }, "no agent starts with these settings"},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := service(t, "")
			if err := config.Keep(p.dir+"/state", p.settings(), []byte(readFile(t, p.settings()))); err != nil {
				t.Fatal(err)
			}
			write(t, p.settings(), readFile(t, p.settings())+"mode: enforec\n")
			c.spoil(t, p)
			p.start(t)
			p.refusesToStart(t, c.words)
		})
	}
}

// An agent that is started by hand leaves no copy on which a service could fall back.
func TestByHandNothingIsKept(t *testing.T) {
	p, _ := service(t, "")
	p.cmd.Env = append(p.cmd.Env, "STATE_DIRECTORY=")
	p.start(t)
	p.serves(t)
	p.stop(t)
	if left, err := filepath.Glob(p.dir + "/state/*"); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// Settings may be well-formed and still make no agent.
func TestSettingsOfWhichNoAgentCanBeMade(t *testing.T) {
	file, dir := newNode(t, nil)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, file, readFile(t, file)+"evidence: {dir: \"\"}\n") // not this machine's
	c, data, err := config.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := runWith{Config: c, path: file, state: dir, data: data}
	bad.Cache.Size = 0
	var log bytes.Buffer
	if _, err := begin(bad, &log); err == nil || !strings.Contains(err.Error(), "none has started well before") {
		t.Fatalf("%v", err)
	}
	if err := config.Keep(dir, file, data); err != nil {
		t.Fatal(err)
	}
	a, err := begin(bad, &log)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	if a.settings.fault == nil || a.config.Cache.Size == 0 || !strings.Contains(log.String(), "NOT IN FORCE") {
		t.Errorf("%+v\n%s", a.settings, &log)
	}
}
