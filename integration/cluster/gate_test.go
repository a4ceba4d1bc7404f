package cluster

import "testing"

// testDeployments: the same Deployment, once signed and once not.
func (s *stage) testDeployments(t *testing.T) {
	s.deploy(t, "default", "signed", s.push(t, "apps/signed:1", s.release))
	s.deploy(t, "default", "unsigned", s.push(t, "apps/unsigned:1"))
	s.deploy(t, "default", "foreign", s.push(t, "apps/foreign:1", s.team))
	s.wantRuns(t, "default", "signed")
	s.wantRefused(t, "default", "unsigned", s.image("apps/unsigned"), "no signatures found", `"floor"`)
	s.wantRefused(t, "default", "foreign", s.image("apps/foreign"), `"floor"`)
}

// testPaths: what reaches kubelet without the API server's asking anybody, or without the API server, is refused with the
// same words.
func (s *stage) testPaths(t *testing.T) {
	ctx := t.Context()
	image := s.push(t, "apps/paths:1")
	_, err := s.plane.Kubectl(ctx, deadWebhook, "apply", "-f", "-")
	must(t, err)
	s.pod(t, "default", "unwatched", image)
	_, err = s.plane.Kubectl(ctx, deadWebhook, "delete", "-f", "-")
	must(t, err)
	s.pod(t, "default", "bare", image)
	s.staticPod(t, "static", image)
	s.staticPod(t, "static-signed", s.push(t, "apps/paths-signed:1", s.release))

	s.wantRuns(t, "default", "static-signed")
	for _, name := range []string{"unwatched", "bare", "static"} {
		s.wantRefused(t, "default", name, s.image("apps/paths"), "no signatures found")
	}
}
