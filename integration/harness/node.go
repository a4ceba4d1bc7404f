package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// Node is a node with one registry beside it: what most tests and the demo need.
type Node struct {
	Tools      Tools
	Images     *Images
	Registry   *Registry
	Containerd *Containerd
	// Direct is a kubelet that talks to containerd itself.
	Direct *Kubelet
	Dir    string

	kubelets []*Kubelet
	agents   []*Cosentry
}

// nodeSerial numbers the nodes of a run: folders, ports and pod networks.
var nodeSerial atomic.Int32

// NewNode starts a registry with referrers API and a containerd whose
// sandbox image is on the node already.
func NewNode(ctx context.Context, tools Tools) (*Node, error) {
	serial := int(nodeSerial.Add(1))
	// Paths of unix sockets have at most 107 bytes, and shims add their own.
	n := &Node{Tools: tools, Dir: fmt.Sprintf("/run/n%d", serial)}
	if err := os.MkdirAll(n.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the scratch folder: %w", err)
	}
	if err := os.Setenv("HOME", n.Dir); err != nil { // nobody's docker config
		return nil, err
	}
	var err error
	if n.Images, err = NewImages(tools); err != nil {
		return nil, err
	}
	n.Registry = NewRegistry(fmt.Sprintf("127.0.0.1:%d", 5000+serial), true)
	if err := n.Registry.Start(); err != nil {
		return nil, err
	}
	pause, err := n.Images.Pause()
	if err != nil {
		return nil, err
	}
	if _, err := n.Registry.Push("pause:3.10", pause); err != nil {
		return nil, err
	}
	sandbox := n.Registry.Addr + "/pause:3.10"
	if n.Containerd, err = StartContainerd(ctx, tools, filepath.Join(n.Dir, "c"), serial, sandbox); err != nil {
		return nil, err
	}
	if n.Direct, err = n.Kubelet(n.Containerd.Socket); err != nil {
		return nil, err
	}
	if _, err := n.Direct.Pull(ctx, &Pod{}, sandbox, nil); err != nil {
		return nil, fmt.Errorf("pulling the sandbox image: %w", err)
	}
	n.Registry.Requests() // forget them
	return n, nil
}

// Kubelet makes a kubelet on a CRI socket, closed with the node.
func (n *Node) Kubelet(socket string) (*Kubelet, error) {
	k, err := NewKubelet(socket, filepath.Join(n.Dir, "pods"))
	if err == nil {
		n.kubelets = append(n.kubelets, k)
	}
	return k, err
}

// Cosentry starts cosentry in front of the node's containerd, and a kubelet
// that talks to it.
func (n *Node) Cosentry(s Settings) (*Cosentry, *Kubelet, error) {
	if s.Runtime == "" {
		s.Runtime = n.Containerd.Socket
	}
	if s.HostsDir == "" {
		s.HostsDir = n.Containerd.HostsDir
	}
	c, err := NewCosentry(n.Tools, filepath.Join(n.Dir, fmt.Sprintf("a%d", len(n.agents)+1)), s)
	if err != nil {
		return nil, nil, err
	}
	if err := c.Start(); err != nil {
		return nil, nil, err
	}
	n.agents = append(n.agents, c)
	k, err := n.Kubelet(c.Socket)
	return c, k, err
}

// Hosts writes certs.d/<host>/hosts.toml.
func (n *Node) Hosts(host, text string) error {
	dir := filepath.Join(n.Containerd.HostsDir, host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing hosts.toml for %s: %w", host, err)
	}
	return os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600)
}

// Logs are the ends of the logs of what runs on the node.
func (n *Node) Logs() string {
	text := n.Containerd.Log()
	for _, c := range n.agents {
		text += c.Log()
	}
	return text
}

// Close removes every pod and ends cosentry, containerd and the registry. A
// process that does not end as it should is an error.
func (n *Node) Close(ctx context.Context) error {
	var errs []error
	for _, c := range n.agents {
		if code, err := c.Stop(30 * time.Second); err != nil {
			errs = append(errs, err)
		} else if code != 0 {
			errs = append(errs, fmt.Errorf("cosentry ended with exit code %d", code))
		}
	}
	errs = append(errs, n.removePods(ctx))
	for _, k := range n.kubelets {
		errs = append(errs, k.Close())
	}
	if _, err := n.Containerd.Stop(20 * time.Second); err != nil {
		errs = append(errs, err)
	}
	n.Registry.Stop()
	return errors.Join(errs...)
}

func (n *Node) removePods(ctx context.Context) error {
	list, err := n.Direct.Runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	var errs []error
	for _, item := range list.Items {
		pod := &Pod{Sandbox: item.Id}
		errs = append(errs, n.Direct.RemovePod(ctx, pod))
	}
	return errors.Join(errs...)
}
