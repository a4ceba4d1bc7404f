// Package harness brings up the real parts around the cosentry binary: a
// registry in process, a containerd of its own with runc and CNI, cosentry
// between, and a client that makes the calls a kubelet makes.
//
// It promises to leave nothing behind. Everything runs in private mount, PID,
// network and IPC namespaces with /run on a tmpfs of its own: when the first
// process of the PID namespace ends, for whatever reason, the kernel ends all
// the others, and mounts, network devices and files go with them. Only cgroup
// directories outlive their namespace; they stand under one parent that the
// harness removes. The machine's own files are read-only, all but the
// temporary folder, which go test itself writes to.
//
// It needs root and Linux, and says so instead of skipping anything.
package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stageEnv  = "COSENTRY_HARNESS_STAGE"
	cgroupEnv = "COSENTRY_HARNESS_CGROUP"
	// aliveFD is the read end of a pipe whose other end only the outermost
	// process holds: its end of file says that nobody is left to clean up.
	aliveFD = 3
)

// Isolated runs f in private namespaces and returns the exit code for
// [os.Exit]. It starts this program again, twice: as first process of the
// namespaces, which prepares them and reaps, and as the process that runs f.
// It is called before anything else is done, from main or TestMain.
func Isolated(f func() int) int {
	var err error
	code := 1
	switch os.Getenv(stageEnv) {
	case "":
		code, err = outside()
	case "init":
		code, err = first()
	default:
		return f()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 1
	}
	return code
}

// outside starts the namespaces, waits for them to end and removes the cgroups.
func outside() (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("root is needed: containers are started for real")
	}
	removeStaleCgroups()
	cgroup := newCgroupName()
	defer removeCgroups(cgroup)

	alive, held, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("opening the liveness pipe: %w", err)
	}
	defer held.Close()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), stageEnv+"=init", cgroupEnv+"="+cgroup)
	cmd.ExtraFiles = []*os.File{alive}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting in new namespaces: %w", err)
	}
	alive.Close()
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	if err := cmd.Wait(); err != nil && cmd.ProcessState == nil {
		return 0, fmt.Errorf("waiting for the namespaces to end: %w", err)
	}
	return exitCode(cmd.ProcessState.Sys().(syscall.WaitStatus)), nil
}

// first is process 1 of the namespaces: it mounts what is private, starts the
// process that does the work and reaps whatever is orphaned meanwhile. Shims
// and runc leave orphans by design, and a process that waits for its own
// children through os/exec cannot reap strangers as well.
func first() (int, error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	if err := prepareMounts(); err != nil {
		return 0, err
	}
	if err := loopbackUp(); err != nil {
		return 0, err
	}
	syscall.CloseOnExec(aliveFD)
	if err := os.Setenv(stageEnv, "work"); err != nil {
		return 0, err
	}
	worker, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		return 0, fmt.Errorf("starting the work: %w", err)
	}
	var abandoned atomic.Bool
	go func() {
		for s := range signals {
			_ = syscall.Kill(worker, s.(syscall.Signal))
		}
	}()
	go func() {
		_, _ = os.NewFile(aliveFD, "alive").Read(make([]byte, 1))
		abandoned.Store(true)
		_ = syscall.Kill(-1, syscall.SIGKILL) // everything in the namespace but this process
	}()
	code := reapUntil(worker)
	if abandoned.Load() {
		for killed := true; killed; {
			killed = syscall.Kill(-1, syscall.SIGKILL) == nil
			_, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
		removeCgroups(Cgroup())
	}
	return code, nil
}

func reapUntil(worker int) int {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if pid == worker {
			return exitCode(status)
		}
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return 1
		}
	}
}

func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func prepareMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	// The scratch folder, /run/containerd and /run/cosentry are all here, and
	// go when the namespace goes.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=2g"); err != nil {
		return fmt.Errorf("mounting /run: %w", err)
	}
	return sealMachine()
}

// sealMachine has nothing written to the machine: the root file system is
// read-only in this mount namespace, and what is written to /var, where many
// defaults point and libcni keeps its results, is kept in memory. A default
// that somebody forgot to set fails instead of leaving files behind.
func sealMachine() error {
	tmp := os.TempDir()
	if err := unix.Mount(tmp, tmp, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("keeping %s writable: %w", tmp, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("making / read-only: %w", err)
	}
	for _, dir := range []string{"/run/var/upper", "/run/var/work"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("preparing a /var in memory: %w", err)
		}
	}
	if err := unix.Mount("overlay", "/var", "overlay", 0, "lowerdir=/var,upperdir=/run/var/upper,workdir=/run/var/work"); err != nil {
		return fmt.Errorf("mounting a /var in memory: %w", err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a socket to configure lo: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bringing lo up: %w", err)
	}
	return nil
}

// Until calls done every few milliseconds until it reports true, and returns
// an error that says what was waited for when it has not within d.
func Until(d time.Duration, what string, done func() bool) error {
	deadline := time.Now().Add(d)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for %s", d, what)
		}
		<-tick.C
	}
	return nil
}
