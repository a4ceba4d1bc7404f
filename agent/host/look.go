package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host/kubelet"
	"github.com/cosentry/cosentry/systemd"
	"github.com/cosentry/cosentry/systemd/manager"
)

// Facts is what was found on a host.
type Facts struct {
	MachineID string
	// Systemd is its version.
	Systemd int
	Runtime Runtime
	// Socket is the agent's, named after the runtime.
	Socket string
	// KubeletUnit is the unit that runs kubelet, KubeletPID its main process, 0 if none runs.
	KubeletUnit string
	KubeletPID  int
	Endpoint    kubelet.Endpoint
	// BinDir is where the binary goes, Command whether there can be a link to it on everybody's path.
	BinDir  string
	Command bool
}

// problem is what keeps an installation from being planned or made. What is a word for metrics.
type problem struct {
	what string
	err  error
}

// look finds out what is to be known before anything is written. s is what is remembered of the host.
func (h *Host) look(ctx context.Context, s State) (f Facts, _ *problem) {
	if err := h.isHost(ctx, &f); err != nil {
		return f, &problem{FaultHost, err}
	}
	if err := h.lookAtKubelet(ctx, &f); err != nil {
		return f, &problem{FaultLayout, err}
	}
	if f.Endpoint.Image != f.Endpoint.Runtime && !ours(f.Endpoint.Image) && !ours(f.Endpoint.Runtime) {
		return f, &problem{FaultLayout, fmt.Errorf("kubelet (%s) takes images from %s and containers from %s: cosentry stands before one runtime, and to replace both would end that",
			f.Endpoint.Source, f.Endpoint.Image, f.Endpoint.Runtime)}
	}
	if err := h.lookAtRuntime(ctx, s, &f); err != nil {
		return f, &problem{FaultRuntime, err}
	}
	if err := h.chooseFolders(&f); err != nil {
		return f, &problem{FaultHost, err}
	}
	return f, nil
}

var machineID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// isHost makes sure that this is a host with systemd, of this architecture: an installation into a container that forgot
// --host-root would prove nothing.
func (h *Host) isHost(ctx context.Context, f *Facts) (err error) {
	if f.Systemd, err = h.o.Systemd.Version(ctx); err != nil {
		return fmt.Errorf("looking for systemd below %s: %w; in a container, mount the host's root and name it with --host-root", h.o.Root, err)
	}
	if f.Systemd < systemd.MinVersion {
		return fmt.Errorf("systemd %d is older than %d, which is the oldest that cosentry's units work with", f.Systemd, systemd.MinVersion)
	}
	id, err := h.tree.Read("/etc/machine-id")
	if err != nil {
		return err
	}
	f.MachineID = strings.TrimSpace(string(id))
	if !machineID.MatchString(f.MachineID) {
		return fmt.Errorf("%s/etc/machine-id is not that of a machine that runs: is %s a host's root?", strings.TrimSuffix(h.o.Root, "/"), h.o.Root)
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	machine := unix.ByteSliceToString(u.Machine[:])
	if want := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]; want != machine {
		return fmt.Errorf("this build is for %s and the host is %s", runtime.GOARCH, machine)
	}
	return nil
}

// lookAtKubelet finds the unit that runs kubelet, and where it is told its endpoint.
func (h *Host) lookAtKubelet(ctx context.Context, f *Facts) error {
	unit, err := h.kubeletUnit(ctx)
	if err != nil {
		return err
	}
	f.KubeletUnit, f.KubeletPID = unit.Name, unit.MainPID
	return h.findEndpoint(f, unit)
}

// findEndpoint finds out where the kubelet of a unit is told its endpoint.
func (h *Host) findEndpoint(f *Facts, unit manager.Unit) (err error) {
	facts := kubelet.Facts{Root: h.o.Root, Unit: unit.Name, Environment: unit.Environment}
	for _, file := range unit.EnvironmentFiles {
		// systemd does not start a unit of which one is missing that must be there.
		facts.EnvironmentFiles = append(facts.EnvironmentFiles, "-"+strings.TrimPrefix(file, "-"))
	}
	if len(unit.ExecStart) > 0 {
		facts.Exec = unit.ExecStart[len(unit.ExecStart)-1]
	}
	if unit.MainPID > 0 {
		if facts.Args, err = h.args(unit.MainPID); err != nil {
			return err
		}
	}
	if f.Endpoint, err = kubelet.Find(facts, h.o.Kubelet); err != nil {
		return fmt.Errorf("finding out where kubelet takes its runtime's endpoint from: %w", err)
	}
	return nil
}

