package deploy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/cosentry/cosentry/integration/cluster"
)

const (
	namespace = "cosentry-system"
	patience  = 2 * time.Minute
)

// fleet is a control plane with nodes that have no kubelet: the test does to Nodes and Pods what kubelets do, so that it
// says which pod gets ready and which does not. Who gets a pod and who is replaced when is Kubernetes' own doing.
type fleet struct {
	plane *cluster.ControlPlane
	nodes []string
	// well says which pods get ready. One that was ready stays so.
	well func(corev1.Pod) bool
	beat time.Time
}

func none(corev1.Pod) bool { return false }
func all(corev1.Pod) bool  { return true }

// newFleet has as many nodes, which are ready and on which no pod gets ready.
func newFleet(t *testing.T, size int) *fleet {
	t.Helper()
	plane, err := cluster.StartControlPlane(t.Context(), tools(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(plane.Logs())
		}
		if err := plane.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &fleet{plane: plane, well: none}
	var objects strings.Builder
	for i := range size {
		f.nodes = append(f.nodes, fmt.Sprintf("node-%d", i+1))
		fmt.Fprintf(&objects, `
apiVersion: v1
kind: Node
metadata: {name: %[1]s, labels: {kubernetes.io/os: linux, kubernetes.io/hostname: %[1]s}}
status:
  capacity: &room {cpu: "4", memory: 8Gi, pods: "110"}
  allocatable: *room
  conditions: [{type: Ready, status: "True", reason: KubeletReady, lastHeartbeatTime: %[2]q, lastTransitionTime: %[2]q}]
---`, f.nodes[i], now())
	}
	f.kubectl(t, objects.String(), "create", "-f", "-")
	return f
}

func now() string { return time.Now().UTC().Format(time.RFC3339) }

func (f *fleet) kubectl(t *testing.T, input string, args ...string) {
	t.Helper()
	if _, err := f.plane.Kubectl(t.Context(), input, args...); err != nil {
		t.Fatal(err)
	}
}

// overlay is an empty folder, and the way from there to a folder of the manifests.
func overlay(t *testing.T, folder string) (dir, there string) {
	t.Helper()
	dir = t.TempDir()
	target, err := filepath.Abs(filepath.Join(manifests, folder))
	if err != nil {
		t.Fatal(err)
	}
	if there, err = filepath.Rel(dir, target); err != nil {
		t.Fatal(err)
	}
	return dir, there
}

// apply applies a folder of the manifests with a version of the image, by an overlay as an owner has one.
func (f *fleet) apply(t *testing.T, folder, version string) {
	t.Helper()
	dir, there := overlay(t, folder)
	text := fmt.Sprintf("resources: [%s]\nimages: [{name: cosentry.invalid/cosentry, newTag: %s}]\n", there, version)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	f.kubectl(t, "", "apply", "-k", dir)
}

// remove deletes the DaemonSet and waits until its pods are gone.
func (f *fleet) remove(t *testing.T) {
	t.Helper()
	f.kubectl(t, "", "-n", namespace, "delete", "daemonset", "cosentry")
	f.until(t, "the pods to be gone", func(list []corev1.Pod) error {
		if len(list) > 0 {
			return fmt.Errorf("%d pods", len(list))
		}
		return nil
	})
}

// set is the DaemonSet as it is.
func (f *fleet) set(t *testing.T) (d appsv1.DaemonSet) {
	t.Helper()
	if err := f.plane.Get(t.Context(), "/apis/apps/v1/namespaces/"+namespace+"/daemonsets/cosentry", &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// kubelets does once what the nodes' kubelets do all the time, and returns the pods that are there.
func (f *fleet) kubelets(t *testing.T) (there []corev1.Pod) {
	t.Helper()
	if time.Since(f.beat) > 10*time.Second { // one that is not heard of for 40 s is given up, and its pods are not ready
		f.beat = time.Now()
		var leases strings.Builder
		for _, name := range f.nodes {
			fmt.Fprintf(&leases, `
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: %s, namespace: kube-node-lease}
spec: {holderIdentity: %[1]s, leaseDurationSeconds: 40, renewTime: %q}
---`, name, f.beat.UTC().Format("2006-01-02T15:04:05.000000Z"))
		}
		f.kubectl(t, leases.String(), "apply", "-f", "-")
	}
	var list corev1.PodList
	if err := f.plane.Get(t.Context(), "/api/v1/namespaces/"+namespace+"/pods", &list); err != nil {
		t.Fatal(err)
	}
	var ended, started []string
	for _, p := range list.Items {
		switch {
		case p.DeletionTimestamp != nil:
			ended = append(ended, p.Name)
		case p.Spec.NodeName != "" && !ready(p) && f.well(p):
			started = append(started, p.Name)
		}
	}
	if len(ended) > 0 {
		f.kubectl(t, "", append([]string{"-n", namespace, "delete", "--force", "--grace-period=0", "--wait=false", "--ignore-not-found", "pods"}, ended...)...)
	}
	if len(started) > 0 {
		status := fmt.Sprintf(`{"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": %q}]}}`, now())
		f.kubectl(t, "", append([]string{"-n", namespace, "patch", "--subresource=status", "-p", status, "pods"}, started...)...)
	}
	return list.Items
}

func ready(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// until plays the kubelets until what is wanted of the pods is so.
func (f *fleet) until(t *testing.T, what string, missing func([]corev1.Pod) error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := missing(f.kubelets(t))
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s: %v\n%s", patience, what, err, f.tell(t))
		}
		<-tick.C
	}
}

// settled waits until the controller has looked at everything anew, some times over: what it has not done by then, it does
// not do as things are. It is moved by a field that makes no other template.
func (f *fleet) settled(t *testing.T) {
	t.Helper()
	for range 3 {
		d := f.set(t)
		f.kubectl(t, "", "-n", namespace, "patch", "daemonset", "cosentry", "-p", fmt.Sprintf(`{"spec": {"revisionHistoryLimit": %d}}`, *d.Spec.RevisionHistoryLimit+1))
		f.until(t, "the controller", func([]corev1.Pod) error {
			if now := f.set(t); now.Status.ObservedGeneration <= d.Generation {
				return errors.New("it has not looked")
			}
			return nil
		})
	}
}

// on are the nodes that have, or are about to have, a pod of this version which nobody is taking away, in order.
func on(list []corev1.Pod, version string) (nodes []string) {
	for _, p := range list {
		if p.DeletionTimestamp == nil && versionOf(p) == version {
			nodes = append(nodes, nodeOf(p))
		}
	}
	slices.Sort(nodes)
	return nodes
}

// nodeOf is the node for which the controller made the pod: the scheduler binds it there a little later.
func nodeOf(p corev1.Pod) string {
	return p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
}

func versionOf(p corev1.Pod) string {
	return strings.TrimPrefix(p.Spec.Containers[0].Image, "cosentry.invalid/cosentry:")
}

func (f *fleet) tell(t *testing.T) string {
	t.Helper()
	out, err := f.plane.Kubectl(t.Context(), "", "-n", namespace, "get", "daemonsets,pods", "-o", "wide")
	return fmt.Sprint(out, err)
}

// wantOn waits until exactly these nodes have a pod of the version.
func (f *fleet) wantOn(t *testing.T, version string, nodes ...string) {
	t.Helper()
	f.until(t, fmt.Sprintf("pods of %s on %v", version, nodes), func(list []corev1.Pod) error {
		if got := on(list, version); !slices.Equal(got, nodes) {
			return fmt.Errorf("they are on %v", got)
		}
		return nil
	})
}

// wantCount waits until so many nodes have a pod of the version, and says which.
func (f *fleet) wantCount(t *testing.T, version string, n int) (nodes []string) {
	t.Helper()
	f.until(t, fmt.Sprintf("%d pods of %s", n, version), func(list []corev1.Pod) error {
		if nodes = on(list, version); len(nodes) != n {
			return fmt.Errorf("they are on %v", nodes)
		}
		return nil
	})
	return nodes
}

// wantHeld expects that nobody but these nodes gets a pod of the version as things are.
func (f *fleet) wantHeld(t *testing.T, version string, nodes ...string) {
	t.Helper()
	f.settled(t)
	if got := on(f.kubelets(t), version); !slices.Equal(got, nodes) {
		t.Fatalf("on %v, want it to stay on %v\n%s", got, nodes, f.tell(t))
	}
}

// wantAvailable waits until so many pods have been ready for as long as minReadySeconds says.
func (f *fleet) wantAvailable(t *testing.T, n int32) {
	t.Helper()
	f.until(t, fmt.Sprintf("%d pods to be available", n), func([]corev1.Pod) error {
		if got := f.set(t).Status.NumberAvailable; got != n {
			return fmt.Errorf("%d are", got)
		}
		return nil
	})
}
