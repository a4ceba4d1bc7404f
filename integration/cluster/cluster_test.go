package cluster

import (
	"testing"
)

// TestCluster is the life of cosentry in one cluster, from `kubectl apply` to a clean uninstall. A step begins with what
// the step before has left, so they are one test: a step that fails ends it.
func TestCluster(t *testing.T) {
	s := newStage(t)
	steps := []struct {
		name string
		run  func(*stage, *testing.T)
	}{
		{"without cosentry everything runs", (*stage).testBefore},
	}
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) { step.run(s, t) }) {
			return
		}
	}
}

// testBefore: an unsigned Deployment that is there before cosentry, and a signed one. Both stay.
func (s *stage) testBefore(t *testing.T) {
	for name, image := range map[string]string{"old": s.push(t, "apps/old:1"), "old-signed": s.push(t, "apps/old-signed:1", s.release)} {
		_, err := s.plane.Kubectl(t.Context(), deployment("default", name, image), "apply", "-f", "-")
		must(t, err)
		s.before = append(s.before, s.wantRuns(t, "default", name))
	}
}

// wantUntouched expects that what ran before cosentry still does, and was not started again.
func (s *stage) wantUntouched(t *testing.T) {
	t.Helper()
	for _, pod := range s.before {
		s.unchanged(t, pod)
	}
}
