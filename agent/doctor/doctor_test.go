package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/verify/policy"
)

// fault is a way in which a node is not well, and what the check about it has to say.
type fault struct {
	check string
	spoil func(t *testing.T, n *node)
	level Level
	says  string
	do    string
}

func TestWellNode(t *testing.T) {
	n := wellNode(t)
	n.readSettings()
	for _, c := range []check{{"settings", settings}, {"mode", mode}, {"units", units}, {"drop-in", dropIn}, {"files", installed}, {"permissions", permissions},
		{"agent", agent}, {"kubelet-endpoint", kubeletEndpoint}, {"kubelet", kubeletConnected}, {"runtime-clients", runtimeClients},
		{"references", references}, {"cluster-policies", clusterPolicies}, {"namespaces", namespaces}, {"sandbox", sandbox}, {"disk", disk}} {
		if f := n.make(t.Context(), c); f.Level != OK || f.Do != "" || f.Saw == "" || f.ID != c.id {
			t.Errorf("%+v", f)
		}
	}
}

// named checks that each fault is named by the check that is about it.
func named(t *testing.T, faults map[string]fault) {
	t.Helper()
	all := map[string]func(context.Context, *node) Finding{}
	for _, c := range checks(true) {
		all[c.id] = c.run
	}
	for name, tc := range faults {
		t.Run(name, func(t *testing.T) {
			n := wellNode(t)
			n.faulty = nil
			tc.spoil(t, n)
			f := n.make(t.Context(), check{tc.check, all[tc.check]})
			if f.Level != tc.level || !strings.Contains(f.Saw, tc.says) || !strings.Contains(f.Do, tc.do) {
				t.Errorf("%s: %s\nto do: %s\nwant %s: … %s …; to do: … %s …", f.Level, f.Saw, f.Do, tc.level, tc.says, tc.do)
			}
			nameable(t, f)
		})
	}
}

// nameable: of what is not good it is said what to do, and nothing is said in words of the system's calls.
func nameable(t *testing.T, f Finding) {
	t.Helper()
	if f.Level > OK && f.Do == "" {
		t.Errorf("%s: %s: %s: nothing is said to be done", f.ID, f.Level, f.Saw)
	}
	for _, word := range []string{"statat ", "openat ", "readlinkat ", "fstatat "} {
		if strings.Contains(f.Saw, word) {
			t.Errorf("%s: %s", f.ID, f.Saw)
		}
	}
}

// On a host where nothing is, every check says so, and none takes what it could not look at for good.
func TestNothingIsGoodWhereNothingIs(t *testing.T) {
	found, err := Examine(t.Context(), Options{Root: t.TempDir(), Settings: host.ConfigFile, Canary: true,
		Trust: func(context.Context, config.Trust, *policy.Set) ([]sight.Trust, error) {
			return nil, errors.New("away")
		},
		Registries: func(config.Config) (Registries, error) { return nil, errors.New("away") }})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != len(checks(true)) || Worst(found) != Fail {
		t.Errorf("%d findings, worst %s", len(found), Worst(found))
	}
	seen := map[string]bool{}
	for _, f := range found {
		if seen[f.ID] || f.ID == "" || f.Saw == "" {
			t.Errorf("%+v", f)
		}
		seen[f.ID] = true
		nameable(t, f)
		// The agent of another node answers on this machine's loopback where one runs: what it says is not asked for here.
		switch f.ID {
		case "permissions", "disk", "clock", "agent", "mode", "references", "cluster-policies", "namespaces", "sandbox":
		default:
			if f.Level == OK {
				t.Errorf("good where nothing is: %+v", f)
			}
		}
	}
}

// A fault of a check's own is a finding like others, and what it repeats is one line.
func TestCheckThatPanics(t *testing.T) {
	n := wellNode(t)
	if f := n.make(t.Context(), check{"x", func(context.Context, *node) Finding { panic("boom") }}); f.Level != Warn || f.ID != "x" {
		t.Errorf("%+v", f)
	}
	f := n.make(t.Context(), check{"x", func(context.Context, *node) Finding {
		return good("a\nok  y  forged\x1b[2J%s", strings.Repeat("é", 2000))
	}})
	if strings.ContainsAny(f.Saw, "\n\x1b") || len(f.Saw) > maxLine+8 {
		t.Errorf("%q", f.Saw)
	}
}

func TestLevelsAsJSON(t *testing.T) {
	data, err := json.Marshal([]Level{OK, Warn, Fail})
	if err != nil || string(data) != `["ok","warn","fail"]` {
		t.Errorf("%s, %v", data, err)
	}
}
