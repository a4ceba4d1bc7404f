package peers

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cosentry/cosentry/agent/twin"
)

func TestUnitIsWhatSystemdMade(t *testing.T) {
	for groups, want := range map[string]struct {
		unit string
		pod  bool
	}{
		"0::/system.slice/kubelet.service\n":                             {unit: "kubelet.service"},
		"0::/kubelet.slice/kubelet.service\n":                            {unit: "kubelet.service"},
		"9:name=systemd:/system.slice/kubelet.service\n8:pids:/\n0::/\n": {unit: "kubelet.service"},
		"0::/system.slice/kubelet.service/child\n":                       {unit: "kubelet.service"},
		"0::/user.slice/user-0.slice/session-1.scope\n":                  {unit: "session-1.scope"},
		"0::/init.scope\n":                                               {unit: "init.scope"},
		"0::/system.slice/kubelet.service:with:colons.service\n":         {unit: "kubelet.service:with:colons.service"},
		"":       {},
		"0::/\n": {},
		// Whoever may make control groups below his own calls them as he likes.
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/kubelet.service\n":                  {unit: "user@1000.service"},
		"0::/system.slice/docker-abc.scope/system.slice/kubelet.service\n":                              {unit: "docker-abc.scope"},
		"0::/docker/abc/system.slice/kubelet.service\n":                                                 {},
		"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-1.scope/system.slice/kubelet.service\n":  {pod: true},
		"0::/kubepods/besteffort/pod1/2/system.slice/kubelet.service\n":                                 {pod: true},
		"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1.slice/cri-containerd-1.scope\n": {pod: true},
		"9:name=systemd:/kubepods/pod1/2\n0::/\n":                                                       {pod: true},
		"9:name=systemd:/kubepods/pod1/2\n0::/system.slice/kubelet.service\n":                           {pod: true},
		"4:memory:/kubepods/pod1/2\n0::/\n":                                                             {pod: true},
		"0::/system.slice/evil.slice.service/kubelet.service\n":                                         {unit: "evil.slice.service"},
		"0::/system.slice/kubelet.servicex\n":                                                           {},
		"1:xname=systemd:/system.slice/kubelet.service\n":                                               {},
		// As a container sees it that has a control group namespace of its own.
		"0::/../../../../system.slice/kubelet.service\n": {unit: "kubelet.service"},
		"0::/../../../../init.scope\n":                   {unit: "init.scope"},
		"0::/..\n":                                       {},
		"0::/../cri-containerd-2.scope\n":                {unit: "cri-containerd-2.scope"},
		"0::/../../kubepods-besteffort-pod1.slice/cri-containerd-2.scope/system.slice/kubelet.service\n": {pod: true},
		"0::/../../pod0a1b2c3d-0000-4000-8000-000000000000/2/system.slice/kubelet.service\n":             {pod: true},
		"0::/../kubepods/pod1/2\n":                  {pod: true},
		"0::/../.../system.slice/kubelet.service\n": {},
	} {
		if unit, pod := unitOf(groups); unit != want.unit || pod != want.pod {
			t.Errorf("%q: %q, pod %v; want %q, %v", groups, unit, pod, want.unit, want.pod)
		}
	}
}

func TestWhoIsKubelet(t *testing.T) {
	for name, tc := range map[string]struct {
		p        Process
		is, like bool
	}{
		"kubelet":                               {Process{Name: "kubelet", Exe: "/usr/bin/kubelet", Unit: "kubelet.service"}, true, true},
		"k3s":                                   {Process{Name: "k3s-server", Exe: "/usr/local/bin/k3s", Unit: "k3s.service"}, true, true},
		"one that calls itself kubelet":         {Process{Name: "kubelet", Exe: "/tmp/x"}, false, false},
		"a program that is called kubelet":      {Process{Name: "x", Exe: "/tmp/kubelet", Unit: "session-1.scope"}, false, true},
		"one that was replaced on disk":         {Process{Name: "x", Exe: "/usr/bin/kubelet (deleted)"}, false, true},
		"one whose program may not be read":     {Process{Name: "kubelet"}, false, true},
		"a user's unit of that name":            {Process{Name: "kubelet", Unit: "kubelet.service", UID: 1000}, false, true},
		"a pod's":                               {Process{Name: "kubelet", Exe: "/usr/bin/kubelet", Pod: true}, false, false},
		"a pod's with a unit of kubelet's name": {Process{Name: "kubelet", Unit: "kubelet.service", Pod: true}, false, false},
	} {
		if tc.p.IsKubelet() != tc.is || tc.p.MayBeKubelet() != tc.like {
			t.Errorf("%s: is %v, may be %v", name, tc.p.IsKubelet(), tc.p.MayBeKubelet())
		}
	}
}

