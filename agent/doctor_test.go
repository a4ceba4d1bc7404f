package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/verify/policy"
)

// A host on which nothing is: each check is a row with what is to be done, and the exit code says that something is wrong.
func TestDoctorCommand(t *testing.T) {
	root := t.TempDir()
	out, errs, code := command(t, "doctor", "--host-root", root)
	if code != 2 || errs != "" || !strings.Contains(out, "FAIL  socket") || !strings.Contains(out, "to do: ") {
		t.Errorf("exit %d %s\n%s", code, errs, out)
	}
	out, _, code = command(t, "doctor", "--host-root", root, "-o", "json")
	var report struct {
		Level    string
		Findings []struct{ ID, Level, Saw, Do string }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || code != 2 || report.Level != "fail" {
		t.Fatalf("exit %d, %v\n%s", code, err, out)
	}
	for _, f := range report.Findings {
		if f.Level == "fail" && f.Do == "" || f.ID == "canary" {
			t.Errorf("%+v", f)
		}
	}
	if _, errs, code := command(t, "doctor", "-o", "yaml"); code != 2 || !strings.Contains(errs, "table, json") {
		t.Errorf("exit %d %s", code, errs)
	}
	if _, errs, code := command(t, "doctor", "--host-root", root+"/nowhere"); code != 2 || errs == "" {
		t.Errorf("no such host: exit %d %s", code, errs)
	}
}

// Without an agent what policies refer to is fetched by the command, and one that is not there is told.
func TestDoctorFetchesWhatPoliciesReferTo(t *testing.T) {
	path, dir := newNode(t, map[string]string{"a.yaml": `apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata: {name: by-secret}
spec:
  images: [{glob: "registry.example/**"}]
  authorities: [{key: {secretRef: {name: release}}}]
`})
	set, err := policy.Load(dir + "/policies")
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	all, err := fetchTrust(t.Context(), c.Trust, set)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if strings.Contains(s.Name, "release") && !s.OK && s.Error != "" {
			return
		}
	}
	t.Errorf("the secret that is missing is not told: %+v", all)
}
