package config

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestEverySettingIsDecided: a setting that is new is either decided about, or red here; until then any change of it is weaker.
func TestEverySettingIsDecided(t *testing.T) {
	decided := weaker(Default(), Default())
	for name := range settings(Default()) {
		yes, ok := decided[name]
		if !ok {
			t.Errorf("%s: nobody decided when it is weaker", name)
		}
		if yes {
			t.Errorf("%s is weaker than itself", name)
		}
		delete(decided, name)
	}
	for name := range maps.Keys(decided) {
		t.Errorf("%s is decided about and is no setting", name)
	}
}

// names are the settings that are weaker in want, both of which are lines added to the smallest settings.
func names(t *testing.T, have, want string) (all []string) {
	t.Helper()
	var both [2]Config
	for i, text := range []string{have, want} {
		c, err := Parse([]byte(head + text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		both[i] = c
	}
	for _, d := range Weaker(both[0], both[1]) {
		all = append(all, d.Setting)
	}
	return all
}

func indented(pem string) string { return "\n" + strings.ReplaceAll("    "+pem, "\n", "\n    ") }

// TestWhatIsWeaker: each way in which settings could let more through, and that its contrary does not.
func TestWhatIsWeaker(t *testing.T) {
	const other = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEhyQCx0E9wQWSFI9ULGwy3BuRklnt\nIqozONbbdbqz11hlRJy9c7SG+hdcFl9jE9uE/dwtuwU2MqU9T/cN0YkWww==\n-----END PUBLIC KEY-----\n"
	key := func(pem string) string { return "clusterPolicies:\n  dir: /c\n  publicKey: |" + indented(pem) }
	for _, c := range []struct {
		setting, strict, loose string
		same                   bool // the contrary is weaker as well: neither is known to be stricter
	}{
		{"mode", "", "mode: observe", false},
		{"listen", "listen: /run/a.sock", "listen: /run/b.sock", true},
		{"runtime.endpoint", "", "runtime: {endpoint: /run/b.sock}", true},
		{"runtime.type", "", "runtime: {type: cri}", true},
		{"runtime.namespace", "", "runtime: {namespace: moby}", true},
		{"runtime.unknownMethods", "", "runtime: {unknownMethods: forward}", false},
		{"policies.dir", "", "policies: {dir: /tmp/mine}", true},
		{"policies.noMatch", "", "policies: {noMatch: warn}", false},
		{"policies.noMatch", "policies: {noMatch: warn}", "policies: {noMatch: allow}", false},
		{"clusterPolicies.dir", "clusterPolicies: {dir: /c}", "", false},
		{"clusterPolicies.dir", "clusterPolicies: {dir: /c}", "clusterPolicies: {dir: /d}", true},
		{"clusterPolicies.publicKey", key(pemKey), "clusterPolicies: {dir: /c}", false},
		{"clusterPolicies.publicKey", key(pemKey), key(other), true},
		{"namespaces.enforce", "", "namespaces: {enforce: [prod]}", false},
		{"namespaces.enforce", "", "namespaces: {enforce: labelled}", false},
		{"namespaces.enforce", "namespaces: {enforce: labelled}", "namespaces: {enforce: [prod]}", true},
		{"namespaces.enforce", "namespaces: {enforce: [prod, stage]}", "namespaces: {enforce: [stage]}", false},
		{"namespaces.exempt", "", "namespaces: {exempt: [kube-system]}", false},
		{"namespaces.exempt", "namespaces: {exempt: [kube-system]}", "namespaces: {exempt: [kube-system, \"*-prod\"]}", false},
		{"namespaces.exempt", "namespaces: {exempt: [kube-system]}", "namespaces: {exempt: [\"kube-*\"]}", true},
		{"namespaces.file", "namespaces: {enforce: labelled}", "namespaces: {enforce: labelled, file: /n}", true},
		{"sandbox.refuse", "sandbox: {refuse: true}", "", false},
		{"sandbox.image", "sandbox: {refuse: true}", "sandbox: {refuse: true, image: signed.example/pause}", true},
		{"trust.dir", "", "trust: {dir: /t}", true},
		{"trust.cacheDir", "", "trust: {cacheDir: /t}", true},
		{"trust.refresh", "", "trust: {refresh: 25h}", false},
		{"trust.updatePublicGood", "", "trust: {updatePublicGood: false}", true},
		{"trust.roots", "", "trust: {roots: [{name: mine, file: /r}]}", true},
		{"trust.roots", "trust: {roots: [{name: mine, file: /r}]}", "trust: {roots: [{name: mine, file: /s}]}", true},
		{"cache.allowTTL", "", "cache: {allowTTL: 2h}", false},
		{"cache.denyTTL", "", "cache: {denyTTL: 1m}", false},
		{"registry.hostsDir", "", "registry: {hostsDir: /h}", true},
		{"registry.dockerConfig", "", "registry: {dockerConfig: /d}", true},
		{"evidence.dir", "", "evidence: {dir: /e}", true},
		{"evidence.dir", "evidence: {dir: \"\"}", "", false},
		{"audit.dir", "", "audit: {dir: /a}", true},
		{"audit.maxFileSize", "", "audit: {maxFileSize: 64Ki}", false},
		{"audit.maxFiles", "", "audit: {maxFiles: 2}", false},
		{"audit.required", "audit: {required: true}", "", false},
	} {
		if got := names(t, c.strict, c.loose); !slices.Equal(got, []string{c.setting}) {
			t.Errorf("from %q to %q: weaker %v, want %s", c.strict, c.loose, got, c.setting)
		}
		var want []string
		if c.same {
			want = []string{c.setting}
		}
		if c.setting == "mode" {
			continue // from observe nothing is weaker, which says nothing
		}
		if got := names(t, c.loose, c.strict); !slices.Equal(got, want) {
			t.Errorf("from %q to %q: weaker %v, want %v", c.loose, c.strict, got, want)
		}
	}
}

// TestWhatIsNotWeaker: a fleet goes on being run by its ConfigMap.
func TestWhatIsNotWeaker(t *testing.T) {
	for name, c := range map[string][2]string{
		"the same":                             {"policies: {dir: /p}", "policies: {dir: /p/}"},
		"what lets nothing through":            {"", "node: n\nverification: {createTimeout: 5s, pullTimeout: 5s}\ncache: {size: 9}\nevidence: {size: 9}\nhttp: {address: \"\"}\nlog: {format: text, level: debug}"},
		"the cluster gets a say":               {"", "clusterPolicies: {dir: /c}"},
		"the cluster's documents are signed":   {"clusterPolicies: {dir: /c}", "clusterPolicies:\n  dir: /c\n  publicKey: |" + indented(pemKey)},
		"more namespaces":                      {"namespaces: {enforce: [prod]}", "namespaces: {enforce: [stage, prod]}"},
		"all namespaces, from labels":          {"namespaces: {enforce: labelled}", "namespaces: {enforce: all, file: /n}"},
		"the pause image begins to be refused": {"", "sandbox: {refuse: true, image: registry.example/pause:1}"},
		"a longer record":                      {"", "audit: {maxFiles: 9, maxFileSize: 65Mi, required: true}"},
		"nothing is enforced yet":              {"mode: observe", "mode: enforce\npolicies: {dir: /x, noMatch: allow}\nnamespaces: {exempt: [kube-system]}\ntrust: {dir: /t}"},
	} {
		if got := names(t, c[0], c[1]); len(got) > 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestOneStricterSettingMakesUpForNoWeakerOne, and each weaker one is named with both values, however long they are and whoever wrote them.
func TestOneStricterSettingMakesUpForNoWeakerOne(t *testing.T) {
	have, want := Default(), Default()
	have.Policies.NoMatch = "warn"
	want.Policies.NoMatch, want.Audit.Required = "deny", true
	want.Policies.Dir = "/tmp/\x1b[2J" + strings.Repeat("x", 4096)
	want.Trust.Roots = RootFiles{{Name: "corp", File: "/tmp/r.json"}}
	var all []string
	for _, d := range Weaker(have, want) {
		all = append(all, d.String())
		if len(d.String()) > 400 || strings.ContainsRune(d.String(), 0x1b) {
			t.Errorf("%q", d.String())
		}
	}
	text := strings.Join(all, "\n")
	if len(all) != 2 || !strings.Contains(text, `policies.dir: /etc/cosentry/policies here, "/tmp/\x1b[2Jxxx`) ||
		!strings.Contains(text, "trust.roots: none here, corp in /tmp/r.json offered") {
		t.Errorf("%s", text)
	}
}
