package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Kubelet makes the calls a kubelet makes for a pod, with the fields that it
// fills in, over one CRI socket.
type Kubelet struct {
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient
	conn    *grpc.ClientConn
	logs    string
}

// podSerial keeps pods of all kubelets apart.
var podSerial atomic.Int64

// NewKubelet connects to the CRI socket. Container logs are written under logs.
func NewKubelet(socket, logs string) (*Kubelet, error) {
	conn, err := DialCRI(socket)
	if err != nil {
		return nil, err
	}
	return &Kubelet{
		Runtime: runtimeapi.NewRuntimeServiceClient(conn), Images: runtimeapi.NewImageServiceClient(conn),
		conn: conn, logs: logs,
	}, nil
}

// Close closes the connection.
func (k *Kubelet) Close() error { return k.conn.Close() }

// Pod is a pod with its sandbox running.
type Pod struct {
	Sandbox string
	Config  *runtimeapi.PodSandboxConfig
	logs    string
}

// Container is what a pod's specification says about one container.
type Container struct {
	Name string
	// Image is the reference as the pod's author wrote it.
	Image   string
	Command []string
	// Volumes maps a path in the container to the reference of an image volume.
	Volumes map[string]string
	// Auth are the pull secret's credentials, if the pod has one.
	Auth *runtimeapi.AuthConfig
	// Policy is Always or IfNotPresent; empty is IfNotPresent.
	Policy string
}

// Outcome is what became of a container.
type Outcome struct {
	ID     string
	Ref    string // the image's ID as the runtime reported it
	Pulled bool
	Output string
}

// PodSpec is what there is to say about a pod. Its sandbox is on the host's
// network, or on the pod network where Network is set.
type PodSpec struct {
	Name      string
	Namespace string // empty is default
	Labels    map[string]string
	Network   bool
}

// RunPod starts a pod's sandbox in namespace default.
func (k *Kubelet) RunPod(ctx context.Context, name string, network bool) (*Pod, error) {
	return k.RunPodLike(ctx, PodSpec{Name: name, Network: network})
}

// RunPodLike starts a pod's sandbox.
func (k *Kubelet) RunPodLike(ctx context.Context, spec PodSpec) (*Pod, error) {
	name, namespace := spec.Name, spec.Namespace
	if namespace == "" {
		namespace = "default"
	}
	uid := fmt.Sprintf("%08d-0000-4000-8000-000000000000", podSerial.Add(1))
	labels := map[string]string{
		"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.uid": uid,
	}
	maps.Copy(labels, spec.Labels)
	pod := &Pod{logs: filepath.Join(k.logs, namespace+"_"+name+"_"+uid)}
	if err := os.MkdirAll(pod.logs, 0o755); err != nil {
		return nil, fmt.Errorf("making the log folder of pod %s: %w", name, err)
	}
	mode := runtimeapi.NamespaceMode_NODE
	if spec.Network {
		mode = runtimeapi.NamespaceMode_POD
	}
	pod.Config = &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Uid: uid, Namespace: namespace},
		Hostname:     name,
		LogDirectory: pod.logs,
		Labels:       labels,
		Annotations:  map[string]string{"kubernetes.io/config.source": "api"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    "/" + Cgroup() + "/pod" + uid,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Network: mode}},
		},
	}
	if mode == runtimeapi.NamespaceMode_NODE {
		pod.Config.Hostname = ""
	}
	resp, err := k.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: pod.Config})
	if err != nil {
		return nil, fmt.Errorf("starting the sandbox of pod %s: %w", name, err)
	}
	pod.Sandbox = resp.PodSandboxId
	return pod, nil
}

// RemovePod stops and removes the pod with its containers.
func (k *Kubelet) RemovePod(ctx context.Context, pod *Pod) error {
	if _, err := k.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.Sandbox}); err != nil {
		return fmt.Errorf("stopping pod %s: %w", pod.Config.GetMetadata().GetName(), err)
	}
	if _, err := k.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.Sandbox}); err != nil {
		return fmt.Errorf("removing pod %s: %w", pod.Config.GetMetadata().GetName(), err)
	}
	return nil
}

// Pull pulls an image for the pod and returns the image reference that the
// runtime answered. The error is the runtime's or cosentry's own.
func (k *Kubelet) Pull(ctx context.Context, pod *Pod, image string, auth *runtimeapi.AuthConfig) (string, error) {
	resp, err := k.Images.PullImage(ctx, &runtimeapi.PullImageRequest{
		Image:         &runtimeapi.ImageSpec{Image: image, Annotations: map[string]string{}},
		Auth:          auth,
		SandboxConfig: pod.Config,
	})
	if err != nil {
		return "", err
	}
	return resp.ImageRef, nil
}

