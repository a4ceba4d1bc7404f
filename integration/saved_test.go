package integration

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// kept is an image whose evidence `cosentry verify --save` has written to a folder.
type kept struct {
	row
	image, dir string
	code       int
}

// keptRows are those whose evidence is saved: one of every sort.
var keptRows = []string{
	"an identity, classic", "an identity, bundle", "another issuer", "no proof of a log", "a timestamp in place of a log",
	"a key, classic", "another key", "nobody", "a key and a log, looked up", "a key that a key management service holds",
	"attestations of every type by a key", "CUE says no", "two of three authorities", "a rule on the pod's labels",
	"signatures in another repository",
}

// arguments are those by which commands are told of the row's pod.
func (k kept) arguments() []string {
	args := []string{"--namespace", "default"}
	if k.pod.Namespace != "" {
		args[1] = k.pod.Namespace
	}
	for name, value := range k.pod.Labels {
		args = append(args, "--labels", name+"="+value)
	}
	return args
}

// save has the command judge images that the node has judged, and keep what it was told.
func (l *language) save(t *testing.T, rows []row) []kept {
	t.Helper()
	var all []kept
	for i, rule := range keptRows {
		at := slices.IndexFunc(rows, func(r row) bool { return r.rule == rule })
		if at < 0 {
			t.Fatalf("no row is called %q", rule)
		}
		k := kept{row: rows[at], dir: filepath.Join(l.Dir, fmt.Sprintf("saved%d", i))}
		repository := "rows/" + k.slug() + "/saved"
		must(t, l.Registry.Copy(k.row.image, repository, l.signed[k.row.image].DigestStr()))
		k.image = l.image(repository + ":1")
		if k.refused != nil {
			k.code = 1
		}
		all = append(all, k)
		t.Run("saved: "+rule, func(t *testing.T) {
			args := slices.Concat([]string{"verify", "--config", l.agent.Config(), "--save", k.dir}, k.arguments(), []string{k.image})
			l.wantExit(t, k.code, args...)
		})
	}
	return all
}

// testSaved judges the same again by the row's policy file, from the folder alone.
func (l *language) testSaved(t *testing.T, all []kept) {
	t.Helper()
	for _, k := range all {
		file := filepath.Join(l.agent.PolicyDir, k.slug()+".yaml")
		args := slices.Concat([]string{"policy", "test", "--config", l.agent.Config(), "--policy", file, "--policy", l.agent.PolicyDir + "/written-out.yaml", "--image", k.image}, k.arguments())
		t.Run("from what was saved: "+k.rule, func(t *testing.T) {
			l.wantExit(t, k.code, append(args, "--evidence", k.dir)...)
			if k.rule == "an identity, bundle" {
				l.wantSigner(t, append(args, "--evidence", k.dir, "-o", "json")...)
			}
		})
		if k.rule == "a key, classic" {
			t.Run("nothing saved, nothing known", func(t *testing.T) { l.wantExit(t, 2, append(args, "--evidence", all[0].dir)...) })
		}
	}
}

// wantExit runs a command of cosentry.
func (l *language) wantExit(t *testing.T, want int, args ...string) string {
	t.Helper()
	output, code, err := l.agent.Command(t.Context(), args...)
	must(t, err)
	if code != want {
		t.Errorf("cosentry %s: exit code %d, want %d\n%s", strings.Join(args, " "), code, want, output)
	}
	return output
}

// wantSigner expects the explanation to say who signed.
func (l *language) wantSigner(t *testing.T, args ...string) {
	t.Helper()
	output := l.wantExit(t, 0, args...)
	var verdict map[string]any
	if err := json.Unmarshal([]byte(output), &verdict); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for _, words := range []string{releaser.Issuer, releaser.Email, "logIndex"} {
		if !strings.Contains(output, words) {
			t.Errorf("the explanation does not say %q:\n%s", words, output)
		}
	}
}
