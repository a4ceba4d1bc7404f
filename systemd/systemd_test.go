package systemd

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// kubeadm is a usual node.
func kubeadm() Node {
	return Node{
		Runtime: Containerd, RuntimeUnit: "containerd.service", KubeletUnit: "kubelet.service",
		Binary: "/opt/cosentry/bin/cosentry", Config: "/etc/cosentry/config.yaml", Version: 252,
	}
}

// files are those for n, by their path.
func files(t *testing.T, n Node) map[string]string {
	t.Helper()
	all, err := Files(n)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, f := range all {
		texts[f.Path] = string(f.Text)
	}
	return texts
}

// has reports whether a unit has the line.
func has(text, line string) bool { return strings.Contains("\n"+text, "\n"+line+"\n") }

func TestSocketIsNamedAfterTheRuntime(t *testing.T) {
	n := kubeadm()
	for runtime, want := range map[string]string{Containerd: "/run/cosentry/containerd.sock", CRIO: "/run/cosentry/crio.sock"} {
		n.Runtime = runtime
		if s := files(t, n)[Socket]; !has(s, "ListenStream="+want) {
			t.Errorf("with %s the socket is not %s:\n%s", runtime, want, s)
		}
	}
}

func TestOrderAtBoot(t *testing.T) {
	f := files(t, kubeadm())
	for path, lines := range map[string][]string{
		Service:                       {"Requires=cosentry.socket", "After=cosentry.socket containerd.service", "Before=kubelet.service"},
		"kubelet.service.d/" + DropIn: {"Wants=cosentry.socket cosentry.service", "After=cosentry.socket"},
	} {
		for _, line := range lines {
			if !has(f[path], line) {
				t.Errorf("%s has no line %s:\n%s", path, line, f[path])
			}
		}
	}
}

// A unit that is after itself, or after the kubelet that is to wait for it, would be a cycle, which systemd breaks by leaving
// out one of the jobs.
func TestRuntimeThatIsKubeletIsNotWaitedFor(t *testing.T) {
	for name, unit := range map[string]string{"named": "k3s.service", "not named": ""} {
		t.Run(name, func(t *testing.T) {
			n := kubeadm()
			n.RuntimeUnit, n.KubeletUnit = unit, "k3s.service"
			if s := files(t, n)[Service]; !has(s, "After=cosentry.socket") || !has(s, "Before=k3s.service") {
				t.Errorf("it waits for something else than the socket:\n%s", s)
			}
		})
	}
}

// kubelet would be stopped with what it requires, and is not started again after a requirement once failed.
func TestKubeletRequiresNothing(t *testing.T) {
	s := files(t, kubeadm())["kubelet.service.d/"+DropIn]
	for _, word := range []string{"Requires=", "BindsTo=", "PartOf=", "Requisite="} {
		if strings.Contains(s, "\n"+word) {
			t.Errorf("%s stands in kubelet's drop-in:\n%s", word, s)
		}
	}
}

func TestSocketOutlivesAServiceThatKeepsFailing(t *testing.T) {
	f := files(t, kubeadm())
	if !has(f[Service], "StartLimitIntervalSec=0") || !has(f[Service], "Restart=always") || !has(f[Socket], "TriggerLimitIntervalSec=0") {
		t.Errorf("a limit would end the socket:\n%s\n%s", f[Service], f[Socket])
	}
}

func TestDelayGrowsWhereSystemdKnowsHow(t *testing.T) {
	for version, want := range map[int]bool{239: false, 253: false, 254: true, 257: true} {
		n := kubeadm()
		n.Version = version
		s := files(t, n)[Service]
		if got := strings.Contains(s, "\nRestartSteps="); got != want {
			t.Errorf("systemd %d: RestartSteps written is %v, want %v", version, got, want)
		}
	}
}

func TestWhatCannotStandInAUnitIsRefused(t *testing.T) {
	for name, change := range map[string]func(*Node){
		"a line of its own":          func(n *Node) { n.Binary = "/opt/a\nExecStartPre=/evil" },
		"an argument of its own":     func(n *Node) { n.Config = "/etc/a --mode observe" },
		"a specifier":                func(n *Node) { n.Binary = "/opt/%i" },
		"a variable":                 func(n *Node) { n.Config = "/etc/$A" },
		"a relative path":            func(n *Node) { n.Binary = "cosentry" },
		"a path upwards":             func(n *Node) { n.Binary = "/opt/../tmp/cosentry" },
		"no binary":                  func(n *Node) { n.Binary = "" },
		"a quote":                    func(n *Node) { n.ReadWrite = []string{`/a"`} },
		"the root to write to":       func(n *Node) { n.ReadWrite = []string{"/"} },
		"a drop-in elsewhere":        func(n *Node) { n.KubeletUnit = "../../kubelet.service" },
		"no kubelet":                 func(n *Node) { n.KubeletUnit = "" },
		"two units":                  func(n *Node) { n.RuntimeUnit = "a.service b.service" },
		"a unit that is no service":  func(n *Node) { n.RuntimeUnit = "containerd.socket" },
		"a runtime without a socket": func(n *Node) { n.Runtime = "docker" },
		"a systemd too old":          func(n *Node) { n.Version = 219 },
	} {
		t.Run(name, func(t *testing.T) {
			n := kubeadm()
			change(&n)
			if f, err := Files(n); err == nil {
				t.Errorf("written:\n%s", f[1].Text)
			}
		})
	}
}

// judged writes the units of a node where systemd's tools find them, and has systemd-analyze judge them; found is false where
// there is no such tool. integration/node asks a systemd that runs.
func judged(t *testing.T, args ...string) (out string, found bool, err error) {
	t.Helper()
	tool, err := exec.LookPath("systemd-analyze")
	if errors.Is(err, exec.ErrNotFound) {
		t.Log("there is no systemd-analyze here: only integration/node has these units judged")
		return "", false, nil
	}
	root := t.TempDir()
	n := kubeadm()
	n.Binary, n.ReadWrite = "/usr/bin/true", []string{"/srv/audit"} // it also looks whether the programs are there
	dir := filepath.Join(root, Dir)
	files := files(t, n)
	files["kubelet.service"] = "[Service]\nExecStart=/usr/bin/true\n"
	files["containerd.service"] = "[Service]\nExecStart=/usr/bin/true\n"
	for path, text := range files {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), tool, args...)
	cmd.Dir = root // where there is no file of that name, which it would take instead
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":", "LC_ALL=C")
	all, err := cmd.CombinedOutput()
	return string(all), true, err
}

func TestSystemdFindsNoFault(t *testing.T) {
	out, found, err := judged(t, "verify", "--man=no", "--recursive-errors=yes", Socket, Service, "kubelet.service")
	if found && (err != nil || strings.Contains(out, "cosentry")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// The figure that the package comment gives. Whoever takes a line of the sandbox away has to change it.
func TestSandboxIsAsTightAsItsWorkAllows(t *testing.T) {
	out, found, err := judged(t, "security", "--offline=yes", "--no-pager", "--threshold=21", Service)
	if found && (err != nil || !strings.Contains(out, "Overall exposure level for cosentry.service: 2.1 OK")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// What reads its policies and lists again on SIGHUP is told so by the word that every administrator knows, and is not started anew.
func TestReloadIsAHangUpOfTheAgent(t *testing.T) {
	if s := files(t, kubeadm())[Service]; !has(s, "ExecReload=/bin/kill -HUP $MAINPID") {
		t.Errorf("systemctl reload does nothing:\n%s", s)
	}
}
