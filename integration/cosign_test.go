package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/integration/harness"
)

// TestSignedByTheCosignCommand: what users have is the command, not its library.
func TestSignedByTheCosignCommand(t *testing.T) {
	tools, err := harness.FindTools("cosign")
	must(t, err)
	cosign, err := harness.NewCosign(tools, t.TempDir())
	must(t, err)
	_, err = cosign.Run(t.Context(), "generate-key-pair")
	must(t, err)
	public, err := os.ReadFile(filepath.Join(cosign.Dir, "cosign.pub"))
	must(t, err)
	w := newWorld(t, func(w *world, s *harness.Settings) {
		s.Policies = map[string]string{"signed.yaml": harness.KeyPolicy("signed", "127.0.0.1:*/**", string(public))}
	})
	plain := harness.NewRegistry("127.0.0.1:6003", false)
	must(t, plain.Start())
	t.Cleanup(plain.Stop)
	for form, flags := range map[string][]string{"classic": nil, "bundle": {"--new-bundle-format"}} {
		for _, registry := range []*harness.Registry{w.Registry, plain} {
			digest := pushTo(t, w, registry, form+":1")
			_, err := cosign.Run(t.Context(), append(append([]string{"sign", "--key", "cosign.key", "--tlog-upload=false"}, flags...), digest.String())...)
			must(t, err)
			w.wantRun(t, registry.Addr+"/"+form+":1", "hello from "+form+":1")
		}
	}
	_, err = w.run(harness.Container{Image: w.image("nobody:1")})
	if err == nil {
		t.Error("an image that does not exist was accepted")
	}
}

// TestVerifyCommand: the exit code tells a refusal from a failure to find out.
func TestVerifyCommand(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "signed")
	w.push("evil:1", "evil")
	for _, c := range []struct {
		image string
		code  int
		says  []string
	}{
		{"app:1", 0, []string{"release-key", "signed"}},
		{"evil:1", 1, []string{"release-key", "no signature"}},
		{"absent:1", 2, []string{"absent"}},
	} {
		output, code := w.command(t, "verify", w.image(c.image))
		if code != c.code {
			t.Errorf("cosentry verify %s: exit code %d, want %d\n%s", c.image, code, c.code, output)
		}
		for _, word := range c.says {
			if !strings.Contains(output, word) {
				t.Errorf("cosentry verify %s does not say %q:\n%s", c.image, word, output)
			}
		}
	}
	output, code := w.command(t, "verify", w.image("app:1"), "-o", "json")
	var verdict map[string]any
	if err := json.Unmarshal([]byte(output), &verdict); err != nil || code != 0 {
		t.Errorf("cosentry verify -o json: exit code %d, %v\n%s", code, err, output)
	}
}
