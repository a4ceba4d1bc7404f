package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Containerd is a containerd with a folder, a socket and a bridge of its own.
type Containerd struct {
	*Process
	Socket   string
	HostsDir string // certs.d: <host>/hosts.toml, read at every pull
	dir      string
	tools    Tools
}

// StartContainerd starts containerd with everything of its under dir, and
// waits until its CRI service answers. subnet is the third octet of the pod
// network 10.201.0.0/16 and names the bridge. The sandbox's image is pulled
// from pause.
func StartContainerd(ctx context.Context, tools Tools, dir string, subnet int, pause string) (*Containerd, error) {
	c := &Containerd{Socket: filepath.Join(dir, "containerd.sock"), HostsDir: filepath.Join(dir, "certs.d"), dir: dir, tools: tools}
	cni := filepath.Join(dir, "cni")
	for _, d := range []string{c.HostsDir, cni} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("preparing containerd: %w", err)
		}
	}
	network := fmt.Sprintf(cniConfig, subnet, dir, subnet)
	if err := os.WriteFile(filepath.Join(cni, "10-pods.conflist"), []byte(network), 0o600); err != nil {
		return nil, fmt.Errorf("writing the pod network: %w", err)
	}
	config := fmt.Sprintf(containerdConfig, dir, pause, tools.Path("containerd-shim-runc-v2"), tools.Path("runc"), tools.Path("cni"))
	if err := os.WriteFile(c.config(), []byte(config), 0o600); err != nil {
		return nil, fmt.Errorf("writing containerd's settings: %w", err)
	}
	return c, c.Start(ctx)
}

func (c *Containerd) config() string { return filepath.Join(c.dir, "containerd.toml") }

// Start starts containerd again after it was stopped. Its pods live on meanwhile.
func (c *Containerd) Start(ctx context.Context) error {
	var err error
	env := []string{"PATH=" + c.tools.dir + ":" + os.Getenv("PATH")} // the shim looks for runc
	if c.Process, err = StartProcess(c.dir, "containerd", c.tools.Path("containerd"), env, "--config", c.config()); err != nil {
		return err
	}
	conn, err := DialCRI(c.Socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	runtime := runtimeapi.NewRuntimeServiceClient(conn)
	return c.WaitReady(30*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := runtime.Version(ctx, &runtimeapi.VersionRequest{})
		return err == nil
	})
}

// Client is a client of containerd's own API, in the namespace of the CRI:
// the way around the CRI socket that someone on the node has.
func (c *Containerd) Client() (*containerd.Client, error) {
	client, err := containerd.New(c.Socket, containerd.WithDefaultNamespace("k8s.io"))
	if err != nil {
		return nil, fmt.Errorf("connecting to containerd: %w", err)
	}
	return client, nil
}

// DialCRI connects to a CRI socket with the message limit that kubelet uses.
// The connection is made anew quickly, so that waiting for a server is short.
func DialCRI(socket string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20), grpc.MaxCallSendMsgSize(16<<20)),
		grpc.WithConnectParams(fastReconnect()))
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", socket, err)
	}
	return conn, nil
}

// restrict_oom_score_adj lets pods start where root lacks CAP_SYS_RESOURCE,
// and SystemdCgroup = false where systemd is not process 1.
const containerdConfig = `version = 4
root = '%[1]s/root'
state = '%[1]s/state'
imports = []
disabled_plugins = [
  'io.containerd.nri.v1.nri', 'io.containerd.internal.v1.tracing', 'io.containerd.tracing.processor.v1.otlp',
  'io.containerd.snapshotter.v1.btrfs', 'io.containerd.snapshotter.v1.devmapper', 'io.containerd.snapshotter.v1.zfs',
  'io.containerd.snapshotter.v1.blockfile', 'io.containerd.snapshotter.v1.erofs', 'io.containerd.differ.v1.erofs',
]
[plugins.'io.containerd.server.v1.grpc']
  address = '%[1]s/containerd.sock'
[plugins.'io.containerd.server.v1.ttrpc']
  address = '%[1]s/containerd.sock.ttrpc'
[plugins.'io.containerd.shim.v1.manager']
  socket_dir = '%[1]s/s'
[plugins.'io.containerd.internal.v1.opt']
  path = '%[1]s/opt'
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '%[2]s'
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = '%[1]s/certs.d'
[plugins.'io.containerd.cri.v1.runtime']
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  cdi_spec_dirs = []
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    runtime_path = '%[3]s'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = '%[4]s'
      Root = '%[1]s/runc'
      SystemdCgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['%[5]s']
    conf_dir = '%[1]s/cni'
`

const cniConfig = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "cosentry%d", "isGateway": true, "ipMasq": false,
     "ipam": {"type": "host-local", "dataDir": "%s/cni-ipam", "ranges": [[{"subnet": "10.201.%d.0/24"}]]}}
  ]
}
`
