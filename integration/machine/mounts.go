package machine

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mountRoot mounts everything of the machine under a folder, which it returns.
func mountRoot(b boot) (string, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("making mounts private: %w", err)
	}
	root := filepath.Join(b.Layers, "root")
	layers := fmt.Sprintf("lowerdir=%[1]s/image:/,upperdir=%[1]s/upper,workdir=%[1]s/work", b.Layers)
	err := retryBusy(func() error { return unix.Mount("overlay", root, "overlay", 0, layers) })
	if err != nil {
		return "", fmt.Errorf("mounting the machine's files: %w", err)
	}
	for _, step := range []func(string) error{mountKernel, mountDev, mountCgroups, sealSysctl} {
		if err := step(root); err != nil {
			return "", err
		}
	}
	// An overlay cannot be the upper layer of another: containerd's snapshots
	// are on the disk itself.
	binds := map[string]string{"/var/lib/containerd": filepath.Join(b.Layers, "disk", "containerd")}
	for to, from := range b.Binds {
		binds[to] = from
	}
	for to, from := range binds {
		if err := unix.Mount(from, filepath.Join(root, to), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return "", fmt.Errorf("binding %s to %s: %w", from, to, err)
		}
	}
	return root, nil
}

func mountKernel(root string) error {
	for _, m := range []struct {
		kind, at, options string
		flags             uintptr
	}{
		{"proc", "proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", "sys", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"tmpfs", "dev", "mode=755", unix.MS_NOSUID},
		{"tmpfs", "run", "mode=755", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", "tmp", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	} {
		if err := unix.Mount(m.kind, filepath.Join(root, m.at), m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("mounting /%s: %w", m.at, err)
		}
	}
	return nil
}

// mountDev fills /dev. The outside's own is not bound: systemd would change it.
func mountDev(root string) error {
	dev := filepath.Join(root, "dev")
	for name, number := range map[string]uint64{
		"null": unix.Mkdev(1, 3), "zero": unix.Mkdev(1, 5), "full": unix.Mkdev(1, 7), "random": unix.Mkdev(1, 8),
		"urandom": unix.Mkdev(1, 9), "kmsg": unix.Mkdev(1, 11), "tty": unix.Mkdev(5, 0),
	} {
		if err := unix.Mknod(filepath.Join(dev, name), unix.S_IFCHR|0o666, int(number)); err != nil {
			return fmt.Errorf("making /dev/%s: %w", name, err)
		}
	}
	for _, name := range []string{"pts", "shm", "mqueue"} {
		if err := os.Mkdir(filepath.Join(dev, name), 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("devpts", filepath.Join(dev, "pts"), "devpts", 0, "newinstance,ptmxmode=0666,mode=620"); err != nil {
		return fmt.Errorf("mounting /dev/pts: %w", err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(dev, "shm"), "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mounting /dev/shm: %w", err)
	}
	for name, to := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(to, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return nil
}

// mountCgroups mounts the hierarchies that the outside has. The cgroup
// namespace makes the machine's group the root of each.
func mountCgroups(root string) error {
	at := filepath.Join(root, "sys", "fs", "cgroup")
	if unified() {
		return unix.Mount("cgroup2", at, "cgroup2", 0, "")
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mounting the cgroups: %w", err)
	}
	for _, dir := range hierarchies("") {
		name := filepath.Base(dir)
		kind, options := "cgroup", name
		switch name {
		case "systemd":
			options = "none,name=systemd"
		case "unified":
			kind, options = "cgroup2", ""
		}
		if err := os.Mkdir(filepath.Join(at, name), 0o755); err != nil {
			return err
		}
		if err := unix.Mount(kind, filepath.Join(at, name), kind, 0, options); err != nil {
			return fmt.Errorf("mounting the cgroups of %s: %w", name, err)
		}
	}
	return nil
}

// sealSysctl keeps kubelet and systemd from changing settings of the kernel
// that the outside shares. kubelet does not start unless some have its
// values, so it is shown those.
func sealSysctl(root string) error {
	sys := filepath.Join(root, "proc", "sys")
	values := filepath.Join(root, "run", "sysctl")
	if err := os.Mkdir(values, 0o755); err != nil {
		return err
	}
	for _, dir := range []string{sys, filepath.Join(sys, "net")} {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("sealing /proc/sys: %w", err)
		}
	}
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		file := filepath.Join(values, filepath.Base(name))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, filepath.Join(sys, name), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("showing %s as kubelet wants it: %w", name, err)
		}
	}
	if err := unix.Mount("", sys, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("sealing /proc/sys: %w", err)
	}
	return nil
}

// addAddress gives loopback one more address, under a name of its own.
func addAddress(serial int, address string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("adding the node's address: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(fmt.Sprintf("lo:%d", serial))
	if err != nil {
		return err
	}
	ip, err := parseIPv4(address)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		call uint
		ip   []byte
	}{{unix.SIOCSIFADDR, ip}, {unix.SIOCSIFNETMASK, []byte{255, 255, 255, 255}}} {
		if err := req.SetInet4Addr(step.ip); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, step.call, req); err != nil {
			return fmt.Errorf("adding the node's address %s: %w", address, err)
		}
	}
	return nil
}

// isOpaque reports whether a layer's folder hides those below it.
func isOpaque(dir string) bool {
	value := make([]byte, 4)
	n, err := unix.Getxattr(dir, "trusted.overlay.opaque", value)
	return err == nil && string(value[:n]) == "y"
}
