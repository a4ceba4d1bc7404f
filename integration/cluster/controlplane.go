// Package cluster tests cosentry as a cluster has it: etcd, the API server, the controller manager and the scheduler
// run as processes, the node is a machine with a systemd, a containerd and a kubelet of its own, and cosentry comes by
// `kubectl apply -k` of the manifests in deploy/ with the image that deploy/image makes.
//
// It promises to leave nothing behind: everything is inside the namespaces of package harness and ends with them.
// What it needs and does not find is an error that says how to get it; nothing is skipped.
package cluster

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/cosentry/cosentry/integration/harness"
)

// patience is how long a part of the cluster may take to come up, or a pod, or a pod to be refused: image, sandbox and kubelet's own
// back-off, on a machine that does other things as well.
const patience = 2 * time.Minute

const (
	// serviceAddress is the first of the service range, which the API server takes for the service `kubernetes`.
	serviceAddress = "10.97.0.1"
	serviceRange   = "10.97.0.0/24"
	// nodeAddress is the machine's own, which it brings.
	nodeAddress = "10.96.0.1"
	etcdAddress = "127.0.0.1:2379"
	etcdPeers   = "127.0.0.1:2380"
)

// ControlPlane is everything of a cluster but its nodes.
type ControlPlane struct {
	// Server is the API server's address, the same for the node and for pods.
	Server string
	// Dir holds certificates, settings and logs.
	Dir string

	tools      harness.Tools
	authority  *authority
	client     *http.Client
	api        *harness.Process
	processes  []*harness.Process // in the order of their start, without the API server
	kubeconfig string             // the administrator's
}

// StartControlPlane starts all parts, and returns when the API server is ready and namespace default has its service
// account: pods can be created from then on.
func StartControlPlane(ctx context.Context, tools harness.Tools, dir string) (*ControlPlane, error) {
	c := &ControlPlane{Server: "https://" + serviceAddress, Dir: dir, tools: tools}
	if err := c.prepare(); err != nil {
		return nil, fmt.Errorf("preparing the control plane: %w", err)
	}
	if err := addAddress("service", serviceAddress); err != nil {
		return nil, err
	}
	if err := c.startEtcd(); err != nil {
		return nil, err
	}
	if err := c.StartAPI(ctx); err != nil {
		return nil, err
	}
	if err := c.startControllers(); err != nil {
		return nil, err
	}
	err := eventually(ctx, patience, "service account default", func(ctx context.Context) error {
		return c.Get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
	})
	if err != nil {
		return nil, errors.Join(err, errors.New(c.Logs()))
	}
	return c, nil
}

func (c *ControlPlane) prepare() error {
	var err error
	if c.authority, err = newAuthority(); err != nil {
		return err
	}
	private, public, err := signingKey()
	if err != nil {
		return err
	}
	files := map[string][]byte{"ca.crt": c.authority.pem, "tokens.key": private, "tokens.pub": public}
	if err := writeFiles(c.Dir, files); err != nil {
		return err
	}
	hosts := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	addresses := []net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP(serviceAddress), net.ParseIP(nodeAddress)}
	if err := c.authority.issueFiles(c.Dir, "api", "kube-apiserver", nil, hosts, addresses...); err != nil {
		return err
	}
	if err := c.authority.issueFiles(c.Dir, "api-kubelet", "kube-apiserver-kubelet-client", []string{"system:masters"}, nil); err != nil {
		return err
	}
	users := map[string]struct {
		name   string
		groups []string
	}{
		"admin":      {"kubernetes-admin", []string{"system:masters"}},
		"controller": {"system:kube-controller-manager", nil},
		"scheduler":  {"system:kube-scheduler", nil},
	}
	for file, user := range users {
		config, err := c.Kubeconfig(user.name, user.groups...)
		if err != nil {
			return err
		}
		if err := writeFiles(c.Dir, map[string][]byte{file + ".kubeconfig": config}); err != nil {
			return err
		}
	}
	c.kubeconfig = filepath.Join(c.Dir, "admin.kubeconfig")
	c.client, err = c.authority.httpClient("kubernetes-admin", "system:masters")
	return err
}

