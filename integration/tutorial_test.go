package integration

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/cosentry/cosentry/integration/harness"
	"github.com/cosentry/cosentry/integration/sigstore"
)

// page is docs/policy.md, whose tutorials are run here as they are written.
type page string

func policyPage(t *testing.T) page {
	t.Helper()
	text, err := os.ReadFile("../docs/policy.md")
	must(t, err)
	return page(text)
}

// example is the block that the page calls by this name.
func (p page) example(t *testing.T, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(string(p), "<!-- example: "+name+" -->\n")
	if !ok {
		t.Fatalf("docs/policy.md has no example %s", name)
	}
	var block []string
	indent := ""
	for i, line := range strings.Split(rest, "\n") {
		if i == 0 {
			indent = line[:len(line)-len(strings.TrimLeft(line, " "))]
			continue
		}
		if strings.TrimSpace(line) == "```" {
			break
		}
		block = append(block, strings.TrimPrefix(line, indent))
	}
	return strings.Join(block, "\n") + "\n"
}

// commands are the lines of the shell blocks of a section, without comments at their ends, which are returned beside them.
func (p page) commands(t *testing.T, section string) (lines, comments []string) {
	t.Helper()
	_, text, ok := strings.Cut(string(p), "## "+section+"\n")
	if !ok {
		t.Fatalf("docs/policy.md has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	for _, block := range regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```").FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(strings.ReplaceAll(block[1], "\\\n", " ")) {
			command, comment, _ := strings.Cut(line, " # ")
			if command = strings.TrimSpace(command); command != "" {
				lines, comments = append(lines, command), append(comments, strings.TrimSpace(comment))
			}
		}
	}
	return lines, comments
}

// settings puts a settings example over the node's settings.
func settings(t *testing.T, example string) func(map[string]any) {
	t.Helper()
	var written map[string]any
	must(t, yaml.Unmarshal([]byte(example), &written))
	return func(config map[string]any) {
		for name, value := range written {
			group, ok := value.(map[string]any)
			there, had := config[name].(map[string]any)
			if !ok || !had {
				config[name] = value
				continue
			}
			maps.Copy(there, group)
		}
	}
}

// TestTutorialOfAKeyPair runs the commands of the first tutorial in their order. kubectl's are made as kubelet makes the calls that
// come of them. A kind node is what the harness has for one: of install and uninstall only the flags are tried here, on
// a whole node they are by the package node.
func TestTutorialOfAKeyPair(t *testing.T) {
	doc := policyPage(t)
	tools, err := harness.FindTools("cosign")
	must(t, err)
	tut := tutorial{digests: map[string]string{}, done: map[string]int{}}
	tut.world = newWorld(t, func(w *world, s *harness.Settings) {
		tut.cosign, err = harness.NewCosign(tools, filepath.Join(w.Dir, "desk"))
		must(t, err)
		_, err := tut.cosign.Run(t.Context(), "generate-key-pair")
		must(t, err)
		public, err := os.ReadFile(filepath.Join(tut.cosign.Dir, "cosign.pub"))
		must(t, err)
		policy := withKey(t, doc.example(t, "tutorial-policy"), string(public))
		must(t, os.WriteFile(filepath.Join(tut.cosign.Dir, "release.yaml"), []byte(policy), 0o600))
		s.Policies = map[string]string{"release.yaml": policy}
		s.Edit = settings(t, doc.example(t, "tutorial-settings"))
	})
	lines, comments := doc.commands(t, "Tutorial: a key pair, on kind")
	for i, line := range lines {
		tut.run(t, line, comments[i])
	}
	want := map[string]int{
		"crane": 2, "cosign sign": 1, "kubectl run": 6, "sed": 1, "systemctl restart": 1,
		"cosentry policy": 3, "cosentry install": 2, "cosentry status": 1, "cosentry report": 1, "cosentry config": 1,
		"cosentry doctor": 1, "cosentry audit": 1, "cosentry uninstall": 1,
	}
	if diff := cmp.Diff(want, tut.done); diff != "" {
		t.Errorf("of the tutorial's commands were run (-want +got):\n%s", diff)
	}
}

// tutorial is a node on which the lines of one are run.
type tutorial struct {
	*world
	cosign  *harness.Cosign
	digests map[string]string // by repository
	done    map[string]int    // how many lines of each kind were run
}

