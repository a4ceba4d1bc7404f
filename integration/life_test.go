package integration

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/integration/harness"
)

// command runs cosentry with the world's settings.
func (w *world) command(t *testing.T, args ...string) (string, int) {
	t.Helper()
	output, code, err := w.agent.Command(t.Context(), append(args, "--config", w.agent.Config())...)
	must(t, err)
	return output, code
}

// TestBrokenPolicyAtStart: the node is managed as before, and nothing new runs.
func TestBrokenPolicyAtStart(t *testing.T) {
	for name, text := range map[string]string{
		"no YAML":            "kind: [",
		"unknown field":      "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: x}\nspec: {images: [{glob: '**'}], authorities: [{static: {action: pass}}], surprise: 1}\n",
		"a field not judged": "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: x}\nspec: {images: [{glob: '**'}], authorities: [{static: {action: pass}}], policy: {includeSpec: true, type: cue, data: 'a: 1'}}\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(_ *world, s *harness.Settings) { s.Policies["broken.yaml"] = text })
			w.pushSigned("app:1", "signed")
			pod := w.pod()
			_, err := w.kubelet.Runtime.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
			must(t, err)
			_, err = w.kubelet.Pull(t.Context(), pod, w.image("app:1"), nil)
			wantRefused(t, err, "broken.yaml")
			ref := w.pullAround(w.image("app:1"))
			_, err = w.kubelet.Create(t.Context(), pod, harness.Container{Name: "main", Image: w.image("app:1")}, ref, nil)
			wantRefused(t, err, "broken.yaml")
			if output, code := w.command(t, "status"); code != 1 || !strings.Contains(output, "broken.yaml") {
				t.Errorf("cosentry status: exit code %d, want 1 and the file named\n%s", code, output)
			}
			if _, code, err := w.agent.Get("/readyz"); err != nil || code == http.StatusOK {
				t.Errorf("/readyz answers %d, %v", code, err)
			}
			if _, code, err := w.agent.Get("/healthz"); err != nil || code != http.StatusOK {
				t.Errorf("/healthz answers %d, %v", code, err)
			}

			must(t, w.agent.WritePolicy("broken.yaml", ""))
			must(t, harness.Until(10*time.Second, "the repaired policies to be in force", func() bool {
				_, code := w.command(t, "status")
				return code == 0
			}))
			w.wantRun(t, w.image("app:1"), "signed")
		})
	}
}

func TestBrokenPolicyKeepsTheLastGoodSet(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "signed")
	w.push("evil:1", "evil")
	must(t, w.agent.WritePolicy("broken.yaml", "kind: ["))
	must(t, harness.Until(10*time.Second, "cosentry status to name the broken file", func() bool {
		output, _ := w.command(t, "status")
		return strings.Contains(output, "broken.yaml")
	}))
	w.wantRun(t, w.image("app:1"), "signed")
	_, err := w.run(harness.Container{Image: w.image("evil:1")})
	wantRefused(t, err, "no signatures found")
	if !strings.Contains(w.agent.Log(), "broken.yaml") {
		t.Error("the log does not name the broken file")
	}
}

func TestTerminationEndsCleanly(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "signed")
	pod := w.pod()
	// Hold the runtime's download until cosentry has been told to stop.
	reached, released := make(chan struct{}, 8), make(chan struct{})
	w.Registry.SetIntercept(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasPrefix(r.Header.Get("User-Agent"), "containerd") && strings.Contains(r.URL.Path, "/blobs/") {
			reached <- struct{}{}
			<-released
		}
		next.ServeHTTP(rw, r)
	})
	pulled := make(chan error, 1)
	go func() {
		_, err := w.kubelet.Pull(t.Context(), pod, w.image("app:1"), nil)
		pulled <- err
	}()
	select {
	case <-reached:
	case <-time.After(20 * time.Second):
		t.Fatal("the runtime did not start to pull")
	}
	must(t, w.agent.Signal(syscall.SIGTERM))
	late, err := w.Kubelet(w.agent.Socket)
	must(t, err)
	must(t, harness.Until(10*time.Second, "new calls to be turned away", func() bool {
		_, err := late.Runtime.Version(t.Context(), &runtimeapi.VersionRequest{})
		return status.Code(err) == codes.Unavailable
	}))
	select {
	case <-w.agent.Exited():
		t.Fatal("it ended while a pull was under way")
	default:
	}
	close(released)
	if err := <-pulled; err != nil {
		t.Errorf("the pull under way at SIGTERM: %v", err)
	}
	code, err := w.agent.Stop(20 * time.Second)
	must(t, err)
	if code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
	w.Registry.SetIntercept(nil)
	must(t, w.agent.Start())
	w.wantRun(t, w.image("app:1"), "signed")
}

