package machine

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"
)

// Layout is where kubelet takes its settings from on the machine.
type Layout string

const (
	// Kubeadm has the runtime's endpoint in /var/lib/kubelet/config.yaml.
	Kubeadm Layout = "kubeadm"
	// KubeadmFlags has it as a flag in /var/lib/kubelet/kubeadm-flags.env, as
	// clusters that older kubeadms made.
	KubeadmFlags Layout = "kubeadm-flags"
	// GKE has kubelet's settings in /home/kubernetes/kubelet-config.yaml, which
	// every boot writes anew, its flags in /etc/default/kubelet, and programs in
	// /home/kubernetes/bin.
	GKE Layout = "gke"
)

// Paths on the machine.
const (
	RuntimeSocket = "/run/containerd/containerd.sock"
	Manifests     = "/etc/kubernetes/manifests"
	Kubeconfig    = "/etc/kubernetes/kubelet.conf"
)

// ConfigFile is kubelet's settings file in this layout.
func (l Layout) ConfigFile() string {
	if l == GKE {
		return "/home/kubernetes/kubelet-config.yaml"
	}
	return "/var/lib/kubelet/config.yaml"
}

// lay makes the layers: image/ is the machine as delivered, over the files of
// the outside; upper/ is what is written on it; disk/ what is no overlay.
func (m *Machine) lay() error {
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		return fmt.Errorf("making the machine's files: %w", err)
	}
	if err := unix.Mount("tmpfs", m.Dir, "tmpfs", 0, "mode=755,size=6g"); err != nil {
		return fmt.Errorf("mounting the machine's disk: %w", err)
	}
	for _, dir := range []string{"image", "upper", "work", "root", "disk/containerd"} {
		if err := os.MkdirAll(filepath.Join(m.Dir, dir), 0o755); err != nil {
			return fmt.Errorf("making the machine's files: %w", err)
		}
	}
	files := m.base()
	node, err := m.kubeletFiles()
	if err != nil {
		return err
	}
	maps.Copy(files, node)
	for at := range m.programs() {
		if _, there := files[at]; !there && !strings.HasSuffix(at, "/") {
			files[at] = File{Mode: 0o755}
		}
	}
	maps.Copy(files, m.Files)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := m.deliver(name, files[name]); err != nil {
			return err
		}
	}
	return m.opaque()
}

