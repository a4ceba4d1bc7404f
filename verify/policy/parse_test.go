package policy

import (
	"crypto"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	p := mustParse(t, "# ours\n---\n"+keyPolicy(t, "prod-signed", "registry.example/prod/**", "P-256")+"---\n---\n"+doc(`
images:
- glob: index.docker.io/library/*
- glob: "*"
mode: warn
authorities:
- static:
    action: fail
    message: |
      not here
- name: both
  signatureFormat: bundle
  ctlog: {}
  key:
    hashAlgorithm: " SHA512 "
    data: `+block(publicPEM(t, "RSA 2048")+publicPEM(t, "Ed25519"), 6)))
	if len(p) != 2 {
		t.Fatalf("%d policies, want 2", len(p))
	}
	if got := p[0]; got.Name != "prod-signed" || got.Mode != Enforce || got.Source != "test.yaml:3" ||
		len(got.Globs) != 1 || got.Globs[0].String() != "registry.example/prod/**" || len(got.Authorities) != 1 {
		t.Errorf("first policy: %+v", got)
	}
	a := p[0].Authorities[0]
	if a.Name != "release-key" || a.Static != nil || a.Key == nil || len(a.Key.PublicKeys) != 1 || a.Key.PublicKeys[0].Hash != crypto.SHA256 {
		t.Errorf("authority of the first: %+v", a)
	}
	second := p[1]
	if second.Name != "p" || second.Mode != Warn || len(second.Globs) != 2 || len(second.Authorities) != 2 {
		t.Fatalf("second policy: %+v", second)
	}
	if diff := cmp.Diff(Authority{Name: "authority-0", Static: &Static{Message: "not here\n"}}, second.Authorities[0]); diff != "" {
		t.Errorf("static authority (-want +got):\n%s", diff)
	}
	b := second.Authorities[1]
	if b.Name != "both" || b.Format != BundleFormat || len(b.Key.PublicKeys) != 2 || b.Key.PublicKeys[1].Hash != crypto.SHA512 {
		t.Errorf("second authority: %+v", b)
	}
	if !strings.HasPrefix(b.Key.PublicKeys[0].Fingerprint, "SHA256:") || len(b.Key.PublicKeys[0].Fingerprint) != 7+64 {
		t.Errorf("fingerprint %q", b.Key.PublicKeys[0].Fingerprint)
	}
}