// kubeletUnit is the one unit of those that run kubelets which runs, or the one that could.
func (h *Host) kubeletUnit(ctx context.Context) (manager.Unit, error) {
	var running, others []manager.Unit
	for _, name := range kubelet.Units() {
		u, err := h.o.Systemd.Unit(ctx, name)
		if err != nil {
			return u, err
		}
		switch {
		case u.Load != "loaded":
		case u.Active == "active":
			running = append(running, u)
		default:
			others = append(others, u)
		}
	}
	if len(running) == 0 {
		running = others
	}
	switch len(running) {
	case 1:
		return running[0], nil
	case 0:
		return manager.Unit{}, fmt.Errorf("no unit of this host runs kubelet: looked for %s", strings.Join(kubelet.Units(), ", "))
	}
	return manager.Unit{}, fmt.Errorf("more than one unit could run kubelet, %s and %s: mask those that do not", running[0].Name, running[1].Name)
}

// args is the command line of a process of the host.
func (h *Host) args(pid int) ([]string, error) {
	data, err := h.tree.Read(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, fmt.Errorf("reading kubelet's command line: %w", err)
	}
	data = bytes.TrimSuffix(data, []byte{0})
	if len(data) == 0 {
		return nil, nil // it ended meanwhile
	}
	return strings.Split(string(data), "\x00"), nil
}

// runtimes are those that can be behind an agent, each with the names its unit has.
var runtimes = map[string][]string{
	systemd.Containerd: {"containerd.service"},
	systemd.CRIO:       {"crio.service", "cri-o.service"},
}

// sockets are where runtimes listen as a rule.
var sockets = [...]string{"/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/k3s/containerd/containerd.sock"}

// lookAtRuntime finds the runtime that kubelet uses, or used before the agent came between, and asks it.
func (h *Host) lookAtRuntime(ctx context.Context, s State, f *Facts) error {
	socket, err := h.runtimeSocket(ctx, s, f.Endpoint)
	if err != nil {
		return err
	}
	here, err := h.tree.Path(socket)
	if err != nil {
		return err
	}
	a, err := ask(ctx, here)
	if err != nil {
		return fmt.Errorf("asking the runtime on %s: %w; it must run when cosentry is installed", socket, err)
	}
	f.Runtime = Runtime{Name: a.name(), Version: a.version, Socket: socket}
	if runtimes[f.Runtime.Name] == nil {
		return fmt.Errorf("the runtime on %s is %.64q, and cosentry knows containerd and cri-o", socket, a.runtime)
	}
	if h.o.Runtime != "auto" && h.o.Runtime != f.Runtime.Name {
		return fmt.Errorf("kubelet uses %s on %s, and --runtime says %s", f.Runtime.Name, socket, h.o.Runtime)
	}
	f.Socket = systemd.SocketPath(f.Runtime.Name)
	if kubelet.SharesUnit(f.KubeletUnit) {
		return nil
	}
	for _, name := range runtimes[f.Runtime.Name] {
		u, err := h.o.Systemd.Unit(ctx, name)
		if err != nil {
			return err
		}
		if u.Load == "loaded" {
			f.Runtime.Unit = name
			break
		}
	}
	return nil
}

// runtimeSocket is where the runtime listens: where kubelet says, or if kubelet is at the agent already, where the state or the
// settings say, or where runtimes do.
func (h *Host) runtimeSocket(ctx context.Context, s State, e kubelet.Endpoint) (string, error) {
	for _, one := range []string{e.Runtime, e.Image} {
		if p, ok := strings.CutPrefix(one, "unix://"); ok && !ours(one) {
			return p, nil
		}
	}
	if !ours(e.Runtime) {
		return "", fmt.Errorf("kubelet's endpoint is %.200q (%s), which is not a unix socket", e.Runtime, e.Source)
	}
	if s.Runtime.Socket != "" {
		return s.Runtime.Socket, nil
	}
	if data, err := h.tree.Read(ConfigFile); err == nil && data != nil {
		if c, err := config.Parse(data); err == nil {
			return c.Runtime.Endpoint, nil
		}
	}
	for _, socket := range sockets {
		if here, err := h.tree.Path(socket); err == nil {
			if _, err := ask(ctx, here); err == nil {
				return socket, nil
			}
		}
	}
	return "", errors.New("kubelet uses cosentry's socket already, and nothing says where the runtime is: write runtime.endpoint into " + ConfigFile)
}

// ours says whether an endpoint is an agent's.
func ours(endpoint string) bool {
	return strings.HasPrefix(strings.TrimPrefix(endpoint, "unix://"), socketDir+"/")
}
