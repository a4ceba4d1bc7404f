// Package machine brings up a whole node: a real systemd as process 1 of its
// own namespaces, with containerd and kubelet as its units, files where
// kubeadm or GKE put them, and a file system that can be looked at, rebooted,
// and made to forget /etc.
//
// It is used inside [harness.Isolated], whose promise it keeps: whatever
// happens to the process that started it, nothing stays. Everything of the
// node is in namespaces that end with the harness's, its files are on a
// tmpfs of the harness, its cgroups stand under the harness's, and of the
// kernel's settings it can write those of its network namespace only.
//
// The network namespace is the harness's, so that registries and API servers
// of a test are reached, and the node's ports are asked, without ceremony.
// One machine runs at a time.
package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cosentry/cosentry/integration/harness"
)

// Options say what kind of node it is. The zero value of each field but Tools
// and Pause has a use.
type Options struct {
	Tools harness.Tools
	// Kubelet is the minor version: "1.36", also where empty, or "1.34".
	Kubelet string
	// Layout is where this kubelet takes its settings from; empty is Kubeadm.
	Layout Layout
	// Pause is the reference of the sandbox's image.
	Pause string
	// Name is the node's name; empty is "node".
	Name string
	// NodeIP is an address that loopback gets and kubelet reports; empty is 10.88.54.1.
	NodeIP string
	// KubeletConfig is merged into the KubeletConfiguration, field by field at
	// the top level.
	KubeletConfig map[string]any
	// Kubeconfig is kubelet's; without it kubelet runs static pods alone.
	Kubeconfig []byte
	// Files are further files of the machine as it was delivered, by path. A
	// reboot that loses /etc brings those of /etc back.
	Files map[string]File
	// Programs are bound to paths on the machine: path there to path here.
	Programs map[string]string
}

// File is a file of the machine as it was delivered. Link, where set, makes
// it a symbolic link.
type File struct {
	Text string
	Mode os.FileMode
	Link string
}

// patience is how long a machine may take to boot, to power off, and its kubelet to be well, where others use the computer as well.
const patience = 3 * time.Minute

// Machine is a node that runs.
type Machine struct {
	Options
	// Dir holds the layers of the machine's file system, outside of it.
	Dir string

	serial  int
	pid     atomic.Int64
	ended   chan struct{}
	process *exec.Cmd
	mu      sync.Mutex // a boot or an end at a time
}

// Cosentry is where the machine has the program under test.
const Cosentry = "/usr/local/lib/cosentry-under-test/cosentry"

// HealthzPort is where kubelet answers /healthz, on loopback.
const HealthzPort = 10248

// serials numbers the machines of a run.
var serials atomic.Int32

