package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"

	"github.com/cosentry/cosentry/integration/harness"
)

// finding is what `cosentry doctor -o json` says of one check.
type finding struct{ ID, Level, Saw, Do string }

// doctor runs cosentry doctor and returns its findings by name.
func (w *world) doctor(t *testing.T, config string, args ...string) (map[string]finding, int) {
	t.Helper()
	output, code, err := w.agent.Command(t.Context(), append([]string{"doctor", "--config", config, "-o", "json"}, args...)...)
	must(t, err)
	var report struct {
		Level    string
		Findings []finding
	}
	if err := json.Unmarshal([]byte(output), &report); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if want := map[string]int{"ok": 0, "warn": 1, "fail": 2}[report.Level]; code != want {
		t.Errorf("level %s with exit code %d", report.Level, code)
	}
	found := map[string]finding{}
	for _, f := range report.Findings {
		found[f.ID] = f
	}
	return found, code
}

// wantCanary sends a canary and expects what is said of it, and nothing left of it on the node.
func (w *world) wantCanary(t *testing.T, config, level, says string, args ...string) {
	t.Helper()
	found, _ := w.doctor(t, config, append(args, "--canary")...)
	f := found["canary"]
	if f.Level != level || !strings.Contains(f.Saw, says) {
		t.Errorf("%s: %s; want %s: … %s …", f.Level, f.Saw, level, says)
	}
	if left := w.canaries(t); len(left) > 0 {
		t.Errorf("left on the node: %v", left)
	}
}

// canaries are the images of canaries that are on the node, by the CRI and by containerd's own list.
func (w *world) canaries(t *testing.T) []string {
	t.Helper()
	var names []string
	list, err := w.Direct.Images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	must(t, err)
	for _, i := range list.Images {
		names = append(names, append(i.RepoTags, i.RepoDigests...)...)
	}
	client, err := w.Containerd.Client()
	must(t, err)
	defer client.Close()
	images, err := client.ImageService().List(t.Context())
	must(t, err)
	for _, i := range images {
		names = append(names, i.Name)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !strings.Contains(name, "cosentry-canary") })
}

// TestCanaryIsRefused: by the rule for what nobody has a policy for, and by a policy that asks for a signature and finds none.
func TestCanaryIsRefused(t *testing.T) {
	w := newWorld(t, nil)
	w.wantCanary(t, w.agent.Config(), "ok", "no policy matches")
	must(t, w.agent.WritePolicy("all.yaml", harness.KeyPolicy("all", "**", w.release.PublicPEM)))
	must(t, harness.Until(10*time.Second, "the policy to be in force", func() bool {
		output, _ := w.command(t, "status", "-o", "json")
		return strings.Contains(output, `"all"`)
	}))
	w.wantCanary(t, w.agent.Config(), "ok", "no signatures found")
	refused := 0
	for _, r := range w.records(t) {
		if image, _ := r["image"].(string); strings.Contains(image, "cosentry-canary") && r["action"] == "pull" && r["decision"] == "deny" {
			refused++
		}
	}
	if refused != 2 {
		t.Errorf("%d records of refused canaries, want 2", refused)
	}
	// What proves that images are refused must not be a way to run them.
	w.pushSigned("app:1", "signed")
	w.wantRun(t, w.image("app:1"), "signed")
}

// TestCanaryThatTheRulesLetThrough: it came through, and why is told apart from a gate that is not there.
func TestCanaryThatTheRulesLetThrough(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(w *world, s *harness.Settings)
		says string
		args []string
	}{
		"observe":  {func(_ *world, s *harness.Settings) { s.Mode = "observe" }, "as nothing is refused now", nil},
		"no match": {func(_ *world, s *harness.Settings) { setting(s, "policies", "noMatch", "allow") }, "rules allow it", nil},
		"a static pass": {func(_ *world, s *harness.Settings) {
			s.Policies["open.yaml"] = "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: open}\nspec: {images: [{glob: '**'}], authorities: [{static: {action: pass}}]}\n"
		}, `policy "open"`, nil},
		"a policy that only warns": {func(w *world, s *harness.Settings) {
			s.Policies["warn.yaml"] = strings.Replace(harness.KeyPolicy("warn", "**", w.release.PublicPEM), "spec:\n", "spec:\n  mode: warn\n", 1)
		}, "mode is warn", nil},
		"an exempt namespace": {func(_ *world, s *harness.Settings) { setting(s, "namespaces", "exempt", []any{"kube-system"}) }, "is not enforced on this node", []string{"--namespace", "kube-system"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.edit)
			w.wantCanary(t, w.agent.Config(), "warn", c.says, c.args...)
			if len(c.args) > 0 {
				w.wantCanary(t, w.agent.Config(), "ok", "refused")
			}
		})
	}
}

// setting changes one of the settings.
func setting(s *harness.Settings, group, name string, value any) {
	s.Edit = func(config map[string]any) { config[group].(map[string]any)[name] = value }
}

// TestCanaryPastTheAgent: on the runtime's own socket an unsigned image is pulled and no record tells of it, although an agent in
// enforce mode runs beside.
func TestCanaryPastTheAgent(t *testing.T) {
	w := newWorld(t, nil)
	data, err := os.ReadFile(w.agent.Config())
	must(t, err)
	config := map[string]any{}
	must(t, yaml.Unmarshal(data, &config))
	link := filepath.Join(w.Dir, "link.sock")
	must(t, os.Symlink(w.Containerd.Socket, link))
	config["listen"] = link
	config["http"] = map[string]any{"address": "127.0.0.1:1"} // the agent would tell which socket it serves
	data, err = yaml.Marshal(config)
	must(t, err)
	bypass := filepath.Join(w.Dir, "bypass.yaml")
	must(t, os.WriteFile(bypass, data, 0o600))
	w.wantCanary(t, bypass, "fail", "NOBODY JUDGED IT")
	if f, _ := w.doctor(t, bypass); f["socket"].Level != "fail" || !strings.Contains(f["socket"].Saw, "the runtime itself") {
		t.Errorf("the runtime's socket is taken for the agent's: %+v", f["socket"])
	}
}

// TestCanaryThatIsNotJudged: a node that refuses everything because its policies are broken has proved nothing.
func TestCanaryThatIsNotJudged(t *testing.T) {
	w := newWorld(t, func(_ *world, s *harness.Settings) { s.Policies["broken.yaml"] = "kind: [" })
	w.wantCanary(t, w.agent.Config(), "fail", "was not judged")
}

// TestCanaryLeftBehindIsSwept: a canary that was killed in the middle is removed by the next, from images and from disk.
func TestCanaryLeftBehindIsSwept(t *testing.T) {
	w := newWorld(t, nil)
	left := w.push("cosentry-canary/"+strings.Repeat("ab", 16)+":1", "left")
	client, err := w.Containerd.Client()
	must(t, err)
	defer client.Close()
	_, err = client.Pull(t.Context(), left.String(), containerd.WithPullLabel("io.cri-containerd.image", "managed"))
	must(t, err)
	must(t, harness.Until(10*time.Second, "the runtime to list it", func() bool { return len(w.canaries(t)) > 1 }))
	w.wantCanary(t, w.agent.Config(), "ok", "refused")
}