// deliver writes a file of the image layer. A name that ends in a slash is a folder.
func (m *Machine) deliver(name string, f File) error {
	at := filepath.Join(m.Dir, "image", name)
	if strings.HasSuffix(name, "/") {
		return os.MkdirAll(at, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return fmt.Errorf("delivering %s: %w", name, err)
	}
	if f.Link != "" {
		return os.Symlink(f.Link, at)
	}
	mode := f.Mode
	if mode == 0 {
		mode = 0o644
	}
	if err := os.WriteFile(at, []byte(f.Text), mode); err != nil {
		return fmt.Errorf("delivering %s: %w", name, err)
	}
	return nil
}

// opaque hides folders of the outside: its own units would be started, and
// what it has of containers and of Kubernetes is not the machine's.
func (m *Machine) opaque() error {
	for _, dir := range []string{
		"etc/systemd/system", "etc/containerd", "etc/kubernetes", "etc/cni", "etc/cosentry", "var/lib/kubelet", "var/lib/cni", "var/lib/cosentry",
		"var/log/pods", "var/log/containers", "var/log/cosentry", "opt", "home",
	} {
		at := filepath.Join(m.Dir, "image", dir)
		if _, err := os.Stat(filepath.Join("/", dir)); os.IsNotExist(err) {
			if _, err := os.Stat(at); os.IsNotExist(err) {
				continue // on neither layer
			}
		}
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := unix.Setxattr(at, "trusted.overlay.opaque", []byte("y"), 0); err != nil {
			return fmt.Errorf("hiding the outside's /%s: %w", dir, err)
		}
	}
	return nil
}

// programs are bound from the outside: they are large and need not be copied.
func (m *Machine) programs() map[string]string {
	kubelet := "kubelet"
	if m.Kubelet != "1.36" {
		kubelet = "kubelet-" + m.Kubelet + "/kubelet"
	}
	bin := "/usr/bin/"
	if m.Layout == GKE {
		bin = "/home/kubernetes/bin/"
	}
	programs := map[string]string{
		"/usr/bin/containerd":              m.Tools.Path("containerd"),
		"/usr/bin/containerd-shim-runc-v2": m.Tools.Path("containerd-shim-runc-v2"),
		"/usr/sbin/runc":                   m.Tools.Path("runc"),
		bin + "kubelet":                    m.Tools.Path(kubelet),
		"/opt/cni/bin/":                    m.Tools.Path("cni"),
		Cosentry:                           m.Tools.Cosentry,
	}
	maps.Copy(programs, m.Programs)
	for at, from := range programs {
		if real, err := filepath.EvalSymlinks(from); err == nil {
			programs[at] = real // a missing one is told by the mount
		}
	}
	return programs
}

// base are the files of the machine whatever its kubelet.
func (m *Machine) base() map[string]File {
	files := map[string]File{
		"/etc/machine-id":                        {Text: fmt.Sprintf("c05e0000000000000000000000000%03x\n", m.serial), Mode: 0o444},
		"/etc/hostname":                          {Text: m.Name + "\n"},
		"/etc/fstab":                             {},
		"/var/log/journal/":                      {}, // its being there has the journal kept over reboots
		"/opt/cni/bin/":                          {},
		"/var/lib/containerd/":                   {},
		"/etc/systemd/journald.conf.d/test.conf": {Text: "[Journal]\nRateLimitBurst=0\nStorage=persistent\n"},
		// A container's first process ignores SIGTERM, and the end of the machine
		// waits for it this long.
		"/etc/systemd/system.conf.d/test.conf":                           {Text: "[Manager]\nDefaultTimeoutStopSec=2s\n"},
		"/etc/systemd/system/default.target":                             {Link: "/usr/lib/systemd/system/multi-user.target"},
		"/usr/lib/systemd/system/containerd.service":                     {Text: containerdUnit},
		"/etc/systemd/system/multi-user.target.wants/containerd.service": {Link: "/usr/lib/systemd/system/containerd.service"},
		"/etc/systemd/system/multi-user.target.wants/kubelet.service":    {Link: "/usr/lib/systemd/system/kubelet.service"},
		"/etc/containerd/config.toml":                                    {Text: fmt.Sprintf(containerdConfig, m.Pause)},
		"/etc/containerd/certs.d/":                                       {},
		"/etc/cni/net.d/10-pods.conflist":                                {Text: fmt.Sprintf(network, m.serial, m.serial)},
		"/var/lib/cni/":                                                  {},
	}
	for _, unit := range strings.Fields(masked) {
		files["/etc/systemd/system/"+unit] = File{Link: "/dev/null"}
	}
	return files
}

// kubeletFiles are kubelet's unit, as kubeadm's package has it, and its settings.
func (m *Machine) kubeletFiles() (map[string]File, error) {
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"staticPodPath": Manifests, "readOnlyPort": 10255, "address": "0.0.0.0",
		"authentication": map[string]any{"anonymous": map[string]any{"enabled": true}, "webhook": map[string]any{"enabled": false}},
		"authorization":  map[string]any{"mode": "AlwaysAllow"},
		"cgroupDriver":   "cgroupfs", "failCgroupV1": false, "failSwapOn": false, "makeIPTablesUtilChains": false,
		"resolvConf": "", "fileCheckFrequency": "1s", "imageGCHighThresholdPercent": 100,
		"evictionHard":              map[string]any{"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
		"volumePluginDir":           "/var/lib/kubelet/volumeplugins",
		"nodeStatusUpdateFrequency": "2s",
	}
	// A test need not wait out kubelet's back-off between a container's restarts, which a reboot counts as one of.
	config["crashLoopBackOff"] = map[string]any{"maxContainerRestartPeriod": "1s"}
	config["featureGates"] = map[string]any{"KubeletCrashLoopBackOffMax": true, "ImageVolume": true}
	flags := fmt.Sprintf("--hostname-override=%s --node-ip=%s", m.Name, m.NodeIP)
	if m.Layout == KubeadmFlags {
		flags += " --container-runtime-endpoint=unix://" + RuntimeSocket
	} else {
		config["containerRuntimeEndpoint"] = "unix://" + RuntimeSocket
	}
	maps.Copy(config, m.KubeletConfig)
	text, err := yaml.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("writing kubelet's settings: %w", err)
	}
	files := map[string]File{Manifests + "/": {}, "/var/lib/kubelet/": {}}
	kubeconfig := ""
	if m.Kubeconfig != nil {
		files[Kubeconfig] = File{Text: string(m.Kubeconfig), Mode: 0o600}
		kubeconfig = " --kubeconfig=" + Kubeconfig
	}
	if m.Layout == GKE {
		m.gkeFiles(files, string(text), flags+kubeconfig)
		return files, nil
	}
	files["/usr/lib/systemd/system/kubelet.service"] = File{Text: kubeletUnit}
	files["/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"] = File{Text: fmt.Sprintf(kubeadmDropIn, strings.TrimSpace(kubeconfig))}
	files["/var/lib/kubelet/kubeadm-flags.env"] = File{Text: fmt.Sprintf("KUBELET_KUBEADM_ARGS=%q\n", flags)}
	files[m.Layout.ConfigFile()] = File{Text: string(text)}
	return files, nil
}

// gkeFiles has every boot write kubelet's settings anew, as GKE's own does.
func (m *Machine) gkeFiles(files map[string]File, config, flags string) {
	flags += " --config=" + GKE.ConfigFile()
	files["/home/kubernetes/bin/"] = File{}
	files["/usr/lib/systemd/system/kubelet.service"] = File{Text: gkeKubeletUnit}
	files["/usr/share/gke/kubelet-config.yaml"] = File{Text: config}
	files["/usr/share/gke/kubelet.env"] = File{Text: fmt.Sprintf("KUBELET_OPTS=%q\n", flags)}
	files["/usr/lib/systemd/system/kube-node-configuration.service"] = File{Text: gkeConfigurationUnit}
	files["/etc/systemd/system/multi-user.target.wants/kube-node-configuration.service"] = File{Link: "/usr/lib/systemd/system/kube-node-configuration.service"}
}

func parseIPv4(text string) ([]byte, error) {
	ip, err := netip.ParseAddr(text)
	if err != nil || !ip.Is4() {
		return nil, fmt.Errorf("the node's address %q is no IPv4 address", text)
	}
	return ip.AsSlice(), nil
}