// CA is the file with the authority's certificate.
func (c *ControlPlane) CA() string { return filepath.Join(c.Dir, "ca.crt") }

// Kubeconfig is a configuration with a certificate for the user in it.
func (c *ControlPlane) Kubeconfig(user string, groups ...string) ([]byte, error) {
	certificate, key, err := c.authority.issue(user, groups, nil)
	if err != nil {
		return nil, err
	}
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: user, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: test, context: {cluster: test, user: user}}]
current-context: test
`, c.Server, b64(c.authority.pem), b64(certificate), b64(key)), nil
}

func (c *ControlPlane) start(name string, args ...string) (*harness.Process, error) {
	return harness.StartProcess(c.Dir, name, c.tools.Path(name), nil, args...)
}

func (c *ControlPlane) startEtcd() error {
	etcd, err := c.start("etcd", "--name=test", "--data-dir="+filepath.Join(c.Dir, "etcd"),
		"--listen-client-urls=http://"+etcdAddress, "--advertise-client-urls=http://"+etcdAddress,
		"--listen-peer-urls=http://"+etcdPeers, "--initial-advertise-peer-urls=http://"+etcdPeers,
		"--initial-cluster=test=http://"+etcdPeers, "--unsafe-no-fsync", "--log-level=warn")
	if err != nil {
		return err
	}
	c.processes = append(c.processes, etcd)
	return etcd.WaitReady(patience, func() bool { return answers(http.DefaultClient, "http://"+etcdAddress+"/health") })
}

// StartAPI starts the API server, again after StopAPI, and waits until it is ready.
func (c *ControlPlane) StartAPI(ctx context.Context) error {
	file := func(name string) string { return filepath.Join(c.Dir, name) }
	var err error
	c.api, err = c.start("kube-apiserver", "--etcd-servers=http://"+etcdAddress,
		"--bind-address=0.0.0.0", "--secure-port=443", "--advertise-address="+nodeAddress,
		"--service-cluster-ip-range="+serviceRange, "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true", "--profiling=false",
		"--tls-cert-file="+file("api.crt"), "--tls-private-key-file="+file("api.key"), "--client-ca-file="+file("ca.crt"),
		"--kubelet-client-certificate="+file("api-kubelet.crt"), "--kubelet-client-key="+file("api-kubelet.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+file("tokens.pub"), "--service-account-signing-key-file="+file("tokens.key"))
	if err != nil {
		return err
	}
	return c.api.WaitReady(patience, func() bool { return ctx.Err() != nil || answers(c.client, c.Server+"/readyz") })
}

// StopAPI ends the API server: the cluster has no front door until StartAPI.
func (c *ControlPlane) StopAPI() {
	// It waits for its watches before it ends, and a crash does not.
	c.api.Kill()
}

func (c *ControlPlane) startControllers() error {
	file := func(name string) string { return filepath.Join(c.Dir, name) }
	manager, err := c.start("kube-controller-manager", "--kubeconfig="+file("controller.kubeconfig"), "--leader-elect=false",
		"--use-service-account-credentials=true", "--service-account-private-key-file="+file("tokens.key"),
		"--root-ca-file="+file("ca.crt"), "--bind-address=127.0.0.1", "--profiling=false",
		"--flex-volume-plugin-dir="+file("flexvolume"))
	if err != nil {
		return err
	}
	c.processes = append(c.processes, manager)
	scheduler, err := c.start("kube-scheduler", "--kubeconfig="+file("scheduler.kubeconfig"), "--leader-elect=false",
		"--bind-address=127.0.0.1", "--profiling=false")
	if err != nil {
		return err
	}
	c.processes = append(c.processes, scheduler)
	return nil
}

// Logs are the ends of what the parts have written.
func (c *ControlPlane) Logs() string {
	var text string
	for _, p := range append(c.processes, c.api) {
		if p != nil {
			text += p.Log()
		}
	}
	return text
}

// Close ends all parts. What they know is lost.
func (c *ControlPlane) Close() error {
	if c.api != nil {
		c.api.Kill()
	}
	for _, p := range c.processes {
		p.Kill()
	}
	return os.RemoveAll(filepath.Join(c.Dir, "etcd"))
}
