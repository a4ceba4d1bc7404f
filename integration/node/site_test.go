package node

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/cosentry/cosentry/integration/harness"
	"github.com/cosentry/cosentry/integration/machine"
)

// Paths of an installation.
const (
	ourSocket  = "/run/cosentry/containerd.sock"
	ourConfig  = "/etc/cosentry/config.yaml"
	ourBinary  = "/opt/cosentry/bin/cosentry"
	ourAudit   = "/var/log/cosentry"
	ourPolicy  = "/etc/cosentry/policies/signed.yaml"
	theirs     = "unix://" + machine.RuntimeSocket
	ours       = "unix://" + ourSocket
	podTimeout = 90 * time.Second
	// triedAgain is by when kubelet has tried an image again that it could not pull: it waits for five minutes at the most.
	triedAgain = 6 * time.Minute
)

// site is a machine with a registry beside it, whose images a policy wants
// signed by release.
type site struct {
	*machine.Machine
	t        testing.TB
	registry *harness.Registry
	images   *harness.Images
	release  *harness.Key
}

var registries atomic.Int32

// newSite boots a machine without cosentry, with the policy in a folder of
// its owner.
func newSite(t testing.TB, o machine.Options) *site {
	t.Helper()
	tools, err := harness.FindTools("kubelet", "kubelet-1.34")
	must(t, err)
	s := &site{t: t, registry: harness.NewRegistry(fmt.Sprintf("127.0.0.1:%d", 5000+registries.Add(1)), true)}
	s.images, err = harness.NewImages(tools)
	must(t, err)
	s.release, err = harness.NewKey()
	must(t, err)
	must(t, s.registry.Start())
	t.Cleanup(s.registry.Stop)
	must(t, os.Setenv("HOME", "/run")) // nobody's docker config
	pause, err := s.images.Pause()
	must(t, err)
	digest, err := s.registry.Push("pause:3.10", pause)
	must(t, err)
	must(t, s.release.SignClassic(t.Context(), s.registry, digest))

	o.Tools, o.Pause = tools, s.image("pause:3.10")
	if o.Files == nil {
		o.Files = map[string]machine.File{}
	}
	o.Files["/root/policies/signed.yaml"] = machine.File{Text: harness.KeyPolicy("signed", s.registry.Addr+"/**", s.release.PublicPEM)}
	s.Machine, err = machine.Start(t.Context(), o)
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() && s.PID() != 0 {
			t.Log(s.Logs(ctx))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// step is a part of a story on one machine: what comes after needs it, so the
// story ends where it fails.
func (s *site) step(name string, f func(t *testing.T)) {
	s.t.Helper()
	if !s.t.(*testing.T).Run(name, f) {
		s.t.FailNow()
	}
}

func (s *site) image(path string) string { return s.registry.Addr + "/" + path }

// push makes an unsigned image that differs from all others.
func (s *site) push(t testing.TB, path string) name.Digest {
	t.Helper()
	img, err := s.images.Saying(path)
	must(t, err)
	digest, err := s.registry.Push(path, img)
	must(t, err)
	return digest
}

func (s *site) pushSigned(t testing.TB, path string) name.Digest {
	t.Helper()
	digest := s.push(t, path)
	must(t, s.release.SignClassic(t.Context(), s.registry, digest))
	return digest
}

// cosentry runs the command on the machine, as it is there before it is installed.
func (s *site) cosentry(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.Exec(t.Context(), append([]string{machine.Cosentry}, args...)...)
	must(t, err)
	return out
}

// install installs as an owner with policies of his own would.
func (s *site) install(t testing.TB, args ...string) string {
	t.Helper()
	return s.cosentry(t, append([]string{"install", "--policies", "/root/policies"}, args...)...)
}

// setMode edits the owner's settings and has the agent start with them.
func (s *site) setMode(t testing.TB, mode string) {
	t.Helper()
	text, err := s.ReadFile(ourConfig)
	must(t, err)
	var config map[string]any
	must(t, yaml.Unmarshal([]byte(text), &config))
	config["mode"] = mode
	edited, err := yaml.Marshal(config)
	must(t, err)
	must(t, s.WriteFile(ourConfig, string(edited)))
	_, err = s.Systemctl(t.Context(), "restart", "cosentry.service")
	must(t, err)
}

// pod is a static pod with containers, in which any text but the images may be left out.
func (s *site) pod(t testing.TB, name, spec string) {
	t.Helper()
	text := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %q, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
%s`, name, indent(spec, "  "))
	must(t, s.StaticPod(name, text))
}

// sleeper is a pod with one container that runs on.
func (s *site) sleeper(t testing.TB, name, path string) {
	t.Helper()
	s.pod(t, name, fmt.Sprintf("containers: [{name: main, image: %q, command: [sleep, '2147483647']}]", s.image(path)))
}

func indent(text, by string) string {
	return by + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n"+by) + "\n"
}

// await waits until kubelet's own status of the pod fits.
func (s *site) await(t testing.TB, within time.Duration, pod, what string, fits func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var last *corev1.Pod
	err := until(within, pod+" to be "+what, func() bool {
		p, err := s.KubeletPod(t.Context(), pod)
		if err != nil || p == nil {
			return false
		}
		last = p
		return fits(p)
	})
	if err != nil {
		text, _ := yaml.Marshal(last)
		t.Fatalf("%v; its last status:\n%s", err, text)
	}
	return last
}

// wantRunning waits until every container of the pod runs and returns their IDs.
func (s *site) wantRunning(t testing.TB, pod string) []corev1.ContainerStatus {
	t.Helper()
	return s.wantRunningWithin(t, pod, podTimeout)
}

func (s *site) wantRunningWithin(t testing.TB, pod string, limit time.Duration) []corev1.ContainerStatus {
	t.Helper()
	p := s.await(t, limit, pod, "running", func(p *corev1.Pod) bool {
		for _, c := range p.Status.ContainerStatuses {
			if c.State.Running == nil {
				return false
			}
		}
		return len(p.Status.ContainerStatuses) == len(p.Spec.Containers)
	})
	return p.Status.ContainerStatuses
}

// wantRefused waits until kubelet says of a container that it waits for this
// reason with our words in the message, and expects the other words there too.
func (s *site) wantRefused(t testing.TB, pod, container, reason, ours string, words ...string) {
	t.Helper()
	var waiting *corev1.ContainerStateWaiting
	s.await(t, podTimeout, pod, "refused", func(p *corev1.Pod) bool {
		for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			if c.Name == container && c.State.Running != nil {
				t.Fatalf("%s/%s runs, want it to be refused", pod, container)
			}
			if c.Name == container && c.State.Waiting != nil && c.State.Waiting.Reason == reason && strings.Contains(c.State.Waiting.Message, ours) {
				waiting = c.State.Waiting
			}
		}
		return waiting != nil
	})
	for _, word := range words {
		if !strings.Contains(waiting.Message, word) {
			t.Errorf("the message of %s/%s does not say %q: %s", pod, container, word, waiting.Message)
		}
	}
}

// remove takes static pods away and waits until kubelet has ended them.
func (s *site) remove(t testing.TB, pods ...string) {
	t.Helper()
	for _, pod := range pods {
		must(t, s.RemoveStaticPod(pod))
	}
	must(t, until(podTimeout, strings.Join(pods, ", ")+" to be gone", func() bool {
		for _, pod := range pods {
			if p, err := s.KubeletPod(t.Context(), pod); err != nil || p != nil {
				return false
			}
		}
		return true
	}))
}

// unchanged expects the containers to be those that ran before, never restarted.
func (s *site) unchanged(t testing.TB, pod string, before []corev1.ContainerStatus) {
	t.Helper()
	is := s.wantRunning(t, pod) // a kubelet that was restarted has to learn of it first
	for i, c := range is {
		if c.ContainerID != before[i].ContainerID || c.RestartCount != before[i].RestartCount {
			t.Errorf("%s/%s ran as %s (%d restarts), and now as %s (%d restarts)", pod, c.Name,
				before[i].ContainerID, before[i].RestartCount, c.ContainerID, c.RestartCount)
		}
	}
}
