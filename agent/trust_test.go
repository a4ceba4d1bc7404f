package main

import (
	"strings"
	"testing"
)

// A check in CI asks no key management service: that is no fault of the policy, nor of the service. With --online it is.
func TestPolicyCheckTellsWhatItDidNotAskFrom(t *testing.T) {
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	t.Setenv("VAULT_TOKEN", "none")
	t.Setenv("VAULT_MAX_RETRIES", "0")
	dir := t.TempDir()
	file := write(t, dir+"/p.yaml", strings.Replace(static("p", "registry.example/**", "fail"), "static: {action: fail}", "key: {kms: \"hashivault://release\"}", 1))
	for _, tc := range []struct {
		args      []string
		want, not string
	}{
		{[]string{"policy", "check", file}, "not asked here: use --online", "until this is mended"},
		{[]string{"policy", "check", "--online", file}, "until this is mended", "not asked here"},
	} {
		_, errs, code := command(t, tc.args...)
		if code != 0 || !strings.Contains(errs, "hashivault://release") || !strings.Contains(errs, tc.want) || strings.Contains(errs, tc.not) {
			t.Errorf("%q: exit %d:\n%s", tc.args, code, errs)
		}
	}
}
