// Package monitoring holds the alerts and the dashboard of deploy/monitoring
// against the metrics that a real node shows: with systemd, containerd, kubelet,
// an agent that cosentry install put there, supervise and sync.
package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cosentry/cosentry/integration/harness"
	"github.com/cosentry/cosentry/integration/machine"
)

func TestMain(m *testing.M) { os.Exit(harness.Isolated(m.Run)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const settings = `
apiVersion: cosentry.dev/v1alpha1
kind: NodeConfig
mode: enforce
clusterPolicies: {dir: /var/lib/cosentry/cluster}
`

// TestMonitoring boots one node for all tests of the folder.
func TestMonitoring(t *testing.T) {
	n := startNode(t)
	t.Run("metrics exist", n.metricsExist)
	t.Run("alerts", n.alerts)
	t.Run("dashboard", n.dashboard)
	t.Run("documented alerts", documentedAlerts)
}

// node is what one node showed.
type node struct {
	shown []series
	at    time.Time
}

func startNode(t *testing.T) *node {
	t.Helper()
	tools, err := harness.FindTools("kubelet")
	must(t, err)
	must(t, os.Setenv("HOME", "/run")) // nobody's docker config
	registry := harness.NewRegistry("127.0.0.1:5001", true)
	must(t, registry.Start())
	t.Cleanup(registry.Stop)
	images, err := harness.NewImages(tools)
	must(t, err)
	key, err := harness.NewKey()
	must(t, err)
	pause, err := images.Pause()
	must(t, err)
	digest, err := registry.Push("pause:3.10", pause)
	must(t, err)
	must(t, key.SignClassic(t.Context(), registry, digest))
	for _, path := range []string{"app:1", "evil:1"} {
		image, err := images.Saying(path)
		must(t, err)
		digest, err := registry.Push(path, image)
		must(t, err)
		if path == "app:1" {
			must(t, key.SignClassic(t.Context(), registry, digest))
		}
	}
	api := httptest.NewServer(http.HandlerFunc(cluster))
	t.Cleanup(func() { api.CloseClientConnections(); api.Close() })

	m, err := machine.Start(t.Context(), machine.Options{
		Tools: tools, Pause: registry.Addr + "/pause:3.10",
		Files: map[string]machine.File{
			"/root/policies/signed.yaml": {Text: harness.KeyPolicy("signed", registry.Addr+"/**", key.PublicPEM)},
			// A policy by certificate brings a trust root, with the times at which it ends.
			"/root/policies/keyless.yaml": {Text: keyless},
			"/root/settings.yaml":         {Text: settings},
			"/root/kubeconfig":            {Text: fmt.Sprintf(kubeconfig, api.URL)},
		},
	})
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			t.Log(m.Logs(ctx))
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	out, err := m.Exec(t.Context(), machine.Cosentry, "install", "--settings", "/root/settings.yaml", "--policies", "/root/policies")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run(t, m, "sync", "--kubeconfig", "/root/kubeconfig", "--dir", "/var/lib/cosentry/cluster", "--listen", "127.0.0.1:9479")
	run(t, m, "supervise", "--interval", "1s", "--listen", "127.0.0.1:9478")
	for _, name := range []string{"app", "evil"} {
		must(t, m.StaticPod(name, fmt.Sprintf(pod, name, registry.Addr+"/"+name+":1")))
	}
	n := &node{}
	var unmet []string
	var lastError error
	err = harness.Until(3*time.Minute, "the node's metrics", func() bool {
		// One target a node: supervise has what the agent and sync show.
		shown, err := scrape("http://127.0.0.1:9478/metrics", "127.0.0.1:9478")
		if err != nil {
			lastError = err
			return false
		}
		n.shown, n.at = append(append(shown, ups("127.0.0.1:9478")...), clusterNodes()...), time.Now()
		unmet = n.unmet()
		return len(unmet) == 0
	})
	if err != nil {
		t.Fatalf("%v\nnot there: %s\nthe last error of a scrape: %v\n%s", err, strings.Join(unmet, ", "), lastError, n.text())
	}
	return n
}

// unmet are the series that a node at work shows, and this one does not yet.
func (n *node) unmet() (missing []string) {
	for _, s := range []string{
		`cosentry_decisions_total{action="pull",decision="deny"}`, `cosentry_decisions_total{action="create",decision="allow"}`,
		`cosentry_sync_up_to_date_timestamp_seconds`, // and what is 1 or 0:
		`cosentry_cluster_policies_state{state="good"}`, `cosentry_host_installed`, `cosentry_sandbox_image_allowed`, `cosentry_host_sync_up`,
	} {
		if n.value(s) <= 0 {
			missing = append(missing, s)
		}
	}
	return missing
}

// run runs a command of cosentry on the machine until the test ends.
func run(t *testing.T, m *machine.Machine, args ...string) {
	t.Helper()
	cmd, err := m.Command(context.WithoutCancel(t.Context()), append([]string{machine.Cosentry}, args...)...)
	must(t, err)
	log := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = log, log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		if err := cmd.Wait(); err != nil && !isExit(err) {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("%v:\n%s", args, log)
		}
	})
}

func isExit(err error) bool { _, ok := err.(*exec.ExitError); return ok }

func scrape(url, instance string) ([]series, error) {
	client := http.Client{Timeout: 30 * time.Second} // supervise gives a page up long before
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	return parse(text, instance)
}

// cluster is as much of an API server as sync asks: real ones are asked in
// integration/cluster.
func cluster(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Query().Get("watch") != "" {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return
	}
	list := map[string]any{"kind": "List", "apiVersion": "v1", "metadata": map[string]any{"resourceVersion": "1"}, "items": []any{}}
	if strings.HasSuffix(r.URL.Path, "/clusterimagepolicies") {
		var policy any
		_ = json.Unmarshal([]byte(clusterPolicy), &policy)
		list["items"] = []any{policy}
	}
	_ = json.NewEncoder(w).Encode(list)
}

const (
	kubeconfig = `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q}}]
contexts: [{name: c, context: {cluster: c}}]
current-context: c
`
	clusterPolicy = `{"apiVersion": "policy.sigstore.dev/v1beta1", "kind": "ClusterImagePolicy", "metadata": {"name": "cluster"},
		"spec": {"images": [{"glob": "registry.example/**"}], "authorities": [{"static": {"action": "fail"}}]}}`
	keyless = `
apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata: {name: keyless}
spec:
  images: [{glob: "ghcr.io/example/**"}]
  authorities: [{keyless: {url: "https://fulcio.sigstore.dev", identities: [{issuer: "https://i.example", subject: "s"}]}}]
`
	pod = `
apiVersion: v1
kind: Pod
metadata: {name: %q, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: %q, command: [sleep, "2147483647"]}]
`
)
