package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/integration/harness"
)

// TestSameAnswersDirectAndProxied makes the same calls of a kubelet's life on
// containerd itself and through cosentry: message, code and error text of
// every answer must be equal, IDs, times and measurements aside.
func TestSameAnswersDirectAndProxied(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "signed")
	w.pushSigned("data:1", "data")
	direct := suite(t, w, w.Direct)
	must(t, forgetImages(t.Context(), w))
	proxied := suite(t, w, w.kubelet)
	if len(direct) < 50 {
		t.Errorf("the suite made %d calls", len(direct))
	}
	for i := range direct {
		if diff := cmp.Diff(direct[i], proxied[i]); diff != "" {
			t.Errorf("%s: direct (-), proxied (+):\n%s", direct[i].Call, diff)
		}
	}
}

// reply is one call's answer, made comparable.
type reply struct {
	Call   string
	Answer any
	Code   string
	Error  string
}

// recorder collects the replies of one run of the suite.
type recorder struct {
	t       *testing.T
	replies []reply
}

func record[Req, Resp proto.Message](r *recorder, name string, call func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req) Resp {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	defer cancel()
	resp, err := call(ctx, req)
	entry := reply{Call: fmt.Sprintf("%d %s", len(r.replies), name)}
	if err != nil {
		s := status.Convert(err)
		entry.Code, entry.Error = s.Code().String(), r.normal(s.Message())
	} else {
		text, err := protojson.Marshal(resp)
		must(r.t, err)
		must(r.t, json.Unmarshal(text, &entry.Answer))
		entry.Answer = r.normalTree("", entry.Answer)
	}
	r.replies = append(r.replies, entry)
	return resp
}

var (
	// hexID is a container's or sandbox's ID, but no digest, which must be equal.
	hexID  = regexp.MustCompile(`(sha256:)?[0-9a-f]{64}`)
	podUID = regexp.MustCompile(`[0-9]{8}-0000-4000-8000-000000000000`)
	url    = regexp.MustCompile(`http://127\.0\.0\.1:[0-9]+/[a-z]+/[-_A-Za-z0-9]+`)
	podIP  = regexp.MustCompile(`10\.201\.[0-9]+\.[0-9]+`)
	pidOf  = regexp.MustCompile(`pid=[0-9]+|/proc/[0-9]+/`)
	// measured are the fields that differ from one second to the next.
	measured = regexp.MustCompile(`(?i)(At|timestamp|Bytes|Used|NanoCores|CoreNanoSeconds|pageFaults|MajorPageFaults|value|total|avg10|avg60|avg300)$`)
)

func (r *recorder) normal(s string) string {
	s = hexID.ReplaceAllStringFunc(s, func(id string) string {
		if strings.HasPrefix(id, "sha256:") {
			return id
		}
		return "<id>"
	})
	for pattern, word := range map[*regexp.Regexp]string{podUID: "<uid>", url: "<url>", podIP: "<ip>", pidOf: "<pid>"} {
		s = pattern.ReplaceAllString(s, word)
	}
	return s
}

func (r *recorder) normalTree(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		if measured.MatchString(key) {
			return "<measured>" // zero is left out of a message: {} is a measurement too
		}
		delete(v, "usageNanoCores") // is there once containerd has measured twice
		for k := range v {
			v[k] = r.normalTree(k, v[k])
		}
		return v
	case []any:
		for i := range v {
			v[i] = r.normalTree(key, v[i])
		}
		// Lists come in the order of Go's maps.
		slices.SortFunc(v, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		return v
	case string:
		if measured.MatchString(key) {
			return "<measured>"
		}
		return r.normal(v)
	default:
		if measured.MatchString(key) {
			return "<measured>"
		}
		return v
	}
}

