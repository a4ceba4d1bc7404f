package host_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/agent/host"
)

const (
	first  = head + "mode: observe\nlog: {level: info}\n"
	second = head + "mode: observe\nlog: {level: debug}\n"
)

// policiesIn has a file of policies be text; nil removes it.
func policiesIn(t *testing.T, o func(*host.Options), name string, text *string) {
	t.Helper()
	var options host.Options
	o(&options)
	p := filepath.Join(options.Policies, name)
	must(t, os.RemoveAll(p))
	if text != nil {
		must(t, os.WriteFile(p, []byte(*text), 0o644))
	}
}

// TestTextThatTheOwnerPutsBackIsHis: that an earlier installation wrote the same bytes makes them nobody else's.
func TestTextThatTheOwnerPutsBackIsHis(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1", given(t, first, nil)))
	must(t, w.install("v1", given(t, second, nil)))
	w.put(host.ConfigFile, first)
	must(t, w.install("v1", given(t, second, nil)))
	must(t, w.install("v2", given(t, enforcing, nil)))
	if got := w.read(host.ConfigFile); got != first {
		t.Errorf("the owner's settings were overwritten: %s", got)
	}
}

// TestKilledRunKnowsWhatItWroteBefore: until an installation has ended, the text before its own is still an installation's.
func TestKilledRunKnowsWhatItWroteBefore(t *testing.T) {
	w := newWorld(t)
	must(t, w.install("v1", given(t, first, nil)))
	must(t, w.install("v1", given(t, second, nil)))
	w.put("/var/lib/cosentry/install/state.json", strings.Replace(w.read("/var/lib/cosentry/install/state.json"), `"installed"`, `"installing"`, 1))
	w.put(host.ConfigFile, first)
	must(t, w.install("v1", given(t, second, nil)))
	if got := w.read(host.ConfigFile); got != second {
		t.Errorf("settings are %s", got)
	}
}

// TestSettingsThatAreEditedInPlaceWaitForAnInstallation: an edit of a mounted file reaches all nodes within a minute, and no rollout
// stops it at the first. Neither a supervise that runs nor one that is started again takes it, not even where settings were lost.
func TestSettingsThatAreEditedInPlaceWaitForAnInstallation(t *testing.T) {
	w := newWorld(t)
	offer := given(t, first, nil)
	must(t, w.install("v1", offer))
	must(t, w.host("v1").Keep(t.Context()))
	look := watch(t, w, "v1", offer)
	look()
	w.did()
	var o host.Options
	offer(&o)
	for _, text := range []string{second, enforcing, "mod: [", ""} {
		must(t, os.WriteFile(o.Settings, []byte(text), 0o644))
		for _, look := range []func() host.Seen{look, watch(t, w, "v1", offer)} {
			for range 4 {
				if seen := look(); !seen.Whole() || seen.Repaired+seen.Failed > 0 {
					t.Errorf("with %q: %+v", text, seen)
				}
			}
			if jobs := w.did(); w.read(host.ConfigFile) != first || len(jobs) > 0 {
				t.Errorf("with %q: %v, settings are %s", text, jobs, w.read(host.ConfigFile))
			}
		}
	}
	must(t, os.WriteFile(o.Settings, []byte(second), 0o644))
	must(t, os.RemoveAll(w.path("/etc/cosentry")))
	look = watch(t, w, "v1", offer)
	for range 4 {
		look()
	}
	if got := w.read(host.ConfigFile); got != first {
		t.Errorf("what was lost came back as %s", got)
	}
	must(t, w.install("v1", offer)) // what a rollout does
	if got := w.read(host.ConfigFile); got != second {
		t.Errorf("after the rollout: %s", got)
	}
}

