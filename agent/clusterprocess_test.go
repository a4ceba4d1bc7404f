package main

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/cluster"
	"github.com/cosentry/cosentry/criproxy/critest"
)

// TestAnAgentGoesByBothLayers starts one on a node whose API server somebody else owns: with a set that cannot be read, then
// with one that would open everything, then with a restriction, and then with none at all.
func TestAnAgentGoesByBothLayers(t *testing.T) {
	p := newProcess(t, "")
	s := &synced{dir: p.dir + "/cluster", config: p.dir + "/config.yaml"}
	write(t, s.config, readFile(t, s.config)+"clusterPolicies: {dir: "+s.dir+"}\n")
	const allowed, forbidden = "registry.example/free/app@sha256:", "registry.example/other/app@sha256:"
	write(t, filepath.Join(p.dir, "policies", "a.yaml"), static("free", "registry.example/free/**", "pass"))
	s.put(t, cluster.Contents{Documents: []cluster.File{named("broken", "kind: Nonsense\n")}})
	critest.Serve(t, p.dir+"/r.sock", critest.NewRuntime(0))
	p.start(t)
	p.eventually(t, "the runtime answers", func() bool { return callVersion(t, p.socket) == nil })
	pull := func(image string) error {
		_, err := runtimeapi.NewImageServiceClient(critest.Dial(t, p.socket)).PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image + strings.Repeat("a", 64)}})
		return err
	}
	refused := func(image, words string) {
		t.Helper()
		if err := pull(image); err == nil || !strings.Contains(err.Error(), "SignatureValidationFailed: ") || !strings.Contains(err.Error(), words) {
			t.Errorf("%v; want %q", err, words)
		}
	}
	refused(allowed, "cluster policies: ")
	if body, code := p.get(t, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "cluster's policies cannot be loaded") {
		t.Errorf("/readyz: %d %s", code, body)
	}

	s.put(t, cluster.Contents{Documents: []cluster.File{named("free", static("free", "**", "pass"))}})
	p.eventually(t, "the set is in force", func() bool { return p.status(t).ClusterPolicies.State == "good" })
	if err := pull(allowed); err != nil && strings.Contains(err.Error(), "SignatureValidationFailed") {
		t.Error(err)
	}
	refused(forbidden, "no policy matches")

	s.put(t, cluster.Contents{Documents: []cluster.File{named("free", static("free", "**", "fail"))}})
	before := p.status(t).ClusterPolicies.Revision
	p.eventually(t, "the next is in force", func() bool { return p.status(t).ClusterPolicies.Revision != before })
	refused(allowed, `by cluster policy "free"`)
	w, err := cluster.OpenWriter(t.Context(), s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Beat(time.Now()); err != nil {
		t.Fatal(err)
	}
	w.Close()
	status := p.status(t)
	if c := status.ClusterPolicies; c.Count != 1 || c.Heartbeat.IsZero() || c.Broken != "" || status.Policies.Count != 1 {
		t.Errorf("%+v", c)
	}
	out, _, _ := command(t, "status", "--config", s.config)
	if !strings.Contains(out, "cluster ") || !strings.Contains(out, "1 policies, revision "+status.ClusterPolicies.Revision) || !strings.Contains(out, "up to date at") {
		t.Error(out)
	}
	body, _ := p.get(t, "/metrics")
	for _, line := range []string{`cosentry_cluster_policies_state{state="good"} 1`, "cosentry_cluster_policies 1", `cosentry_cluster_policy_info{revision="` + status.ClusterPolicies.Revision + `"} 1`, "cosentry_cluster_heartbeat_timestamp_seconds "} {
		if !strings.Contains(body, "\n"+line) {
			t.Errorf("%s is missing", line)
		}
	}
	records, _, _ := command(t, "audit", "tail", "--config", s.config, "-o", "json")
	if !strings.Contains(records, `"layer":"cluster"`) || !strings.Contains(records, `"revision":"`+status.Policies.Revision+"+"+status.ClusterPolicies.Revision) {
		t.Error(records)
	}

	s.put(t, cluster.Contents{})
	p.eventually(t, "there are none any more", func() bool { return p.status(t).ClusterPolicies.Count == 0 })
	refused(forbidden, "no policy matches")
	p.stop(t)
}
