package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// testUpgrade: another image brings another program and another agent, and nothing else begins anew: kubelet, its socket and
// what runs stay, so that there is no moment in which cosentry is not there.
func (s *stage) testUpgrade(t *testing.T) {
	s.deploy(t, "default", "stays", s.push(t, "apps/stays:1", s.release))
	stays := s.wantRuns(t, "default", "stays")
	was, agent, steady := s.linked(t), s.process(t, "cosentry.service"), s.steady(t)

	sum := s.change(t, "next", func(program []byte) []byte { return append(program, '\n') })
	s.apply(t)
	s.wantRollout(t, daemonSet)
	if now := s.linked(t); now == was || !strings.HasSuffix(now, "-"+sum[:12]) {
		t.Errorf("%s led to %s and leads to %s, want a program with the hash %s", command, was, now, sum)
	}
	if now := s.process(t, "cosentry.service"); now == agent {
		t.Errorf("the agent is still process %s", agent)
	}
	s.wantRunsLinked(t)
	s.wantAgent(t)
	s.deploy(t, "default", "after", s.push(t, "apps/after:1", s.release))
	s.deploy(t, "default", "after-bad", s.push(t, "apps/after-bad:1"))
	s.wantRuns(t, "default", "after")
	s.wantRefused(t, "default", "after-bad", "no signatures found", `"floor"`)
	s.wantSteady(t, steady)
	s.unchanged(t, stays)
	s.wantUntouched(t)
}

// testBrokenUpgrade: the program of an image cannot do the one thing that counts, serve the socket, and all else it can: it
// installs itself. The node goes back to the program before, and the DaemonSet to no other node.
func (s *stage) testBrokenUpgrade(t *testing.T) {
	s.deploy(t, "default", "stays", s.push(t, "apps/stays:1", s.release))
	stays := s.wantRuns(t, "default", "stays")
	good, was, steady := s.product, s.linked(t), s.steady(t)

	// This is where systemd says for which process its sockets are. `run` alone looks for it.
	where, nowhere := []byte("LISTEN_PID"), []byte("LISTEN_NIX")
	sum := s.change(t, "broken", func(program []byte) []byte {
		if !bytes.Contains(program, where) {
			t.Fatalf("there is no %s in cosentry's program: break it otherwise", where)
		}
		return bytes.ReplaceAll(program, where, nowhere)
	})
	s.apply(t)
	s.wantGivenUp(t)
	if now := s.linked(t); now != was {
		t.Errorf("%s leads to %s, want %s as before", command, now, was)
	}
	left, err := filepath.Glob(s.machine.Path(path.Dir(command)) + "/*" + sum[:12])
	if err != nil || len(left) > 0 {
		t.Errorf("the broken program is still there: %q, %v", left, err)
	}
	s.wantRunsLinked(t)
	s.wantAgent(t)
	agent := s.process(t, "cosentry.service")
	s.deploy(t, "default", "meanwhile", s.push(t, "apps/meanwhile-good:1", s.release))
	s.deploy(t, "default", "meanwhile-bad", s.push(t, "apps/meanwhile-bad:1"))
	s.wantRuns(t, "default", "meanwhile")
	s.wantRefused(t, "default", "meanwhile-bad", "no signatures found", `"floor"`)
	s.wantRolloutStopped(t)

	s.product = good
	s.apply(t)
	s.wantRollout(t, daemonSet)
	s.wantAgent(t)
	if now := s.linked(t); now != was {
		t.Errorf("%s leads to %s, want %s as before", command, now, was)
	}
	// Neither was it restarted by a pod that tries again and again, nor by an image whose program runs already.
	if now := s.process(t, "cosentry.service"); now != agent {
		t.Errorf("the agent was process %s and is %s: it was restarted", agent, now)
	}
	s.wantSteady(t, steady)
	s.unchanged(t, stays)
	s.wantUntouched(t)
}

// linked is the program to which the link on the node leads.
func (s *stage) linked(t *testing.T) string {
	t.Helper()
	to, err := os.Readlink(s.machine.Path(command))
	must(t, err)
	return to
}

// wantRunsLinked expects the agent to be the program that is linked.
func (s *stage) wantRunsLinked(t *testing.T) {
	t.Helper()
	runs, err := s.machine.Exec(t.Context(), "readlink", "/proc/"+s.process(t, "cosentry.service")+"/exe")
	must(t, err)
	if now := path.Base(strings.TrimSpace(runs)); now != s.linked(t) {
		t.Errorf("the agent is %s and %s leads to %s", now, command, s.linked(t))
	}
}

