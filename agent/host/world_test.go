package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/systemd/manager"
)

// world is a host below a folder: files, a runtime that answers, and a stand-in for its systemd that does what units and kubelet's
// settings on disk say at the moment at which they are started.
type world struct {
	t    testing.TB
	root string
	out  bytes.Buffer

	mu      sync.Mutex
	pid     int
	units   map[string]*unit
	jobs    []string
	sockets map[string]*grpc.Server
	told    string // the endpoint that kubelet was started with

	// broken are versions whose agent does not start, blind those that let the canary by; kubeletDies says that kubelet does not start
	// on a socket; stop is called before each job.
	broken, blind []string
	kubeletDies   string
	stop          func(job string) error
	// unready are versions whose agent says that it is not ready.
	unready []string
	// unsure says that nobody can tell that kubelet is not connected.
	unsure bool
}

type unit struct {
	pid     int
	enabled bool
}

const (
	kubeletConfig = "/var/lib/kubelet/config.yaml"
	theirSocket   = "/run/containerd/containerd.sock"
	ourSocket     = "/run/cosentry/containerd.sock"
	delivered     = `# kubeadm wrote this
kind: KubeletConfiguration
apiVersion: kubelet.config.k8s.io/v1beta1
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock # the runtime
evictionHard: {memory.available: 100Mi}
`
)

// newWorld is a containerd node as kubeadm makes it.
func newWorld(t testing.TB) *world {
	t.Helper()
	root, err := os.MkdirTemp("", "h") // short, because a socket's path may not be long
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, root: root, pid: 100, units: map[string]*unit{}, sockets: map[string]*grpc.Server{}}
	t.Cleanup(func() {
		for _, s := range w.sockets {
			s.Stop()
		}
		os.RemoveAll(root)
	})
	for name, text := range map[string]string{
		"/etc/machine-id":                            "0123456789abcdef0123456789abcdef\n",
		"/usr/lib/systemd/system/kubelet.service":    "[Service]\nExecStart=/usr/bin/kubelet --config=" + kubeletConfig + "\n",
		"/usr/lib/systemd/system/containerd.service": "[Service]\nExecStart=/usr/bin/containerd\n",
		kubeletConfig:                                delivered,
		"/etc/hostname":                              "node\n",
		"/usr/local/bin/other":                       "",
		"/var/log/messages":                          "",
	} {
		w.put(name, text)
	}
	w.serve(theirSocket)
	w.units["kubelet.service"], w.units["containerd.service"] = &unit{}, &unit{}
	w.run("kubelet.service", "/usr/bin/kubelet", "--config="+kubeletConfig)
	w.run("containerd.service", "/usr/bin/containerd")
	w.told = theirSocket
	return w
}

func (w *world) path(p string) string { return filepath.Join(w.root, p) }

func (w *world) put(p, text string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(w.path(p)), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.path(p), []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(p string) string {
	data, err := os.ReadFile(w.path(p))
	if err != nil {
		return "(" + err.(*fs.PathError).Err.Error() + ")"
	}
	return string(data)
}

// run makes a process of a unit.
func (w *world) run(name, exe string, args ...string) {
	w.pid++
	w.units[name].pid = w.pid
	dir := fmt.Sprintf("/proc/%d", w.pid)
	w.put(dir+"/cmdline", strings.Join(append([]string{exe}, args...), "\x00")+"\x00")
	if err := os.Symlink(exe, w.path(dir+"/exe")); err != nil {
		w.t.Fatal(err)
	}
}

// serve answers CRI on a socket.
func (w *world) serve(socket string) {
	if old := w.sockets[socket]; old != nil {
		old.Stop()
	}
	if err := os.MkdirAll(filepath.Dir(w.path(socket)), 0o755); err != nil {
		w.t.Fatal(err)
	}
	os.Remove(w.path(socket))
	l, err := net.Listen("unix", w.path(socket))
	if err != nil {
		w.t.Fatal(err)
	}
	s := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(s, runtimeServer{})
	runtimeapi.RegisterImageServiceServer(s, imageServer{})
	w.sockets[socket] = s
	go func() { _ = s.Serve(l) }()
}

type runtimeServer struct {
	runtimeapi.UnimplementedRuntimeServiceServer
}

func (runtimeServer) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "containerd", RuntimeVersion: "2.4.2"}, nil
}

func (runtimeServer) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{}, nil
}

type imageServer struct {
	runtimeapi.UnimplementedImageServiceServer
}

func (imageServer) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, nil
}

// host is the host as an installation of a version sees it.
func (w *world) host(version string, edit ...func(*host.Options)) *host.Host {
	w.t.Helper()
	binary := filepath.Join(w.t.TempDir(), "cosentry")
	if err := os.WriteFile(binary, []byte("a program, "+version), 0o755); err != nil {
		w.t.Fatal(err)
	}
	o := host.Options{
		Root: w.root, Runtime: "auto", Kubelet: "auto", Mode: "observe", Binary: binary, Version: version,
		Systemd: w, Proofs: w, Out: &w.out, Wait: 2 * time.Second, Reconnect: 300 * time.Millisecond,
	}
	for _, f := range edit {
		f(&o)
	}
	h, err := host.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { h.Close() })
	return h
}

func (w *world) install(version string, edit ...func(*host.Options)) error {
	w.t.Helper()
	return w.host(version, edit...).Install(w.t.Context())
}

// wantInstalled expects the agent of a version to run, and kubelet to use it.
func (w *world) wantInstalled(version string) {
	w.t.Helper()
	exe, err := os.Readlink(w.path(fmt.Sprintf("/proc/%d/exe", w.units["cosentry.service"].pid)))
	if err != nil || !strings.HasPrefix(filepath.Base(exe), "cosentry-"+version+"-") {
		w.t.Errorf("%s runs, %v; want version %s", exe, err, version)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.told != ourSocket {
		w.t.Errorf("kubelet uses %s", w.told)
	}
}

// did are the jobs since the last call.
func (w *world) did() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	jobs := w.jobs
	w.jobs = nil
	return jobs
}

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

func (w *world) Start(ctx context.Context, name string) error { return w.Restart(ctx, name) }

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
		return errors.New("connection refused")
	}
	return nil
}

// tree are the files of the host, with their text, without processes and sockets.
func (w *world) tree() map[string]string {
	all := map[string]string{}
	err := filepath.WalkDir(w.root, func(p string, e fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(p, w.root)
		switch {
		case err != nil:
			return err
		case rel == "/proc" || rel == "/run/containerd":
			return fs.SkipDir
		case e.Type() == fs.ModeSymlink:
			to, err := os.Readlink(p)
			all[rel] = "-> " + to
			return err
		case e.Type().IsRegular():
			all[rel] = w.read(rel)
		default:
			all[rel] = e.Type().String()
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}
