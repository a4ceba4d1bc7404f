package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// binary is a program of another version, as a script.
func binary(t *testing.T, script string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "cosentry")
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestAnotherBinaryChecksTheSettings: it is asked itself, with the very settings; whatever it does but say yes is a no, and what it says is
// cut and cannot speak to a terminal.
func TestAnotherBinaryChecksTheSettings(t *testing.T) {
	const settings = "kind: NodeConfig\nmode: enforce\n"
	asked := filepath.Join(t.TempDir(), "asked")
	for name, c := range map[string]struct {
		script, says string
	}{
		"good":            {`[ "$1 $2" = "config check" ] && cp "$3" ` + asked + `; stat -c %a "$3" >> ` + asked, ""},
		"faulty":          {`echo 'unknown setting mod' >&2; exit 1`, "unknown setting mod"},
		"without command": {`exit 2`, "exit status 2"},
		"a terminal's":    {`printf '\033[2Jgood'; exit 1`, `\x1b[2Jgood`},
		"no end of words": {`yes no | head -c 1000000; exit 1`, `no\nno`},
		"it dies":         {`kill -9 $$`, "killed"},
	} {
		t.Run(name, func(t *testing.T) {
			err := anotherChecks(t.Context(), binary(t, c.script))([]byte(settings))
			if (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || len(err.Error()) > 5000) {
				t.Fatalf("error %.3000v", err)
			}
		})
	}
	if got, err := os.ReadFile(asked); err != nil || string(got) != settings+"600\n" {
		t.Errorf("it was asked about %q, %v", got, err)
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "cosentry-settings-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestPoliciesAreReplacedOnTheNodeAlone: no container says it, nothing is replaced by nothing, and no policy that nobody could use comes.
func TestPoliciesAreReplacedOnTheNodeAlone(t *testing.T) {
	faulty := t.TempDir()
	if err := os.WriteFile(filepath.Join(faulty, "a.yaml"), []byte("kind: ["), 0o644); err != nil {
		t.Fatal(err)
	}
	for why, args := range map[string][]string{
		"which is not given":             {"--replace-policies"},
		"not with --host-root":           {"--replace-policies", "--policies", faulty, "--host-root", t.TempDir()},
		"no policies that can be used":   {"--replace-policies", "--policies", faulty},
		"unknown flag: --replace-polici": {"supervise"},
	} {
		args = append([]string{"install"}, args...)
		if args[1] == "supervise" {
			args = []string{"supervise", "--replace-policies"}
		}
		if _, errs, code := command(t, args...); code == 0 || !strings.Contains(errs, why) {
			t.Errorf("%v: %d, %s", args, code, errs)
		}
	}
}
