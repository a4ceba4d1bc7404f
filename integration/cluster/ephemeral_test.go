package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// testEphemeral: a container that `kubectl debug` adds to a pod that runs is
// judged as any other, and the pod runs on.
func (s *stage) testEphemeral(t *testing.T) {
	s.deploy(t, "default", "debugged", s.push(t, "apps/debugged:1", s.release))
	pod := s.wantRuns(t, "default", "debugged")
	debug := func(name, image string) {
		t.Helper()
		_, err := s.plane.Kubectl(t.Context(), "", "-n", "default", "debug", pod.Name, "--image="+image, "--container="+name, "--profile=general",
			"--", "/bin/sleep", "2147483647")
		must(t, err)
	}
	debug("good", s.push(t, "apps/tools:1", s.release))
	debug("evil", s.push(t, "apps/evil-tools:1"))
	var good, evil corev1.ContainerState
	must(t, eventually(t.Context(), patience, "the ephemeral containers to run and to be refused", func(ctx context.Context) error {
		var now corev1.Pod
		if err := s.plane.Get(ctx, "/api/v1/namespaces/default/pods/"+pod.Name, &now); err != nil {
			return err
		}
		for _, c := range now.Status.EphemeralContainerStatuses {
			if c.Name == "good" {
				good = c.State
			} else {
				evil = c.State
			}
		}
		if evil.Running != nil || evil.Terminated != nil {
			return fmt.Errorf("%w: an unsigned ephemeral container has run: %s", errFinal, evil.String())
		}
		if good.Running == nil || evil.Waiting == nil || !strings.Contains(evil.Waiting.Message, "no signatures found") {
			return fmt.Errorf("the signed one is %s, the unsigned one %s", good.String(), evil.String())
		}
		return nil
	}))
	if !strings.Contains(evil.Waiting.Reason+evil.Waiting.Message, "SignatureValidationFailed") {
		t.Errorf("the unsigned one waits with %s: %s", evil.Waiting.Reason, evil.Waiting.Message)
	}
	s.unchanged(t, pod)
}