// run runs a line, if it is one that this node knows.
func (tut *tutorial) run(t *testing.T, line, comment string) {
	t.Helper()
	args := strings.Fields(strings.ReplaceAll(line, "registry.example", tut.Registry.Addr))
	kind := args[0]
	switch {
	case kind == "crane": // the last argument is the image that comes to be
		path := strings.TrimPrefix(args[len(args)-1], tut.Registry.Addr+"/")
		tut.digests[strings.TrimSuffix(path, ":1")] = tut.push(path, path).DigestStr()
	case kind == "cosign" && args[1] == "sign":
		kind = "cosign sign"
		at := len(args) - 1
		repository := strings.TrimSuffix(args[at], "@DIGEST")
		args[at] = repository + "@" + tut.digests[strings.TrimPrefix(repository, tut.Registry.Addr+"/")]
		_, err := tut.cosign.Run(t.Context(), args[1:]...)
		must(t, err)
	case kind == "cosentry":
		kind += " " + args[1]
		want := map[string]int{"refused": 1}[comment]
		for i, arg := range args {
			if arg == "release.yaml" {
				args[i] = filepath.Join(tut.cosign.Dir, arg)
			}
		}
		if output, code := tut.plainCommand(t, args[1:]...); code != want {
			t.Errorf("%s: exit code %d, want %d\n%s", line, code, want, output)
		}
	case kind == "kubectl" && len(args) > 3 && args[3] == "run":
		kind = "kubectl run"
		tut.kubectlRun(t, line, comment, args[2], args[4], args[6])
	case kind == "docker" && args[1] == "exec":
		if kind = tut.onNode(t, line, comment, args[3:]); kind == "" {
			return
		}
	default:
		return
	}
	tut.done[kind]++
}

