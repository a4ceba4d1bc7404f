package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/criproxy"
)

// A node has no CRI while its agent does not start. So an agent that cannot use its settings goes on with a copy of those with which
// one last started well, and says so wherever somebody may look.
//
// Settings that are missing count as faulty ones if there is a copy, and not as the wish for the built-in defaults. These are
// not stricter than what held: they leave out the cluster's policies and the key that these must be signed with, a sandbox image
// that is to be refused, and another folder of policies; and on a node with another runtime they lead to none. The copy loosens
// nothing and tightens nothing, so that nobody changes what runs by removing a file. Who wants the defaults writes a file that says
// no more than what it is.

// runWith are the settings that an agent runs with.
type runWith struct {
	config.Config
	path  string // of the settings file, whether or not it is there
	state string // the folder for copies; "" keeps none
	data  []byte // that the settings are made of; nil: none, or a copy's
	// fault is why the file's settings are not in force, and those of the copy are; nil: they are.
	fault error
	kept  config.Kept
}

// stateFolder is the folder for state that systemd gave the service, or "". An agent that is started by hand keeps nothing: what is tried
// out is not what the service falls back on, and who tries it out sees the faults.
func stateFolder() string {
	first, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	if !filepath.IsAbs(first) {
		return ""
	}
	return first
}

// settingsToRun are the settings at path, or the copy of them in the folder state. Without either it is an error, but for an empty path:
// those are the built-in defaults.
func settingsToRun(path, state string) (runWith, error) {
	c, data, err := config.Read(path)
	if err == nil && path == "" {
		if s, err := lastGood(defaultConfig, state, noSettings(defaultConfig)); err == nil {
			return s, nil
		}
		return runWith{Config: c, state: state}, nil
	}
	if err != nil {
		return lastGood(path, state, err)
	}
	return runWith{Config: c, path: path, state: state, data: data}, nil
}

func noSettings(path string) error {
	return fmt.Errorf("there is no settings file %s, and there was: %w", path, fs.ErrNotExist)
}

// lastGood are the settings of the copy. If they cannot be used either, the error is why, with a reason.
func lastGood(path, state string, why error) (runWith, error) {
	refuse := func(more string) (runWith, error) {
		return runWith{}, fmt.Errorf("%w\nno agent starts with these settings%s; once they are mended, see: cosentry config check %s", why, more, path)
	}
	if state == "" {
		return refuse("")
	}
	kept, err := config.LoadKept(state, absolute(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return refuse(", and none has started well before")
	case err != nil:
		return refuse(", and the copy of older ones cannot be used: " + err.Error())
	}
	return runWith{Config: kept.Config, path: path, state: state, fault: why, kept: kept}, nil
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// log makes the agent's log, on w, and says in it which settings hold.
func (s runWith) log(w io.Writer) *slog.Logger {
	log := newLog(s.Log, w)
	switch {
	case s.fault != nil:
		log.Error("the settings are FAULTY OR MISSING and NOT IN FORCE: this agent goes on with a copy of those with which one last started well, so that kubelet has its runtime. "+
			"Whatever was changed since then does not hold, and what was to be stricter is not. Mend the file and restart the service",
			"file", s.path, "faults", s.faults(), "copy", s.kept.File, "kept", s.kept.At.Format(time.RFC3339), "mode", s.Mode)
	case s.path == "":
		log.Warn("there is no settings file: the built-in defaults are in use", "file", defaultConfig)
	}
	return log
}

// maxFaults bounds what is repeated of what is wrong with the settings, in bytes.
const maxFaults = 4096

// faults is what is wrong with the settings file, on one line; "" if nothing is.
func (s runWith) faults() string {
	if s.fault == nil {
		return ""
	}
	return onOneLine(s.fault)
}

// onOneLine is an error that repeats what stands in a settings file, for logs and records.
func onOneLine(err error) string {
	text := gate.Printable(strings.ReplaceAll(err.Error(), "\n", "; "))
	if len(text) > maxFaults {
		text = strings.ToValidUTF8(text[:maxFaults], "") + "…"
	}
	return text
}

// words say for the record which settings hold, where they are not the file's.
func (s runWith) words() string {
	if s.fault == nil {
		return ""
	}
	return fmt.Sprintf("; THE SETTINGS FILE IS NOT IN FORCE, these are a copy kept at %s: %s", s.kept.At.UTC().Format(time.RFC3339), s.faults())
}

// inOrder says why the agent is not ready, or not with the settings that its owner believes: whoever brings settings to many nodes is to
// see it at the first.
func (a *agent) inOrder() error {
	if err := a.ready(); err != nil {
		return err
	}
	if b := a.settings.status(); b != nil {
		return fmt.Errorf("the settings %s are not in force, a copy kept at %s is: %s", b.File, b.Kept.Format(time.RFC3339), b.Fault)
	}
	return nil
}

func (s runWith) status() *sight.SettingsBroken {
	if s.fault == nil {
		return nil
	}
	return &sight.SettingsBroken{File: s.path, Fault: s.faults(), Copy: s.kept.File, Kept: s.kept.At}
}

// How often it is looked whether the agent answers, and tried again to keep a copy that could not be kept.
const (
	answersEvery = time.Second
	answerLimit  = 10 * time.Second
	keepEvery    = time.Minute
)

// keep keeps a copy of the settings once the agent has started well, which is when it answers on its own socket.
func (s runWith) keep(ctx context.Context, socket string, log *slog.Logger) {
	if s.state == "" || s.data == nil {
		return
	}
	wait, said := answersEvery, ""
	for {
		if answers(ctx, socket) {
			err := config.Keep(s.state, absolute(s.path), s.data)
			if err == nil {
				return
			}
			if wait = keepEvery; said != err.Error() {
				said = err.Error()
				log.Error("no copy of the settings can be kept: an agent that later finds them faulty will not start, and kubelet will be without its runtime", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func answers(ctx context.Context, socket string) bool {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	return criproxy.Ping(ctx, socket) == nil
}

// settingsRow tells of settings that are not in force.
func settingsRow(b *sight.SettingsBroken, row rower) {
	if b == nil {
		return
	}
	row("SETTINGS BROKEN", "%s is NOT IN FORCE: %s", b.File, b.Fault)
	row("", "what holds is %s, kept at %s; mend the file (cosentry config check), then: systemctl restart cosentry", b.Copy, b.Kept.Format(time.RFC3339))
}
