package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/integration/harness"
)

const (
	// firstProcess is the name under which this program starts as the machine's
	// process 1, which it is until systemd takes its place.
	firstProcess = "cosentry-machine"
	path         = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	cgroupRoot   = "/sys/fs/cgroup"
)

// boot is what the first process is told.
type boot struct {
	Name   string
	Layers string            // folder with image/, upper/, work/, disk/
	Cgroup string            // below every hierarchy
	Binds  map[string]string // path on the machine to path here
}

// init lets the program be the machine's first process in whichever test it
// is linked into: namespaces are entered at birth, before there are threads.
func init() {
	if os.Args[0] != firstProcess {
		return
	}
	runtime.LockOSThread()
	fmt.Fprintln(os.Stderr, "machine:", becomeSystemd(os.Args[1])) // it returns only if it failed
	os.Exit(1)
}

// enter starts the first process.
func (m *Machine) enter() error {
	if m.process != nil {
		return errors.New("the machine runs already")
	}
	b := boot{Name: m.Name, Layers: m.Dir, Cgroup: filepath.Join(harness.Cgroup(), filepath.Base(m.Dir)), Binds: m.programs()}
	if err := clearCgroups(b.Cgroup); err != nil {
		return err
	}
	if err := makeCgroups(b.Cgroup); err != nil {
		return err
	}
	text, err := json.Marshal(b)
	if err != nil {
		return err
	}
	console, err := os.OpenFile(filepath.Join(m.Dir, "console"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the machine's console: %w", err)
	}
	defer console.Close()
	cmd := exec.Command("/proc/self/exe", string(text))
	cmd.Args[0] = firstProcess
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Setsid:     true,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the machine: %w", err)
	}
	m.process, m.ended = cmd, make(chan struct{})
	m.pid.Store(int64(cmd.Process.Pid))
	go func(ended chan struct{}) {
		_ = cmd.Wait() // that it ended is all there is to know
		close(ended)
	}(m.ended)
	return nil
}

// console is what the machine's process 1 wrote before the journal was there.
func (m *Machine) console() string {
	text, err := os.ReadFile(filepath.Join(m.Dir, "console"))
	if err != nil {
		return err.Error()
	}
	return "--- console\n" + string(text)
}

// becomeSystemd mounts the machine's file system, makes it the root and
// executes systemd.
func becomeSystemd(text string) error {
	var b boot
	if err := json.Unmarshal([]byte(text), &b); err != nil {
		return err
	}
	for _, dir := range hierarchies(b.Cgroup) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("entering the machine's cgroup: %w", err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("making a cgroup namespace: %w", err)
	}
	if err := unix.Sethostname([]byte(b.Name)); err != nil {
		return fmt.Errorf("naming the machine: %w", err)
	}
	root, err := mountRoot(b)
	if err != nil {
		return err
	}
	old := filepath.Join(root, "run", "outside")
	if err := os.Mkdir(old, 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return fmt.Errorf("making the machine's files the root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/run/outside", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the outside: %w", err)
	}
	if err := os.Remove("/run/outside"); err != nil {
		return err
	}
	// kubelet asks for mounts that propagate, and systemd in a container leaves that to others.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing mounts: %w", err)
	}
	env := []string{"container=unshare", "PATH=" + path, "TERM=dumb", "LANG=C"}
	argv := []string{"systemd", "--system", "--log-target=journal", "--show-status=no"}
	return fmt.Errorf("executing systemd: %w", unix.Exec("/lib/systemd/systemd", argv, env))
}

// hierarchies are the folders called name in every cgroup hierarchy: one of
// v2, or one for each controller of v1 and the unified one.
func hierarchies(name string) []string {
	if unified() {
		return []string{filepath.Join(cgroupRoot, name)}
	}
	var dirs []string
	entries, _ := os.ReadDir(cgroupRoot)
	for _, entry := range entries {
		if entry.IsDir() { // cpu and the like; links are second names
			dirs = append(dirs, filepath.Join(cgroupRoot, entry.Name(), name))
		}
	}
	return dirs
}

func unified() bool {
	var s unix.Statfs_t
	return unix.Statfs(cgroupRoot, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC
}

// makeCgroups makes the machine's cgroups, usable for processes: v1's cpuset
// is empty in a new group, and v2 passes controllers on only when told to.
func makeCgroups(name string) error {
	for _, dir := range hierarchies(name) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making the machine's cgroups: %w", err)
		}
		for _, group := range []string{filepath.Dir(dir), dir} {
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				if err := inherit(group, file); err != nil {
					return err
				}
			}
		}
		if unified() {
			for _, group := range []string{filepath.Dir(filepath.Dir(dir)), filepath.Dir(dir)} {
				controllers, _ := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
				text := ""
				for _, c := range strings.Fields(string(controllers)) {
					text += " +" + c
				}
				if err := os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte(text), 0); err != nil {
					return fmt.Errorf("passing cgroup controllers on to the machine: %w", err)
				}
			}
		}
	}
	return nil
}

// clearCgroups removes what the last boot has left: a computer that boots has
// no cgroups, and kubelet would look for the containers of these one by one.
func clearCgroups(name string) error {
	for _, dir := range hierarchies(name) {
		err := harness.Until(time.Minute, "the last boot's cgroups to be empty", func() bool {
			removeGroups(dir)
			_, err := os.Stat(dir)
			return os.IsNotExist(err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func removeGroups(dir string) {
	entries, _ := os.ReadDir(dir) // what cannot be read or removed is seen by the caller
	for _, entry := range entries {
		if entry.IsDir() {
			removeGroups(filepath.Join(dir, entry.Name()))
		}
	}
	_ = unix.Rmdir(dir)
}

// inherit copies the parent's value of a v1 cpuset file into a group that has none.
func inherit(group, file string) error {
	own, err := os.ReadFile(filepath.Join(group, file))
	if err != nil || len(strings.TrimSpace(string(own))) > 0 || unified() {
		return nil // another controller, or a value is there
	}
	value, err := os.ReadFile(filepath.Join(filepath.Dir(group), file))
	if err == nil {
		err = os.WriteFile(filepath.Join(group, file), value, 0)
	}
	if err != nil {
		return fmt.Errorf("preparing the machine's cpuset: %w", err)
	}
	return nil
}

// retryBusy calls mount until what the last boot held is let go of.
func retryBusy(mount func() error) error {
	var err error
	_ = harness.Until(time.Minute, "the last boot's mounts to go", func() bool {
		err = mount()
		return !errors.Is(err, unix.EBUSY)
	})
	return err
}