// TestKilled kills cosentry again and again while containers are refused and
// run; the running one does not notice, and the audit log stays one chain.
func TestKilled(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "signed")
	w.push("evil:1", "evil")
	pod := w.pod()
	c := harness.Container{Name: "long", Image: w.image("app:1"), Command: []string{"/bin/sleep", "600"}}
	ref, err := w.kubelet.Pull(t.Context(), pod, c.Image, nil)
	must(t, err)
	id, err := w.kubelet.Create(t.Context(), pod, c, ref, nil)
	must(t, err)
	must(t, w.kubelet.Start(t.Context(), id))
	for range 4 {
		stop := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := w.kubelet.Pull(t.Context(), pod, w.image("evil:1"), nil); err == nil {
					t.Error("an unsigned image was pulled while cosentry was killed")
					return
				}
			}
		}()
		before := len(w.records(t))
		must(t, harness.Until(10*time.Second, "decisions to be recorded", func() bool { return len(w.records(t)) > before }))
		w.agent.Kill()
		close(stop)
		<-done
		must(t, w.agent.Start())
		must(t, harness.Until(10*time.Second, "the kubelet to be connected again", func() bool {
			_, err := w.kubelet.Runtime.Version(t.Context(), &runtimeapi.VersionRequest{})
			return err == nil
		}))
		w.wantRun(t, w.image("app:1"), "signed")
		_, err := w.run(harness.Container{Image: w.image("evil:1")})
		wantRefused(t, err, "no signatures found")
	}
	resp, err := w.kubelet.Runtime.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	must(t, err)
	if resp.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container that ran all the time is %s", resp.Status.State)
	}
	w.wantAbsent(t, w.image("evil:1"))
}

// records leaves out a last line that is being written.
func (w *world) records(t *testing.T) []map[string]any {
	t.Helper()
	records, err := w.agent.Records()
	if err != nil && !strings.Contains(err.Error(), "unexpected end of JSON") {
		t.Fatal(err)
	}
	return records
}

func TestRuntimeDownAndBack(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "signed")
	w.wantRun(t, w.image("app:1"), "signed")
	pod := w.pod()
	for range 2 {
		_, err := w.Containerd.Stop(20 * time.Second)
		must(t, err)
		_, err = w.kubelet.Runtime.Version(t.Context(), &runtimeapi.VersionRequest{})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("a call while the runtime is down: %v, want code Unavailable", err)
		}
		_, err = w.kubelet.Create(t.Context(), pod, harness.Container{Name: "main", Image: w.image("app:1")}, w.image("app:1"), nil)
		if err == nil {
			t.Error("a container was created without a runtime")
		}
		must(t, w.Containerd.Start(t.Context()))
		back := time.Now()
		must(t, harness.Until(20*time.Second, "calls to succeed after the runtime's return", func() bool {
			_, err := w.kubelet.Runtime.Version(t.Context(), &runtimeapi.VersionRequest{})
			return err == nil
		}))
		t.Logf("recovered in %s", time.Since(back))
		w.wantRun(t, w.image("app:1"), "signed")
	}
}

// TestStartedBeforeTheRuntime: at boot nobody says which is first.
func TestStartedBeforeTheRuntime(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "signed")
	w.agent.Kill()
	_, err := w.Containerd.Stop(20 * time.Second)
	must(t, err)
	must(t, w.agent.Start())
	_, err = w.kubelet.Runtime.Version(t.Context(), &runtimeapi.VersionRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a call before the runtime is there: %v, want code Unavailable", err)
	}
	must(t, w.Containerd.Start(t.Context()))
	must(t, harness.Until(20*time.Second, "calls to succeed", func() bool {
		_, err := w.kubelet.Runtime.Version(t.Context(), &runtimeapi.VersionRequest{})
		return err == nil
	}))
	w.wantRun(t, w.image("app:1"), "signed")
}