// Present reports the image's ID, empty where it is not on the node.
func (k *Kubelet) Present(ctx context.Context, image string) (string, error) {
	resp, err := k.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	if err != nil {
		return "", err
	}
	return resp.GetImage().GetId(), nil
}

// ensure has the image on the node as the pull policy says.
func (k *Kubelet) ensure(ctx context.Context, pod *Pod, image, policy string, auth *runtimeapi.AuthConfig) (ref string, pulled bool, err error) {
	if policy != "Always" {
		if ref, err = k.Present(ctx, image); err != nil || ref != "" {
			return ref, false, err
		}
	}
	ref, err = k.Pull(ctx, pod, image, auth)
	return ref, true, err
}

// Create creates a container whose image, and volumes' images, are given as
// the runtime names them.
func (k *Kubelet) Create(ctx context.Context, pod *Pod, c Container, ref string, volumes map[string]string) (string, error) {
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: c.Name},
		Image:    &runtimeapi.ImageSpec{Image: ref, UserSpecifiedImage: c.Image},
		Command:  c.Command,
		LogPath:  c.Name + "_0.log",
		Labels: map[string]string{
			"io.kubernetes.container.name": c.Name, "io.kubernetes.pod.name": pod.Config.Metadata.Name,
			"io.kubernetes.pod.namespace": pod.Config.Metadata.Namespace, "io.kubernetes.pod.uid": pod.Config.Metadata.Uid,
		},
		Linux: &runtimeapi.LinuxContainerConfig{
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: proto.Clone(pod.Config.Linux.SecurityContext.NamespaceOptions).(*runtimeapi.NamespaceOption),
			},
		},
	}
	for path, image := range c.Volumes {
		config.Mounts = append(config.Mounts, &runtimeapi.Mount{
			ContainerPath: path, Readonly: true,
			Image: &runtimeapi.ImageSpec{Image: volumes[path], UserSpecifiedImage: image},
		})
	}
	resp, err := k.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: pod.Sandbox, Config: config, SandboxConfig: pod.Config,
	})
	if err != nil {
		return "", err
	}
	return resp.ContainerId, nil
}

// Run takes a container from its specification to its end: image by the pull
// policy, create, start, and its output once it has exited. It stops at the
// first refusal, which it returns as it came.
func (k *Kubelet) Run(ctx context.Context, pod *Pod, c Container) (Outcome, error) {
	var out Outcome
	var err error
	if out.Ref, out.Pulled, err = k.ensure(ctx, pod, c.Image, c.Policy, c.Auth); err != nil {
		return out, err
	}
	volumes := map[string]string{}
	for path, image := range c.Volumes {
		if volumes[path], _, err = k.ensure(ctx, pod, image, c.Policy, c.Auth); err != nil {
			return out, err
		}
	}
	if out.ID, err = k.Create(ctx, pod, c, out.Ref, volumes); err != nil {
		return out, err
	}
	if err = k.Start(ctx, out.ID); err != nil {
		return out, err
	}
	out.Output, err = k.Wait(ctx, pod, c.Name, out.ID)
	return out, err
}

// Start starts a created container.
func (k *Kubelet) Start(ctx context.Context, id string) error {
	_, err := k.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
	return err
}

// Wait waits until the container has exited and returns what it printed.
func (k *Kubelet) Wait(ctx context.Context, pod *Pod, name, id string) (string, error) {
	var failure error
	err := Until(30*time.Second, "container "+name+" to exit", func() bool {
		resp, err := k.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if failure = err; err != nil {
			return true
		}
		status := resp.Status
		if status.State != runtimeapi.ContainerState_CONTAINER_EXITED {
			return false
		}
		if status.ExitCode != 0 {
			failure = fmt.Errorf("container %s exited with %d: %s", name, status.ExitCode, status.Message)
		}
		return true
	})
	if err := errors.Join(err, failure); err != nil {
		return "", err
	}
	return pod.Log(name)
}

// Log is what the container has printed, without the log format's columns.
func (p *Pod) Log(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(p.logs, name+"_0.log"))
	if err != nil {
		return "", fmt.Errorf("reading the log of container %s: %w", name, err)
	}
	var text strings.Builder
	for line := range strings.Lines(string(data)) {
		// <time> <stream> <tag> <text>
		if columns := strings.SplitN(line, " ", 4); len(columns) == 4 {
			text.WriteString(columns[3])
		}
	}
	return strings.TrimSpace(text.String()), nil
}
