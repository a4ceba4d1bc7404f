package cluster

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
)

// testInstall: the manifests bring cosentry onto the node. kubelet is restarted, and nothing that runs.
func (s *stage) testInstall(t *testing.T) {
	s.product = s.publish(t)
	_, err := s.plane.Kubectl(t.Context(), "", "create", "-k", manifests+"/crds")
	must(t, err)
	s.mode = "observe"
	s.apply(t)
	s.wantRollout(t, daemonSet)
	s.wantEndpoint(t, "/run/cosentry/containerd.sock")
	s.wantAgent(t)
	s.wantUntouched(t)
	s.wantReady(t)
}

// testObserve: what would be refused runs, and the node's owner can read that it would have been.
func (s *stage) testObserve(t *testing.T) {
	image := s.push(t, "apps/observed:1")
	s.deploy(t, "default", "observed", image)
	s.wantRuns(t, "default", "observed")
	report, err := s.machine.Exec(t.Context(), command, "report")
	if err == nil {
		t.Error("cosentry report ended with exit code 0, and an unsigned image was let through")
	}
	if !strings.Contains(report, image) {
		t.Errorf("cosentry report does not tell of %s:\n%s", image, report)
	}
}

// testEnforce: other settings are another ConfigMap and so another generation of the DaemonSet's pods, which brings them to the node.
// kubelet uses the same socket and is left alone.
func (s *stage) testEnforce(t *testing.T) {
	kubelet := s.process(t, "kubelet.service")
	s.mode = "enforce"
	s.apply(t)
	s.wantRollout(t, daemonSet)
	s.wantAgent(t)
	if now := s.process(t, "kubelet.service"); now != kubelet {
		t.Errorf("kubelet was process %s and is %s: it was restarted", kubelet, now)
	}
	s.wantUntouched(t)
}

// testItself: nothing exempts cosentry's own image. The policy about it admits its pods, and an image that somebody else
// pushed into its repository is refused like any other; meanwhile the node stays as it is.
func (s *stage) testItself(t *testing.T) {
	good := s.product
	defer func() { s.product = good }()
	bad, err := s.images.Saying("not cosentry")
	must(t, err)
	s.product.image, err = s.registry.Push("cosentry:replaced", bad)
	must(t, err)
	s.apply(t)
	message := s.wantItselfRefused(t)
	for _, word := range []string{s.product.image.DigestStr(), `"cosentry"`} {
		if !strings.Contains(message, word) {
			t.Errorf("the message does not say %q: %s", word, message)
		}
	}
	s.deploy(t, "default", "meanwhile", s.push(t, "apps/meanwhile:1"))
	s.wantRefused(t, "default", "meanwhile", "no signatures found")

	s.product = good
	s.apply(t)
	s.wantRollout(t, daemonSet)
	records, err := s.machine.Exec(t.Context(), "grep", "-h", good.image.DigestStr(), "-r", "/var/log/cosentry")
	must(t, err)
	if !strings.Contains(records, `"decision":"allow"`) || !strings.Contains(records, `"cosentry"`) {
		t.Errorf("no record tells that the policy about cosentry admitted it:\n%s", records)
	}
}

// wantItselfRefused waits until a pod of the DaemonSet as it is now is refused, and returns what kubelet says of it.
func (s *stage) wantItselfRefused(t *testing.T) string {
	t.Helper()
	var message string
	err := eventually(t.Context(), patience, "the DaemonSet's pod to be refused", func(ctx context.Context) error {
		pod, err := s.newPod(ctx)
		if err != nil {
			return err
		}
		message, err = refusal(&pod)
		return err
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, s.tellPods())
	}
	return message
}

// testDeleted: only the label takes cosentry off. A DaemonSet that somebody deletes, with the pods that watch, leaves
// the service, the socket and the last policies of the cluster.
func (s *stage) testDeleted(t *testing.T) {
	agent, kubelet := s.process(t, "cosentry.service"), s.process(t, "kubelet.service")
	_, err := s.plane.Kubectl(t.Context(), "", "-n", namespace, "delete", "daemonset", daemonSet, "--cascade=foreground")
	must(t, err)
	s.deploy(t, "default", "orphan-bad", s.push(t, "apps/orphan-bad:1"))
	s.deploy(t, "default", "orphan-good", s.push(t, "apps/orphan-good:1", s.release))
	s.wantRefused(t, "default", "orphan-bad", "no signatures found")
	s.wantRuns(t, "default", "orphan-good")
	s.apply(t)
	s.wantRollout(t, daemonSet)
	for unit, before := range map[string]string{"cosentry.service": agent, "kubelet.service": kubelet} {
		if now := s.process(t, unit); now != before {
			t.Errorf("%s was process %s and is %s: nothing had changed, and it was restarted", unit, before, now)
		}
	}
	s.wantUntouched(t)
}

// testOwner: settings that the node's owner has touched are his, and the cluster's ConfigMap cannot have such a node observe.
func (s *stage) testOwner(t *testing.T) {
	text, err := s.machine.ReadFile(settingsFile)
	must(t, err)
	must(t, s.machine.WriteFile(settingsFile, text+"# This node enforces.\n"))
	agent := s.process(t, "cosentry.service")
	s.mode = "observe"
	s.apply(t)
	s.wantRollout(t, daemonSet)
	s.mode = "enforce"
	s.wantAgent(t)
	if now := s.process(t, "cosentry.service"); now != agent {
		t.Errorf("the agent was process %s and is %s: it was restarted", agent, now)
	}
	s.deploy(t, "default", "owned", s.push(t, "apps/owned:1"))
	s.wantRefused(t, "default", "owned", "no signatures found")
}

// uninstallLabel takes cosentry off a node.
const uninstallLabel = "node-restriction.kubernetes.io/cosentry-uninstall"

