package host_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/host"
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
	// unwell is what kubelet's address of health says of one that runs.
	unwell error
	// started is called when a kubelet was; flaps says that each look finds another.
	started func()
	flaps   bool
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
