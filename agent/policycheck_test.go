package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// A policy in a file that the agent leaves out is one not enforced, whatever `policy check` thinks of its content.
func TestPolicyCheckWarnsOfFilesTheAgentLeavesOut(t *testing.T) {
	dir := t.TempDir()
	policy := static("p", "registry.example/**", "fail")
	for _, sub := range []string{"with", "without"} {
		write(t, filepath.Join(dir, sub, "policy.yaml"), policy)
	}
	write(t, filepath.Join(dir, "with", "policy.yam"), "")
	write(t, filepath.Join(dir, "without", ".swp"), "")
	for name, tc := range map[string]struct{ path, want string }{
		"no ending":        {write(t, dir+"/a/policy", policy), "/a/policy: in a policy folder this file is not read, because of"},
		"another ending":   {write(t, dir+"/b/policy.yaml.bak", policy), "/b/policy.yaml.bak: in a policy folder this file is not read, because of"},
		"hidden":           {write(t, dir+"/c/.policy.yaml", policy), "/c/.policy.yaml: in a policy folder this file is not read, because of"},
		"as it should be":  {write(t, dir+"/d/policy.YML", policy), ""},
		"folder with one":  {dir + "/with", "/with: not read, because of their names: policy.yam; names must end in"},
		"folder with none": {dir + "/without", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, errs, code := command(t, "policy", "check", tc.path)
			if code != 0 || strings.Contains(errs, "because of") != (tc.want != "") || strings.Count(errs, tc.want) != 1 && tc.want != "" {
				t.Errorf("exit %d, want %q:\n%s", code, tc.want, errs)
			}
		})
	}
}

// Whoever mends files wants to know all that is wrong with them at once.
func TestPolicyCheckComparesSoundFilesBesideFaultyOnes(t *testing.T) {
	dir := t.TempDir()
	one, two := write(t, dir+"/one.yaml", static("twin", "**", "fail")), write(t, dir+"/two.yaml", static("twin", "**", "fail"))
	_, errs, code := command(t, "policy", "check", one, two, write(t, dir+"/bad.yaml", static("bad", "**", "maybe")))
	if code != 1 || !strings.Contains(errs, `static.action: "maybe"`) || !strings.Contains(errs, `"twin" is already defined`) {
		t.Errorf("exit %d:\n%s", code, errs)
	}
}
