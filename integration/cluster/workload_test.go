package cluster

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// deployment is one that runs image until it is deleted, or that a claim of the test's finds refused.
func deployment(namespace, name, image string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  selector: {matchLabels: {app: %[2]s}}
  template:
    metadata: {labels: {app: %[2]s}}
    spec:
      terminationGracePeriodSeconds: 0
      automountServiceAccountToken: false
      containers:
        - {name: main, image: %[3]q, command: [/bin/sleep, "2147483647"]}
`, namespace, name, image)
}

// deploy applies a Deployment of image, which goes with the test.
func (s *stage) deploy(t *testing.T, namespace, name, image string) {
	t.Helper()
	_, err := s.plane.Kubectl(t.Context(), deployment(namespace, name, image), "apply", "-f", "-")
	must(t, err)
	t.Cleanup(func() { s.undeploy(t, namespace, name) })
}

// undeploy removes a Deployment and waits for its pods to be gone.
func (s *stage) undeploy(t *testing.T, namespace, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := s.plane.Kubectl(ctx, "", "-n", namespace, "delete", "deployment", name, "--ignore-not-found", "--cascade=foreground")
	if err != nil {
		t.Error(err)
	}
}

// pods are those with the label app=name.
func (s *stage) pods(ctx context.Context, namespace, name string) ([]corev1.Pod, error) {
	var list corev1.PodList
	path := "/api/v1/namespaces/" + namespace + "/pods?labelSelector=" + url.QueryEscape("app="+name)
	if err := s.plane.Get(ctx, path, &list); err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, fmt.Errorf("no pod of %s in %s yet", name, namespace)
	}
	return list.Items, nil
}

// wantRuns waits until every container of the one pod of name runs, and returns the pod.
func (s *stage) wantRuns(t *testing.T, namespace, name string) corev1.Pod {
	t.Helper()
	var found corev1.Pod
	err := eventually(t.Context(), patience, name+" to run", func(ctx context.Context) error {
		pods, err := s.pods(ctx, namespace, name)
		if err != nil {
			return err
		}
		found = pods[0]
		return running(&found)
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, s.describe(namespace, name))
	}
	return found
}

func running(pod *corev1.Pod) error {
	if pod.DeletionTimestamp != nil || len(pod.Status.ContainerStatuses) < len(pod.Spec.Containers) {
		return fmt.Errorf("pod %s is %s", pod.Name, pod.Status.Phase)
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running == nil {
			return fmt.Errorf("container %s of pod %s: %s", c.Name, pod.Name, c.State.String())
		}
	}
	return nil
}

// wantRefused waits until kubelet tells of a refusal by cosentry, with every one of the words, and looks for the same in
// what a person reads. Nothing of the pod may have run.
func (s *stage) wantRefused(t *testing.T, namespace, name string, words ...string) {
	t.Helper()
	var message string
	err := eventually(t.Context(), patience, name+" to be refused", func(ctx context.Context) error {
		pods, err := s.pods(ctx, namespace, name)
		if err != nil {
			return err
		}
		message, err = refusal(&pods[0])
		return err
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, s.describe(namespace, name))
	}
	// The event is written beside the status, by another way.
	err = eventually(t.Context(), patience, "kubectl describe to tell why", func(context.Context) error {
		text := s.describe(namespace, name)
		for _, word := range append(words, "SignatureValidationFailed") {
			if !strings.Contains(text, word) {
				return fmt.Errorf("kubectl describe pod does not say %q:\n%s", word, text)
			}
		}
		return nil
	})
	must(t, err)
	for _, word := range words {
		if !strings.Contains(message, word) {
			t.Errorf("the container's message does not say %q: %s", word, message)
		}
	}
}

// refusal is the message of a container that waits because cosentry refused it.
func refusal(pod *corev1.Pod) (string, error) {
	statuses := append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...)
	for _, c := range statuses {
		if c.ContainerID != "" || c.RestartCount > 0 || c.State.Running != nil {
			return "", fmt.Errorf("%w: container %s of pod %s has run: %s", errFinal, c.Name, pod.Name, c.State.String())
		}
	}
	for _, c := range statuses {
		if c.State.Waiting == nil {
			continue
		}
		refused := c.State.Waiting.Reason == "SignatureValidationFailed" ||
			strings.Contains(c.State.Waiting.Message, "SignatureValidationFailed: ")
		if refused {
			return c.State.Waiting.Message, nil
		}
	}
	return "", fmt.Errorf("pod %s is %s: %v", pod.Name, pod.Status.Phase, statuses)
}

// describe is what kubectl describe tells of the pods of name.
func (s *stage) describe(namespace, name string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	text, err := s.plane.Kubectl(ctx, "", "-n", namespace, "describe", "pod", "-l", "app="+name)
	if err != nil {
		return text + err.Error()
	}
	return text
}

// pod creates a pod that goes with the test.
func (s *stage) pod(t *testing.T, namespace, name, image string) {
	t.Helper()
	_, err := s.plane.Kubectl(t.Context(), barePod(namespace, name, image), "apply", "-f", "-")
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := s.plane.Kubectl(ctx, "", "-n", namespace, "delete", "pod", name, "--ignore-not-found", "--grace-period=0"); err != nil {
			t.Error(err)
		}
	})
}

// unchanged expects that the pod is still the one that it was: the same containers, none of them started again.
func (s *stage) unchanged(t *testing.T, before corev1.Pod) {
	t.Helper()
	var now corev1.Pod
	must(t, s.plane.Get(t.Context(), "/api/v1/namespaces/"+before.Namespace+"/pods/"+before.Name, &now))
	if got, want := containers(now), containers(before); got != want {
		t.Errorf("the containers of pod %s are\n%s, want them as they were:\n%s", before.Name, got, want)
	}
}

func containers(pod corev1.Pod) string {
	var text strings.Builder
	for _, c := range pod.Status.ContainerStatuses {
		fmt.Fprintf(&text, "%s %s started %d times\n", c.Name, c.ContainerID, c.RestartCount+1)
	}
	return text.String()
}

// staticPod has kubelet run a pod by a file, past the API server. It goes with the test.
func (s *stage) staticPod(t *testing.T, name, image string) {
	t.Helper()
	must(t, s.machine.StaticPod(name, barePod("default", name, image)))
	t.Cleanup(func() {
		if err := s.machine.RemoveStaticPod(name); err != nil {
			t.Error(err)
		}
	})
}