// suite is a pod's life and the questions a kubelet asks meanwhile.
func suite(t *testing.T, w *world, k *harness.Kubelet) []reply {
	t.Helper()
	r := &recorder{t: t}
	rt, im := k.Runtime, k.Images
	const absent = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	image, data := w.image("app:1"), w.image("data:1")

	record(r, "Version", rt.Version, &runtimeapi.VersionRequest{Version: "0.1.0"})
	record(r, "Status", rt.Status, &runtimeapi.StatusRequest{})
	record(r, "RuntimeConfig", rt.RuntimeConfig, &runtimeapi.RuntimeConfigRequest{})
	record(r, "UpdateRuntimeConfig", rt.UpdateRuntimeConfig, &runtimeapi.UpdateRuntimeConfigRequest{RuntimeConfig: &runtimeapi.RuntimeConfig{}})
	record(r, "ListPodSandbox", rt.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{})
	record(r, "ListContainers", rt.ListContainers, &runtimeapi.ListContainersRequest{})
	record(r, "ListImages", im.ListImages, &runtimeapi.ListImagesRequest{})
	record(r, "ImageStatus before the pull", im.ImageStatus, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	record(r, "ImageFsInfo", im.ImageFsInfo, &runtimeapi.ImageFsInfoRequest{})

	pod, err := k.RunPod(t.Context(), "suite", true)
	must(t, err)
	sandbox := pod.Sandbox
	record(r, "PodSandboxStatus", rt.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: sandbox})
	record(r, "PodSandboxStatus absent", rt.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: absent})
	record(r, "RunPodSandbox again", rt.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: pod.Config})
	record(r, "RunPodSandbox without config", rt.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{})

	pulled := record(r, "PullImage", im.PullImage, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}, SandboxConfig: pod.Config})
	record(r, "PullImage again", im.PullImage, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}, SandboxConfig: pod.Config})
	volume := record(r, "PullImage of a volume", im.PullImage, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: data}, SandboxConfig: pod.Config})
	record(r, "ImageStatus by tag", im.ImageStatus, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	record(r, "ImageStatus by ID", im.ImageStatus, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: pulled.ImageRef}})
	record(r, "ListImages filtered", im.ListImages, &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: image}}})

	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "main"},
		Image:    &runtimeapi.ImageSpec{Image: pulled.ImageRef, UserSpecifiedImage: image},
		Command:  []string{"/bin/sleep", "600"},
		LogPath:  "main_0.log",
		Labels:   map[string]string{"io.kubernetes.container.name": "main"},
		Mounts: []*runtimeapi.Mount{{
			ContainerPath: "/data", Readonly: true, Image: &runtimeapi.ImageSpec{Image: volume.ImageRef, UserSpecifiedImage: data},
		}},
		Linux: &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}},
	}
	created := record(r, "CreateContainer", rt.CreateContainer, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: config, SandboxConfig: pod.Config})
	record(r, "CreateContainer again", rt.CreateContainer, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: config, SandboxConfig: pod.Config})
	record(r, "CreateContainer in an absent sandbox", rt.CreateContainer, &runtimeapi.CreateContainerRequest{PodSandboxId: absent, Config: config, SandboxConfig: pod.Config})
	id := created.GetContainerId()
	record(r, "StartContainer", rt.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
	record(r, "StartContainer again", rt.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
	record(r, "StartContainer absent", rt.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: absent})
	record(r, "ListContainers running", rt.ListContainers, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: sandbox}})
	record(r, "ContainerStatus", rt.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	record(r, "ContainerStatus absent", rt.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: absent})
	record(r, "ExecSync", rt.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/cat", "/data/words"}, Timeout: 10})
	record(r, "ExecSync of a failing command", rt.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/false"}, Timeout: 10})
	record(r, "ExecSync of 8 MiB", rt.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", "head -c 8388608 /dev/zero | tr '\\0' x"}, Timeout: 20})
	record(r, "ExecSync of no command", rt.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/none"}, Timeout: 10})
	record(r, "ExecSync past its timeout", rt.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sleep", "60"}, Timeout: 1})
	record(r, "Exec", rt.Exec, &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"/bin/true"}, Stdout: true})
	record(r, "Exec absent", rt.Exec, &runtimeapi.ExecRequest{ContainerId: absent, Cmd: []string{"/bin/true"}, Stdout: true})
	record(r, "Attach", rt.Attach, &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
	record(r, "PortForward", rt.PortForward, &runtimeapi.PortForwardRequest{PodSandboxId: sandbox, Port: []int32{80}})
	record(r, "UpdateContainerResources", rt.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 128}})
	record(r, "UpdatePodSandboxResources", rt.UpdatePodSandboxResources, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: sandbox})
	record(r, "ReopenContainerLog", rt.ReopenContainerLog, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
	r.awaitSnapshotStats(rt, id)
	record(r, "ContainerStats", rt.ContainerStats, &runtimeapi.ContainerStatsRequest{ContainerId: id})
	record(r, "ListContainerStats", rt.ListContainerStats, &runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{Id: id}})
	record(r, "PodSandboxStats", rt.PodSandboxStats, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: sandbox})
	record(r, "ListPodSandboxStats", rt.ListPodSandboxStats, &runtimeapi.ListPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{Id: sandbox}})
	record(r, "ListMetricDescriptors", rt.ListMetricDescriptors, &runtimeapi.ListMetricDescriptorsRequest{})
	record(r, "CheckpointContainer absent", rt.CheckpointContainer, &runtimeapi.CheckpointContainerRequest{ContainerId: absent, Location: "/run/none/x.tar"})
	record(r, "StopContainer", rt.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 0})
	record(r, "StopContainer again", rt.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 0})
	record(r, "ContainerStatus exited", rt.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	record(r, "ExecSync exited", rt.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/true"}})
	record(r, "RemoveContainer", rt.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	record(r, "RemoveContainer again", rt.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	record(r, "StopPodSandbox", rt.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: sandbox})
	record(r, "StopPodSandbox absent", rt.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: absent})
	record(r, "ListPodSandbox stopped", rt.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{})
	record(r, "RemovePodSandbox", rt.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox})
	record(r, "RemovePodSandbox again", rt.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox})
	record(r, "RemoveImage by tag", im.RemoveImage, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: data}})
	record(r, "RemoveImage by ID", im.RemoveImage, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: pulled.ImageRef}})
	record(r, "RemoveImage again", im.RemoveImage, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	record(r, "ListImages at the end", im.ListImages, &runtimeapi.ListImagesRequest{})
	return r.replies
}

// awaitSnapshotStats waits until containerd has measured the container's writable layer, which it does
// by its own clock, every 10 s: before that the answer has fewer fields.
func (r *recorder) awaitSnapshotStats(rt runtimeapi.RuntimeServiceClient, id string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 60*time.Second)
	defer cancel()
	for {
		resp, err := rt.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
		must(r.t, err)
		if resp.GetStats().GetWritableLayer().GetTimestamp() != 0 {
			return
		}
		select {
		case <-ctx.Done():
			r.t.Fatal("containerd has not measured the container's writable layer within a minute")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// forgetImages brings the image store back to where the first run found it.
func forgetImages(ctx context.Context, w *world) error {
	list, err := w.Direct.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return err
	}
	for _, image := range list.Images {
		if image.Pinned {
			continue
		}
		if _, err := w.Direct.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: image.Id}}); err != nil {
			return err
		}
	}
	return nil
}
