package cluster

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// testLoosened: whoever may edit the ConfigMap turns no node that enforces to observe. The pod says so by not becoming ready, and the
// node by its metrics and to its owner; the agent is left alone.
func (s *stage) testLoosened(t *testing.T) {
	agent := s.process(t, "cosentry.service")
	s.mode = "observe"
	s.apply(t)
	s.wantNotTaken(t, "mode: enforce here, observe offered")
	s.deploy(t, "default", "loosened", s.push(t, "apps/loosened:1"))
	s.wantRefused(t, "default", "loosened", "no signatures found")
	if now := s.process(t, "cosentry.service"); now != agent {
		t.Errorf("the agent was process %s and is %s: it was restarted", agent, now)
	}
	s.mode = "enforce"
	s.apply(t)
	s.wantRollout(t, daemonSet)
	s.wantAgent(t)
}

// wantNotTaken expects the settings that were applied last to be offered to the node and not taken.
func (s *stage) wantNotTaken(t *testing.T, why string) {
	t.Helper()
	must(t, eventually(t.Context(), patience, "the node to tell of settings that it does not take", func(ctx context.Context) error {
		return wantMetric(ctx, 9478, `cosentry_host_fault{what="offered"} 1`)
	}))
	// It ends with what its findings are worth, and the node of this test has others.
	found, _ := s.machine.Exec(t.Context(), "sh", "-c", command+" doctor || true")
	if !strings.Contains(found, why) {
		t.Errorf("cosentry doctor does not say %q:\n%s", why, found)
	}
}

// weaken is what the owner of a node does, on the node, who wants the settings that were applied last although they are weaker.
func (s *stage) weaken(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "overlay", s.folder, "config.yaml"))
	must(t, err)
	must(t, s.machine.WriteFile("/run/settings.yaml", string(text)))
	_, err = s.machine.Exec(t.Context(), command, "install", "--settings", "/run/settings.yaml", "--weaken")
	must(t, err)
	_, err = s.machine.Exec(t.Context(), "rm", "/run/settings.yaml")
	must(t, err)
}