// TestPoliciesThatAreNotTakenAreNamed: in the warnings, in a dry run and by supervise, which mends nothing for it.
func TestPoliciesThatAreNotTakenAreNamed(t *testing.T) {
	text := func(s string) *string { return &s }
	for name, c := range map[string]struct {
		node func(*world)
		give func(*testing.T, func(*host.Options))
		want string // "": nothing is said
	}{
		"as installed":        {want: ""},
		"the owner's beside":  {node: func(w *world) { w.put("/etc/cosentry/policies/mine.yaml", "mine") }},
		"changed":             {give: func(t *testing.T, o func(*host.Options)) { policiesIn(t, o, "a.yaml", text("b")) }, want: `"a.yaml" is another here`},
		"changed on the node": {node: func(w *world) { w.put("/etc/cosentry/policies/a.yaml", "mine") }, want: `"a.yaml" is another here`},
		"one more":            {give: func(t *testing.T, o func(*host.Options)) { policiesIn(t, o, "new.yaml", text("")) }, want: `"new.yaml" is missing here`},
		"one less": {give: func(t *testing.T, o func(*host.Options)) {
			policiesIn(t, o, "a.yaml", nil)
			policiesIn(t, o, "c.yaml", text("c"))
		}, want: `"a.yaml" is not given any more`},
		"none at all": {give: func(t *testing.T, o func(*host.Options)) {
			policiesIn(t, o, "a.yaml", nil)
			policiesIn(t, o, "c.yaml", nil)
		}},
		"a folder that is gone": {give: func(t *testing.T, o func(*host.Options)) {
			var options host.Options
			o(&options)
			must(t, os.RemoveAll(options.Policies))
		}, want: "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			offer := given(t, first, map[string]string{"a.yaml": "a", "c.yaml": "c"})
			must(t, w.install("v1", offer))
			if c.node != nil {
				c.node(w)
			}
			if c.give != nil {
				c.give(t, offer)
			}
			before := w.tree()
			w.out.Reset()
			must(t, w.install("v1", offer))
			for p, now := range w.tree() {
				if strings.HasPrefix(p, "/etc/") && now != before[p] {
					t.Errorf("%s was changed", p)
				}
			}
			p, err := w.host("v1", offer).Plan(t.Context())
			must(t, err)
			var plan bytes.Buffer
			must(t, p.Print(&plan))
			look := watch(t, w, "v1", offer)
			seen := look()
			for range 4 {
				seen = look()
			}
			if !p.Nothing() || !seen.Whole() || seen.Repaired+seen.Failed > 0 {
				t.Errorf("something is to be done: %+v", seen)
			}
			if c.want == "" {
				if len(seen.Faults) > 0 || strings.Contains(plan.String(), "NOT TAKEN") {
					t.Errorf("%+v\n%s", seen.Faults, &plan)
				}
				return
			}
			if got := what(seen); !slices.Equal(got, []string{host.FaultPolicies}) || !strings.Contains(seen.Faults[0].Why, c.want) {
				t.Errorf("supervise sees %+v", seen.Faults)
			}
			for where, said := range map[string]string{"dry run": plan.String(), "install": w.out.String()} {
				if !strings.Contains(said, "NOT TAKEN") || !strings.Contains(said, c.want) || !strings.Contains(said, "--replace-policies") {
					t.Errorf("the %s does not say %q:\n%s", where, c.want, said)
				}
			}
		})
	}
}

// TestOwnerReplacesPolicies: by hand, with a flag that says what it does, and as a whole; what fails is put back.
func TestOwnerReplacesPolicies(t *testing.T) {
	replace := func(o *host.Options) { o.ReplacePolicies = true }
	w := newWorld(t)
	must(t, w.install("v1", given(t, first, map[string]string{"a.yaml": "a", "gone.yaml": "x"})))
	w.put("/etc/cosentry/policies/mine.yaml", "mine")
	w.put("/etc/cosentry/policies/README", "read me")
	next := given(t, first, map[string]string{"a.yaml": "a2", "b.yaml": "b"})
	before := w.tree()
	w.broken = []string{"v2"}
	if w.install("v2", next, replace) == nil {
		t.Fatal("a version that does not start was installed")
	}
	for p, text := range before {
		if strings.HasPrefix(p, "/etc/cosentry/") && w.tree()[p] != text {
			t.Errorf("%s was not put back: %q", p, w.tree()[p])
		}
	}
	must(t, w.install("v1", next, replace))
	var names []string
	for p, text := range w.tree() {
		if under, ok := strings.CutPrefix(p, "/etc/cosentry/policies/"); ok {
			names = append(names, under+"="+text)
		}
	}
	slices.Sort(names)
	if want := []string{"README=read me", "a.yaml=a2", "b.yaml=b"}; !slices.Equal(names, want) {
		t.Errorf("policies are %q, want %q", names, want)
	}
	if seen := watch(t, w, "v1", next)(); len(seen.Faults) > 0 {
		t.Errorf("afterwards: %+v", seen.Faults)
	}
	for name, offer := range map[string]func(*host.Options){
		"empty": given(t, first, map[string]string{}), "missing": func(o *host.Options) { o.Policies = filepath.Join(t.TempDir(), "none") },
	} {
		if err := w.install("v1", offer, replace, func(o *host.Options) {
			if name == "empty" {
				o.Policies = t.TempDir()
			}
		}); err == nil || w.read("/etc/cosentry/policies/a.yaml") != "a2" {
			t.Errorf("%s: the node was left without policies (%v)", name, err)
		}
	}
}

