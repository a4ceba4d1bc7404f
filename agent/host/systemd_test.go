package host_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/systemd/manager"
)

// The world as its systemd: what its units on disk say is what happens at the moment at which they are started. And as the proofs that an
// installation asks for, of what then runs.

func (w *world) Version(context.Context) (int, error) { return 252, nil }
func (w *world) Reload(context.Context) error         { return nil }

// file is a unit's, as systemd looks for it.
func (w *world) file(name string) string {
	for _, dir := range []string{"/etc/systemd/system", "/usr/lib/systemd/system"} {
		if _, err := os.Stat(w.path(filepath.Join(dir, name))); err == nil {
			return filepath.Join(dir, name)
		}
	}
	return ""
}

func (w *world) Unit(_ context.Context, name string) (manager.Unit, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := manager.Unit{Name: name, Load: "not-found", Active: "inactive", FragmentPath: w.file(name)}
	if u.FragmentPath != "" {
		u.Load = "loaded"
	}
	state := w.units[name]
	if state == nil {
		return u, nil
	}
	if state.enabled {
		u.Enabled = "enabled"
	}
	if name == "kubelet.service" && w.flaps {
		w.pid++
		state.pid = w.pid
	}
	if state.pid != 0 {
		u.Active, u.MainPID = "active", state.pid
	}
	if strings.HasSuffix(name, ".socket") && u.Load == "loaded" && u.Active == "active" {
		u.Listen = []string{ourSocket}
	}
	if u.Load == "loaded" {
		if m := regexp.MustCompile(`(?m)^ExecStart=(.*)$`).FindStringSubmatch(w.read(u.FragmentPath)); m != nil {
			u.ExecStart = [][]string{strings.Fields(m[1])}
		}
	}
	return u, nil
}

func (w *world) job(what, name string) error {
	if w.stop != nil {
		if err := w.stop(what + " " + name); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.jobs = append(w.jobs, what+" "+name)
	if w.units[name] == nil {
		w.units[name] = &unit{}
	}
	return nil
}

func (w *world) Stop(_ context.Context, name string) error {
	if err := w.job("stop", name); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.units[name].pid = 0
	if strings.HasSuffix(name, ".socket") && w.sockets[ourSocket] != nil {
		w.sockets[ourSocket].Stop()
		delete(w.sockets, ourSocket)
	}
	return nil
}

func (w *world) Restart(_ context.Context, name string) error {
	if err := w.job("start", name); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	file := w.file(name)
	if file == "" {
		return fmt.Errorf("unit %s not found", name)
	}
	switch name {
	case "cosentry.socket":
		w.serve(ourSocket)
		w.pid++
		w.units[name].pid = w.pid
		return nil
	case "cosentry.service":
		return w.startAgent()
	case "kubelet.service":
		return w.startKubelet()
	}
	return nil
}

func (w *world) startAgent() error {
	w.units["cosentry.service"].pid = 0
	if w.units["cosentry.socket"] == nil || w.units["cosentry.socket"].pid == 0 {
		return errors.New("no socket")
	}
	to, err := os.Readlink(w.path("/opt/cosentry/bin/cosentry"))
	if err != nil {
		return err
	}
	if slices.ContainsFunc(w.broken, func(v string) bool { return strings.HasPrefix(to, "cosentry-"+v+"-") }) {
		return errors.New("the agent ended with status 2")
	}
	if w.read("/etc/cosentry/config.yaml") == "" || strings.HasPrefix(w.read("/etc/cosentry/config.yaml"), "(") {
		return errors.New("no settings")
	}
	for _, dir := range []string{"/var/lib/cosentry", "/var/log/cosentry"} { // as systemd does
		if err := os.MkdirAll(w.path(dir), 0o755); err != nil {
			return err
		}
	}
	w.run("cosentry.service", "/opt/cosentry/bin/"+to)
	return nil
}

func (w *world) startKubelet() error {
	w.units["kubelet.service"].pid, w.told = 0, ""
	m := regexp.MustCompile(`(?m)^containerRuntimeEndpoint: "?unix://([^" \n]+)`).FindStringSubmatch(w.read(kubeletConfig))
	socket := theirSocket
	if m != nil {
		socket = m[1]
	}
	if w.sockets[socket] == nil || socket == w.kubeletDies {
		return errors.New("kubelet ended")
	}
	w.run("kubelet.service", "/usr/bin/kubelet", "--config="+kubeletConfig)
	w.told = socket
	if w.started != nil {
		w.started()
	}
	return nil
}

func (w *world) Enable(_ context.Context, names ...string) error {
	for _, name := range names {
		if err := w.job("enable", name); err != nil {
			return err
		}
		w.units[name].enabled = true
	}
	return nil
}

func (w *world) Disable(_ context.Context, names ...string) error {
	for _, name := range names {
		if w.units[name] != nil {
			w.units[name].enabled = false
		}
	}
	return nil
}

func (w *world) Canary(context.Context, string) error {
	to, err := os.Readlink(w.path("/opt/cosentry/bin/cosentry"))
	if err != nil {
		return err
	}
	if slices.ContainsFunc(w.blind, func(v string) bool { return strings.HasPrefix(to, "cosentry-"+v+"-") }) {
		return errors.New("an unsigned image was pulled and nobody saw it")
	}
	return nil
}

func (w *world) Ready(context.Context) error {
	to, err := os.Readlink(w.path("/opt/cosentry/bin/cosentry"))
	if err != nil {
		return err
	}
	if slices.ContainsFunc(w.unready, func(v string) bool { return strings.HasPrefix(to, "cosentry-"+v+"-") }) {
		return errors.New("no policies are in force")
	}
	if _, err := os.Stat(w.path("/etc/cosentry/policies")); err != nil {
		return fmt.Errorf("no policies are in force: %w", err)
	}
	return nil
}

func (w *world) Connected(_ context.Context, socket, unit string) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	yes := unit == "kubelet.service" && w.units[unit].pid != 0 && w.told == socket
	if !yes && w.unsure {
		return false, errors.New("the kernel does not say")
	}
	return yes, nil
}

func (w *world) Healthy(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.units["kubelet.service"].pid == 0 {
		return fmt.Errorf("%w: connection refused", host.ErrUntold)
	}
	return w.unwell
}