// Start makes the machine, boots it and waits until containerd answers and
// kubelet is healthy.
func Start(ctx context.Context, o Options) (*Machine, error) {
	m, err := New(o)
	if err != nil {
		return nil, err
	}
	if err := m.Boot(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	if err := m.WaitKubelet(ctx); err != nil {
		err = fmt.Errorf("%w\n%s", err, m.Logs(ctx))
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// New lays the machine's files out and does not boot it.
func New(o Options) (*Machine, error) {
	if o.Tools.Cosentry == "" || o.Pause == "" {
		return nil, errors.New("a machine needs Tools and Pause")
	}
	o.setDefaults()
	m := &Machine{Options: o, serial: int(serials.Add(1))}
	m.Dir = fmt.Sprintf("/run/m%d", m.serial)
	if err := addAddress(m.serial, o.NodeIP); err != nil {
		return nil, err
	}
	return m, m.lay()
}

func (o *Options) setDefaults() {
	if o.Kubelet == "" {
		o.Kubelet = "1.36"
	}
	if o.Layout == "" {
		o.Layout = Kubeadm
	}
	if o.Name == "" {
		o.Name = "node"
	}
	if o.NodeIP == "" {
		o.NodeIP = "10.88.54.1"
	}
}

// Boot starts systemd and waits until its default target is reached.
func (m *Machine) Boot(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enter(); err != nil {
		return err
	}
	state := ""
	err := harness.Until(patience, "systemd to reach its target", func() bool {
		select {
		case <-m.ended:
			return true
		default:
		}
		out, _ := m.Exec(ctx, "systemctl", "is-system-running")
		state = strings.TrimSpace(out)
		return state == "running" || state == "degraded"
	})
	select {
	case <-m.ended:
		err = errors.New("process 1 ended while it booted")
	default:
	}
	if err != nil {
		return fmt.Errorf("booting the machine (%s): %w\n%s", state, err, m.console())
	}
	return nil
}

// WaitKubelet waits until kubelet says that it is healthy.
func (m *Machine) WaitKubelet(ctx context.Context) error {
	return harness.Until(patience, "kubelet to be healthy", func() bool { return ctx.Err() != nil || m.KubeletHealthy(ctx) })
}

// KubeletHealthy reports what kubelet's /healthz says now.
func (m *Machine) KubeletHealthy(ctx context.Context) bool {
	_, err := get(ctx, fmt.Sprintf("http://127.0.0.1:%d/healthz", HealthzPort))
	return err == nil
}

// Exec runs a command on the machine, as a root shell on it would, and
// returns what it printed. The error of one that failed holds it as well.
func (m *Machine) Exec(ctx context.Context, argv ...string) (string, error) {
	return m.ExecInput(ctx, nil, argv...)
}

// ExecInput is Exec with something to read on standard input.
func (m *Machine) ExecInput(ctx context.Context, input io.Reader, argv ...string) (string, error) {
	cmd, err := m.Command(ctx, argv...)
	if err != nil {
		return "", err
	}
	cmd.Stdin = input
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out), nil
}

// Command is a command that will run on the machine.
func (m *Machine) Command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	pid := m.pid.Load()
	if pid == 0 {
		return nil, fmt.Errorf("%s: the machine is off", strings.Join(argv, " "))
	}
	args := []string{"--target", fmt.Sprint(pid), "--mount", "--pid", "--cgroup", "--ipc", "--uts", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(args, argv...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + path, "LANG=C", "HOME=/root", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"}
	cmd.WaitDelay = 5 * time.Second
	return cmd, nil
}

// PID is the machine's process 1, seen from outside; 0 while it is off.
func (m *Machine) PID() int { return int(m.pid.Load()) }

// Path is a file of the running machine, seen from outside. Symbolic links on
// the machine that are absolute would be followed outside: name what they
// point at.
func (m *Machine) Path(name string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", m.pid.Load()), name)
}

// ReadFile reads a file of the machine.
func (m *Machine) ReadFile(name string) (string, error) {
	data, err := os.ReadFile(m.Path(name))
	return string(data), err
}

// WriteFile replaces a file of the machine in one step, and makes its folder.
func (m *Machine) WriteFile(name, text string) error {
	file := m.Path(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("writing %s on the machine: %w", name, err)
	}
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing %s on the machine: %w", name, err)
	}
	return os.Rename(file+".new", file)
}

// Off ends the machine: asked to power off, or, after a crash, at once as if
// the power had failed.
func (m *Machine) Off(crash bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return nil
	}
	s := powerOff
	if crash {
		s = syscall.SIGKILL
	}
	_ = m.process.Process.Signal(s) // one that has ended is seen next
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var err error
	select {
	case <-m.ended:
	case <-timer.C:
		err = errors.New("the machine did not power off within " + patience.String())
		_ = m.process.Process.Kill()
		<-m.ended
	}
	m.pid.Store(0)
	m.process = nil
	return err
}

// powerOff is SIGRTMIN+4, by which systemd as process 1 starts poweroff.target.
const powerOff = syscall.Signal(34 + 4)

// Reboot powers the machine off and boots it. What was in /run is lost, and
// with loseEtc whatever was changed in /etc, as on a host whose /etc is a tmpfs.
// It does not wait for kubelet, which may have reasons not to start.
func (m *Machine) Reboot(ctx context.Context, loseEtc bool) error {
	if err := m.Off(false); err != nil {
		return err
	}
	if loseEtc {
		if err := os.RemoveAll(filepath.Join(m.Dir, "upper", "etc")); err != nil {
			return fmt.Errorf("losing /etc: %w", err)
		}
	}
	return m.Boot(ctx)
}

// Close ends the machine for good.
func (m *Machine) Close() error { return m.Off(true) }

func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 32<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %s", url, resp.Status, body)
	}
	return body, err
}