// TestOwnersSettingsOutliveUninstallAndBoot: where /etc is lost at a boot, what stays is in the copy as it was last; an installation that
// fails does not take it, and neither does one that is refused. With --purge, and where /etc stays, there is no copy.
func TestOwnersSettingsOutliveUninstallAndBoot(t *testing.T) {
	const copied, volatile = "/var/lib/cosentry/install/etc", "/dev/sda / ext4 rw 0 0\ntmpfs /etc tmpfs rw 0 0\ntmpfs /var/lib/kubelet tmpfs rw 0 0\n"
	w := newWorld(t)
	w.put("/proc/1/mounts", volatile)
	must(t, w.install("v1"))
	w.put("/etc/cosentry/policies/mine.yaml", "mine") // after the copy was made
	w.put(host.ConfigFile, enforcing)
	w.put("/var/lib/cosentry/evidence/index.json", "{}")
	must(t, w.host("v1").Uninstall(t.Context(), false))
	for p := range w.tree() {
		if strings.HasPrefix(p, "/var/lib/cosentry/") && p != "/var/lib/cosentry/install" && !strings.HasPrefix(p, copied) {
			t.Errorf("%s stayed", p)
		}
	}
	must(t, os.RemoveAll(w.path("/etc/cosentry"))) // the boot
	if err := w.install("v1", given(t, "", nil), func(o *host.Options) { o.Runtime = "crio" }); err == nil {
		t.Error("installed for a runtime that is not there")
	}
	w.broken = []string{"v1"}
	if err := w.install("v1"); err == nil {
		t.Error("a version that does not start was installed")
	}
	must(t, os.RemoveAll(w.path("/etc/cosentry")))
	w.broken = nil
	must(t, w.install("v1", given(t, first, map[string]string{"open.yaml": "static: pass"})))
	if w.read(host.ConfigFile) != enforcing || w.read("/etc/cosentry/policies/mine.yaml") != "mine" || w.read("/etc/cosentry/policies/open.yaml") == "static: pass" {
		t.Errorf("settings: %v", w.tree())
	}
	must(t, w.host("v1").Uninstall(t.Context(), true))
	if _, err := os.Lstat(w.path("/var/lib/cosentry")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("purged, and /var/lib/cosentry is there: %v", err)
	}

	w.put("/proc/1/mounts", "/dev/sda / ext4 rw 0 0\n")
	must(t, w.install("v1"))
	must(t, w.host("v1").Uninstall(t.Context(), false))
	if _, err := os.Lstat(w.path("/var/lib/cosentry")); !errors.Is(err, os.ErrNotExist) || !strings.Contains(w.read(host.ConfigFile), "mode: observe") {
		t.Errorf("where /etc stays there is no copy: %v", err)
	}
}

// TestAgentToInstallIsAskedAboutTheSettings: those that are to be in force, wherever they come from, and before anything is written.
func TestAgentToInstallIsAskedAboutTheSettings(t *testing.T) {
	w := newWorld(t)
	var asked string
	ask := func(o *host.Options) {
		o.Check = func(text []byte) error {
			if asked = string(text); strings.Contains(asked, "debug") {
				return errors.New("unknown setting log")
			}
			return nil
		}
	}
	before := w.tree()
	if err := w.install("v1", given(t, second, nil), ask); err == nil || !strings.Contains(err.Error(), "unknown setting log") {
		t.Errorf("error %v", err)
	}
	if now := w.tree(); len(now) != len(before) {
		t.Errorf("something was written: %v", now)
	}
	must(t, w.install("v1", given(t, first, nil), ask))
	if asked != first {
		t.Errorf("it was asked about %q", asked)
	}
	w.put(host.ConfigFile, second)
	if err := w.install("v0", ask); err == nil || asked != second {
		t.Errorf("a version that does not know the node's settings was installed: %v", err)
	}
	w.wantInstalled("v1")
}