// testUninstall: with the label the DaemonSet leaves, the other one comes, and the node is as it was before.
func (s *stage) testUninstall(t *testing.T) {
	ctx := t.Context()
	s.kustomize(t, "uninstall", map[string]string{}, "")
	_, err := s.plane.Kubectl(ctx, "", "label", "node", nodeName, uninstallLabel+"=true")
	must(t, err)
	s.wantRollout(t, "cosentry-uninstall")
	s.wantEndpoint(t, "/run/containerd/containerd.sock")
	s.wantReady(t)
	for _, unit := range []string{"cosentry.service", "cosentry.socket"} {
		if state, err := s.machine.Show(ctx, unit, "LoadState"); err != nil || state != "not-found" {
			t.Errorf("%s is %q after the uninstall (%v), want not-found", unit, state, err)
		}
	}
	after, err := s.machine.Snapshot(volatile...)
	must(t, err)
	changes, err := s.machine.Diff(s.delivered, after)
	must(t, err)
	for _, change := range changes {
		// The copy of what is the owner's stays on this node, whose /etc is in memory, and so do the folders that it is in.
		if name, _, _ := strings.Cut(change, ":"); name != "/var/lib/cosentry" && name != "/var/lib/cosentry/install" {
			t.Errorf("the node is not as it was: %s", change)
		}
	}
	if text, err := s.machine.ReadFile("/var/lib/cosentry/install/etc/config.yaml"); err != nil || !strings.Contains(text, "mode: ") {
		t.Errorf("a boot would lose the owner's settings: %q, %v", text, err)
	}
	s.wantUntouched(t)
	s.deploy(t, "default", "free", s.push(t, "apps/free:1"))
	s.wantRuns(t, "default", "free")
}

// volatile is what changes on a node that runs pods, and what an uninstall leaves to the owner: settings, policies and
// the record of decisions.
var volatile = []string{
	"/var/lib/containerd", "/var/lib/kubelet/pods", "/var/lib/kubelet/pod-resources", "/var/lib/kubelet/plugins",
	"/var/lib/kubelet/plugins_registry", "/var/lib/kubelet/image_manager", "/var/lib/kubelet/device-plugins", "/var/lib/kubelet/checkpoints",
	"/var/lib/kubelet/allocated_pods_state", "/var/lib/kubelet/actuated_pods_state", "/var/lib/kubelet/cpu_manager_state",
	"/var/lib/kubelet/memory_manager_state", "/var/lib/cni", "/var/log/pods", "/var/log/containers", "/var/log/journal",
	"/var/lib/systemd", "/etc/cosentry", "/var/lib/cosentry/install/etc", "/var/log/cosentry", "/run", "/tmp",
}

// testPorts: the network reaches metrics and nothing else, and whoever takes the connections there keeps kubelet from no probe.
func (s *stage) testPorts(t *testing.T) {
	probe := map[string]string{"9478": "http://127.0.0.1:9480/healthz", "9479": "http://127.0.0.1:9481/healthz"}
	for _, port := range []string{"9478", "9479"} {
		address := net.JoinHostPort(nodeAddress, port)
		if !answers(http.DefaultClient, "http://"+address+"/metrics") {
			t.Errorf("port %s of the node shows no metrics", port)
		}
		for _, path := range []string{"/healthz", "/readyz", "/status"} {
			if answers(http.DefaultClient, "http://"+address+path) {
				t.Errorf("port %s of the node shows the network %s", port, path)
			}
		}
		http.DefaultClient.CloseIdleConnections()
		var held []net.Conn
		for range 200 {
			c, err := net.Dial("tcp", address)
			must(t, err)
			held = append(held, c)
			_, _ = c.Write([]byte("GET /metrics HTTP/1.1\r\n")) // it may be closed already
		}
		if !answers(http.DefaultClient, probe[port]) {
			t.Errorf("with the connections to port %s taken, %s does not answer", port, probe[port])
		}
		for _, c := range held {
			c.Close()
		}
	}
	for _, port := range []string{"9480", "9481"} {
		if c, err := net.Dial("tcp", net.JoinHostPort(nodeAddress, port)); err == nil {
			c.Close()
			t.Errorf("the network reaches port %s, where kubelet's probes are answered", port)
		}
	}
}

// testMends: whoever points kubelet past the agent on the node has it for as long as supervise takes to look thrice.
func (s *stage) testMends(t *testing.T) {
	ctx := t.Context()
	const ready = "http://127.0.0.1:9480/readyz"
	must(t, eventually(ctx, patience, "supervise to say that all is well", func(ctx context.Context) error {
		if !answers(http.DefaultClient, ready) {
			return errors.New("it does not")
		}
		return nil
	}))
	_, err := s.machine.Exec(ctx, "sed", "-i", "s,/run/cosentry/containerd.sock,/run/containerd/containerd.sock,", s.layout.ConfigFile())
	must(t, err)
	_, err = s.machine.Systemctl(ctx, "restart", "kubelet.service")
	must(t, err)
	_, err = s.machine.Systemctl(ctx, "stop", "cosentry.socket", "cosentry.service")
	must(t, err)
	must(t, eventually(ctx, patience, "supervise to tell that the node is not as installed", func(ctx context.Context) error {
		if answers(http.DefaultClient, ready) {
			return errors.New("it says that all is well")
		}
		return nil
	}))
	s.wantAgent(t)
	s.wantEndpoint(t, "/run/cosentry/containerd.sock")
	s.wantReady(t)
	s.deploy(t, "default", "mended", s.push(t, "apps/mended:1"))
	s.wantRefused(t, "default", "mended", "no signatures found")
	s.wantRollout(t, daemonSet)
	s.wantUntouched(t)
}
