package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

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
			if !ok {
				config[name] = value
				continue
			}
			for key, value := range group {
				config[name].(map[string]any)[key] = value
			}
		}
	}
}

// TestTutorialOfAKeyPair runs the commands of the first tutorial. kubectl's are made as kubelet makes the calls that come of
// them, and those that bring cosentry into a kind node are what the harness does.
func TestTutorialOfAKeyPair(t *testing.T) {
	doc := policyPage(t)
	tools, err := harness.FindTools("cosign")
	must(t, err)
	var cosign *harness.Cosign
	w := newWorld(t, func(w *world, s *harness.Settings) {
		cosign, err = harness.NewCosign(tools, filepath.Join(w.Dir, "desk"))
		must(t, err)
		_, err := cosign.Run(t.Context(), "generate-key-pair")
		must(t, err)
		public, err := os.ReadFile(filepath.Join(cosign.Dir, "cosign.pub"))
		must(t, err)
		policy := withKey(t, doc.example(t, "tutorial-policy"), string(public))
		must(t, os.WriteFile(filepath.Join(cosign.Dir, "release.yaml"), []byte(policy), 0o600))
		s.Policies = map[string]string{"release.yaml": policy}
		s.Edit = settings(t, doc.example(t, "tutorial-settings"))
	})
	lines, comments := doc.commands(t, "Tutorial: a key pair, on kind")
	digests := map[string]string{}
	done := map[string]int{}
	for i, line := range lines {
		args := strings.Fields(strings.ReplaceAll(line, "registry.example", w.Registry.Addr))
		tool := args[0]
		switch {
		case tool == "crane": // the last argument is the image that comes to be
			path := strings.TrimPrefix(args[len(args)-1], w.Registry.Addr+"/")
			digests[strings.TrimSuffix(path, ":1")] = w.push(path, path).DigestStr()
		case tool == "cosign" && args[1] == "sign":
			at := len(args) - 1
			repository := strings.TrimSuffix(args[at], "@DIGEST")
			args[at] = repository + "@" + digests[strings.TrimPrefix(repository, w.Registry.Addr+"/")]
			_, err := cosign.Run(t.Context(), args[1:]...)
			must(t, err)
		case tool == "cosentry":
			want := map[string]int{"refused": 1}[comments[i]]
			args = strings.Fields(strings.ReplaceAll(strings.Join(args[1:], " "), "release.yaml", filepath.Join(cosign.Dir, "release.yaml")))
			if output, code := w.plainCommand(t, args...); code != want {
				t.Errorf("%s: exit code %d, want %d\n%s", line, code, want, output)
			}
		case tool == "kubectl" && len(args) > 3 && args[3] == "run":
			tool = "kubectl run"
			w.kubectlRun(t, line, comments[i], args[2], args[4], args[6])
		default:
			continue
		}
		done[tool]++
	}
	if done["crane"] != 2 || done["cosign"] != 1 || done["cosentry"] != 3 || done["kubectl run"] != 3 {
		t.Errorf("of the tutorial's commands were run: %v", done)
	}
}

// plainCommand runs cosentry as somebody does who has no settings file.
func (w *world) plainCommand(t *testing.T, args ...string) (string, int) {
	t.Helper()
	output, code, err := w.agent.Command(t.Context(), args...)
	must(t, err)
	return output, code
}

// kubectlRun is the pod of a `kubectl run`, which runs or has the waiting reason that the page says.
func (w *world) kubectlRun(t *testing.T, line, comment, namespace, name, image string) {
	t.Helper()
	pod, err := w.kubelet.RunPodLike(t.Context(), harness.PodSpec{Name: name, Namespace: namespace})
	must(t, err)
	_, err = w.kubelet.Run(t.Context(), pod, harness.Container{Name: name, Image: image, Policy: "Always"})
	got := "runs"
	if err != nil {
		got, _ = harness.OwnerReads(err, image, true)
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
		policy = strings.Replace(policy, "europe-west4-docker.pkg.dev/example", w.Registry.Addr, 1)
		s.Policies = map[string]string{"signed-in-kms.yaml": policy}
		s.Env = vault.Environment()
		s.Edit = settings(t, doc.example(t, "tutorial-gke-settings"))
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