// A process may be called what it likes: line ends and parentheses do not move the fields after its name.
func TestNameCannotMoveFields(t *testing.T) {
	self, err := Look("/proc", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	for _, name := range []string{"a) R 1 2 (b", "x\n1 (y) S 0", ") ) )"} {
		dir := t.TempDir()
		for file, text := range map[string]string{
			"stat": fmt.Sprintf("7 (%s) %s", name, rest), "status": "Name:\tx\nUid:\t5\t6\t7\t8\n", "cgroup": "0::/a.slice/b.service\n",
		} {
			if err := os.MkdirAll(filepath.Join(dir, "7"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "7", file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p, err := Look(dir, 7)
		if err != nil || p.Name != name || p.UID != 6 || p.Unit != "b.service" || p.Age < self.Age || p.Age > self.Age+time.Minute {
			t.Errorf("%q: %+v, %v", name, p, err)
		}
	}
}

// A number that was given away is not the process that connected.
func TestYoungerProcessIsAnother(t *testing.T) {
	if _, err := LookSince("/proc", os.Getpid(), 0); err != nil {
		t.Error(err)
	}
	if _, err := LookSince("/proc", os.Getpid(), 365*24*time.Hour); !errors.Is(err, ErrGone) {
		t.Errorf("older than the machine: %v", err)
	}
	if _, err := Look("/proc", 1<<30); !errors.Is(err, ErrGone) {
		t.Errorf("no process: %v", err)
	}
}

// listen makes a socket whose path is short.
func listen(t *testing.T) (net.Listener, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		var held []net.Conn // or they would be collected, and closed
		for {
			c, err := l.Accept()
			if err != nil {
				for _, c := range held {
					c.Close()
				}
				return
			}
			held = append(held, c)
		}
	}()
	t.Cleanup(func() { l.Close() })
	return l, path
}

// connect starts another process that holds n connections, in a network namespace of its own if asked.
func connect(t *testing.T, path string, n int, isolated bool) int {
	t.Helper()
	var attr *syscall.SysProcAttr
	if isolated {
		attr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	pid, _ := twin.Start(t, "TestHelperConnects", attr, "CONNECT_TO="+path, fmt.Sprint("CONNECT_TIMES=", n))
	return pid
}

// TestHelperConnects is the other process: it holds connections until its input ends.
func TestHelperConnects(t *testing.T) {
	path, times := os.Getenv("CONNECT_TO"), 0
	if _, err := fmt.Sscan(os.Getenv("CONNECT_TIMES"), &times); path == "" || err != nil {
		return
	}
	for range times {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	twin.Tell("connected")
}

func TestClientsOfASocket(t *testing.T) {
	_, path := listen(t)
	s, err := Inspect(t.Context(), "", path)
	if err != nil || len(s.Clients) != 0 || s.Unknown != 0 || s.Partial != nil {
		t.Fatalf("nobody is connected: %+v, %v", s, err)
	}
	if len(s.Listeners) != 1 || s.Listeners[0].PID != os.Getpid() {
		t.Errorf("listeners %v", s.Listeners)
	}
	_, other := listen(t)
	connect(t, other, 1, false)
	want := map[int]int{connect(t, path, 1, false): 1, connect(t, path, 3, false): 3}
	check := func(hostRoot string) {
		t.Helper()
		got := map[int]int{}
		// For a moment, between leaving the queue and being accepted, a connection is in neither list.
		for end := time.Now().Add(20 * time.Second); fmt.Sprint(got) != fmt.Sprint(want) && time.Now().Before(end); {
			s, err := Inspect(t.Context(), hostRoot, path)
			if err != nil || s.Unknown != 0 || s.Partial != nil {
				t.Fatalf("%+v, %v", s, err)
			}
			clear(got)
			for _, c := range s.Clients {
				got[c.PID] = c.Connections
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("connections by process %v, want %v", got, want)
		}
	}
	check("")
	check("/")
	// As a pod is that has the socket mounted: the kernel lists it in its own network namespace.
	want[connect(t, path, 2, true)] = 2
	check("")
}

// One that hangs and accepts nobody has clients all the same.
func TestClientsThatWaitAreSeen(t *testing.T) {
	dir, err := os.MkdirTemp("", "pe")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pid := connect(t, path, 2, true)
	s, err := Inspect(t.Context(), "", path)
	if err != nil || len(s.Clients) != 1 || s.Clients[0].PID != pid || s.Clients[0].Connections != 2 || s.Unknown != 0 {
		t.Errorf("%+v, %v; want process %d twice", s, err, pid)
	}
}

// A socket of the same path in a container is another, and one that was moved is the same.
func TestSocketIsKnownByItsFile(t *testing.T) {
	_, path := listen(t)
	pid := connect(t, path, 1, false)
	moved := path + "2"
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if s, err := Inspect(t.Context(), "", path); err != nil || len(s.Clients) != 0 {
		t.Errorf("the new one: %+v, %v", s, err)
	}
	if s, err := Inspect(t.Context(), "", moved); err != nil || len(s.Clients) != 1 || s.Clients[0].PID != pid {
		t.Errorf("the moved one: %+v, %v", s, err)
	}
	link := path + "3"
	if err := os.Symlink(moved, link); err != nil {
		t.Fatal(err)
	}
	if s, err := Inspect(t.Context(), "", link); err != nil || len(s.Clients) != 1 {
		t.Errorf("by a link: %+v, %v", s, err)
	}
}

// The first thread of a Go program cannot end. If it went to another namespace it would stay there, and /proc/self show the
// program what is in a pod where it means to look at the node.
func TestProcessStaysInItsNetworkNamespace(t *testing.T) {
	_, path := listen(t)
	connect(t, path, 1, true)
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := Inspect(t.Context(), "", path); err != nil {
			t.Fatal(err)
		}
		if after, err := os.Readlink("/proc/self/ns/net"); err != nil || after != before {
			t.Fatalf("it was in %s, and after %d looks is in %s (%v)", before, i+1, after, err)
		}
	}
}

func TestNoSocket(t *testing.T) {
	l, path := listen(t)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := Inspect(t.Context(), "", path); err == nil || !strings.Contains(err.Error(), "nobody is listening") {
		t.Errorf("a socket that nobody serves: %v", err)
	}
	for _, path := range []string{path + "x", filepath.Dir(path)} {
		if _, err := Inspect(t.Context(), "", path); err == nil {
			t.Errorf("%s is no socket", path)
		}
	}
}

// A link in the host's tree leads where it would lead on that host.
func TestHostRootKeepsLinksInside(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"run", "var"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/run", filepath.Join(root, "var", "run")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(root, "run", "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	inside, err := fileAt(root, "/var/run/s")
	if err != nil {
		t.Fatal(err)
	}
	if direct, err := fileAt("", filepath.Join(root, "run", "s")); err != nil || direct != inside {
		t.Errorf("%v, %v, %v", inside, direct, err)
	}
}

// FuzzParse: whatever the kernel were to send, reading it ends and does not panic.
func FuzzParse(f *testing.F) {
	f.Add(request())
	f.Add([]byte{16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, b []byte) {
		var socks []sock
		_, _ = take(b, &socks)
	})
}