// onNode runs what `docker exec` runs in a kind node, and names its kind.
func (tut *tutorial) onNode(t *testing.T, line, comment string, args []string) string {
	t.Helper()
	tool := filepath.Base(args[0])
	switch {
	case tool == "sed": // sed itself, on the settings of this node
		script, _, _ := strings.Cut(strings.TrimPrefix(line[strings.Index(line, "'"):], "'"), "'")
		out, err := exec.CommandContext(t.Context(), "sed", "-i", script, tut.agent.Config()).CombinedOutput()
		if err != nil || args[1] != "-i" || args[len(args)-1] != "/etc/cosentry/config.yaml" {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
		return tool
	case tool == "systemctl" && strings.Join(args[1:], " ") == "restart cosentry":
		_, err := tut.agent.Stop(20 * time.Second)
		must(t, err)
		must(t, tut.agent.Start())
		return "systemctl restart"
	case tool != "cosentry":
		return ""
	}
	kind := "cosentry " + args[1]
	want, ran := 0, true
	switch {
	case args[1] == "install" || args[1] == "uninstall":
		ran = false
	case args[1] == "doctor": // its exit code is about the machine that the tests are on; the canary is about this agent
		tut.wantCanary(t, tut.agent.Config(), "ok", "refused")
		ran = false
	case comment != "":
		if _, err := fmt.Sscanf(comment, "exit code %d", &want); err != nil {
			t.Errorf("%s: %q is no exit code", line, comment)
		}
	}
	if ran {
		if output, code := tut.command(t, args[1:]...); code != want {
			t.Errorf("%s: exit code %d, want %d\n%s", line, code, want, output)
		}
	}
	return kind
}

// TestTutorialsNameCommandsAndFlagsThatExist: of lines that are not run here as well.
func TestTutorialsNameCommandsAndFlagsThatExist(t *testing.T) {
	doc := policyPage(t)
	tools, err := harness.FindTools()
	must(t, err)
	command := regexp.MustCompile(`^(?:docker exec \$NODE )?(?:/root/)?cosentry (.*)`)
	for section, least := range map[string]int{"Tutorial: a key pair, on kind": 11, "Tutorial: Cloud KMS, on GKE": 2} {
		lines, _ := doc.commands(t, section)
		found := 0
		for _, line := range lines {
			match := command.FindStringSubmatch(line)
			if match == nil {
				continue
			}
			found++
			args := append(strings.Fields(match[1]), "--help")
			out, err := exec.CommandContext(t.Context(), tools.Cosentry, args...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "\n  cosentry "+args[0]) {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
		}
		if found < least {
			t.Errorf("%s: %d lines of cosentry's were found, want %d: is the page read as it is written?", section, found, least)
		}
	}
}

// plainCommand runs cosentry as somebody does who has no settings file.
func (w *world) plainCommand(t *testing.T, args ...string) (string, int) {
	t.Helper()
	output, code, err := w.agent.Command(t.Context(), args...)
	must(t, err)
	return output, code
}

// kubectlRun is the pod of a `kubectl run`, which runs or has the waiting reason that the page says. Its image has a tag that is not
// latest: it is pulled where the node does not have it, or where the line says so.
func (w *world) kubectlRun(t *testing.T, line, comment, namespace, name, image string) {
	t.Helper()
	pod, err := w.kubelet.RunPodLike(t.Context(), harness.PodSpec{Name: name, Namespace: namespace})
	must(t, err)
	policy := "IfNotPresent"
	if strings.Contains(line, " --image-pull-policy=Always ") {
		policy = "Always"
	}
	present, err := w.kubelet.Present(t.Context(), image)
	must(t, err)
	_, err = w.kubelet.Run(t.Context(), pod, harness.Container{Name: name, Image: image, Policy: policy})
	got := "runs"
	if err != nil {
		got, _ = harness.OwnerReads(err, image, present == "" || policy == "Always")
	}
	if got != comment {
		t.Errorf("%s: %s (%v), want %s", line, got, err, comment)
	}
}

// withKey puts a public key in the place of the one in an example.
func withKey(t *testing.T, policy, public string) string {
	t.Helper()
	block := regexp.MustCompile(`(?s)( *)-----BEGIN PUBLIC KEY-----.*-----END PUBLIC KEY-----`)
	found := block.FindStringSubmatch(policy)
	if found == nil {
		t.Fatalf("the example has no key:\n%s", policy)
	}
	indented := found[1] + strings.ReplaceAll(strings.TrimSpace(public), "\n", "\n"+found[1])
	return block.ReplaceAllLiteralString(policy, indented)
}

// TestTutorialOfACloudKMS is the second tutorial where it needs no cloud: another key management service, and a registry here.
func TestTutorialOfACloudKMS(t *testing.T) {
	doc := policyPage(t)
	tools, err := harness.FindTools("cosign")
	must(t, err)
	vault, err := sigstore.NewVault()
	must(t, err)
	t.Cleanup(vault.Stop)
	var cosign *harness.Cosign
	w := newWorld(t, func(w *world, s *harness.Settings) {
		cosign, err = harness.NewCosign(tools, filepath.Join(w.Dir, "desk"), vault.Environment()...)
		must(t, err)
		_, err := cosign.Run(t.Context(), "generate-key-pair", "--kms", "hashivault://signing")
		must(t, err)
		policy := doc.example(t, "tutorial-gke")
		policy = regexp.MustCompile(`gcpkms://\S+`).ReplaceAllString(policy, "hashivault://signing")
		policy = strings.ReplaceAll(policy, "europe-west4-docker.pkg.dev/example", w.Registry.Addr)
		s.Policies = map[string]string{"signed-in-kms.yaml": policy}
		s.Env = vault.Environment()
		s.Edit = settings(t, strings.ReplaceAll(doc.example(t, "tutorial-gke-settings"), "/var/lib/cosentry", filepath.Join(w.Dir, "state")))
	})
	signed := w.push("shop/app:1", "signed in a KMS")
	_, err = cosign.Run(t.Context(), "sign", "--key", "hashivault://signing", "--tlog-upload=false", signed.String())
	must(t, err)
	w.push("shop/evil:1", "unsigned")
	w.push("gke/metrics:1", "not ours")
	must(t, harness.Until(time.Minute, "the key to be fetched", func() bool {
		_, code := w.command(t, "verify", w.image("shop/app:1"))
		return code == 0
	}))
	// In the first week nothing is refused, and what would be is on record.
	for image, words := range map[string]string{"shop/app:1": "signed in a KMS", "shop/evil:1": "unsigned", "gke/metrics:1": "not ours"} {
		w.wantRun(t, w.image(image), words)
	}
	w.wantRecord(t, w.image("shop/app:1"), "create", "allow")
	w.wantRecord(t, w.image("shop/evil:1"), "create", "deny")
	w.wantRecord(t, w.image("gke/metrics:1"), "create", "allow")
}