// steady is what an installation and an uninstallation begin anew and an upgrade does not.
type steady struct {
	kubelet, socket string // which start of the units it is
	settings        string // of kubelet, when they were written
	cursor          string // into kubelet's log
}

func (s *stage) steady(t *testing.T) (now steady) {
	t.Helper()
	var err error
	now.kubelet, err = s.machine.Show(t.Context(), "kubelet.service", "InvocationID")
	must(t, err)
	now.socket, err = s.machine.Show(t.Context(), "cosentry.socket", "InvocationID")
	must(t, err)
	if now.kubelet == "" || now.socket == "" {
		t.Fatalf("kubelet or the agent's socket does not run: %+v", now)
	}
	settings, err := os.Stat(s.machine.Path(s.layout.ConfigFile()))
	must(t, err)
	now.settings = settings.ModTime().Format(time.RFC3339Nano)
	now.cursor, err = s.machine.Cursor(t.Context())
	must(t, err)
	return now
}

// withoutRuntime is in a line of kubelet's about a call that did not reach its runtime, or whose answer did not come.
var withoutRuntime = regexp.MustCompile(`dial unix|error reading from server|code = (Unavailable|DeadlineExceeded)|runtime is (down|not ready)`)

// wantSteady expects that kubelet and the agent's socket run since before, that kubelet's settings were written at no time since,
// and that kubelet had its runtime all the while.
func (s *stage) wantSteady(t *testing.T, before steady) {
	t.Helper()
	now := s.steady(t)
	log, err := s.machine.Journal(t.Context(), "kubelet.service", before.cursor)
	must(t, err)
	for line := range strings.Lines(log) {
		if withoutRuntime.MatchString(line) {
			t.Errorf("kubelet: %s", line)
		}
	}
	if now.cursor = before.cursor; now != before {
		t.Errorf("kubelet's start, the socket's and kubelet's settings are %s, %s and %s, and were %s, %s and %s: something began anew",
			now.kubelet, now.socket, now.settings, before.kubelet, before.socket, before.settings)
	}
	s.wantEndpoint(t, "/run/cosentry/containerd.sock")
}

// wantGivenUp waits until the DaemonSet's new pod has failed to install its program, and does not try again.
func (s *stage) wantGivenUp(t *testing.T) {
	t.Helper()
	err := eventually(t.Context(), 2*patience, "the DaemonSet's pod to give up", func(ctx context.Context) error {
		pod, err := s.newPod(ctx)
		if err != nil {
			return err
		}
		first := pod.Status.InitContainerStatuses[0]
		if first.RestartCount == 0 || first.State.Running != nil {
			return fmt.Errorf("container %s: %s, started again %d times", first.Name, first.State.String(), first.RestartCount)
		}
		log, err := s.plane.Kubectl(ctx, "", "-n", namespace, "logs", pod.Name, "-c", first.Name)
		if err != nil {
			return err
		}
		if !strings.Contains(log, "did not prove itself on this node") {
			return fmt.Errorf("container %s says:\n%s", first.Name, log)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, s.tellPods())
	}
}

// newPod is the DaemonSet's pod with the image that was applied last.
func (s *stage) newPod(ctx context.Context) (corev1.Pod, error) {
	var list corev1.PodList
	if err := s.plane.Get(ctx, "/api/v1/namespaces/"+namespace+"/pods", &list); err != nil {
		return corev1.Pod{}, err
	}
	for _, pod := range list.Items {
		if strings.HasSuffix(pod.Spec.InitContainers[0].Image, s.product.image.DigestStr()) && len(pod.Status.InitContainerStatuses) > 0 {
			return pod, nil
		}
	}
	return corev1.Pod{}, errors.New("there is no new pod yet")
}

// wantRolloutStopped expects the DaemonSet to have as many pods that are not ready as it bears, so that it touches no other node.
func (s *stage) wantRolloutStopped(t *testing.T) {
	t.Helper()
	var set appsv1.DaemonSet
	must(t, s.plane.Get(t.Context(), "/apis/apps/v1/namespaces/"+namespace+"/daemonsets/"+daemonSet, &set))
	if now := set.Status; now.UpdatedNumberScheduled != 1 || now.NumberReady != 0 || now.NumberUnavailable != 1 {
		t.Errorf("of the DaemonSet's pods %d are new, %d ready and %d not available, want 1, 0 and 1",
			now.UpdatedNumberScheduled, now.NumberReady, now.NumberUnavailable)
	}
	if most := set.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.String(); most != "1" {
		t.Errorf("the DaemonSet goes on until %s nodes are not ready", most)
	}
}
