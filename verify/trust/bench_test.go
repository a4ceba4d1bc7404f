package trust

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/cosentry/cosentry/verify/policy"
)

// A thousand policies, each with a secret of its own: what the agent does every minute.
func BenchmarkResolveThousandPolicies(b *testing.B) {
	dir := b.TempDir()
	_, pem := newKey(b)
	var docs []policy.Documents
	for i := range 1000 {
		text := fmt.Sprintf("apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata:\n  name: p%d\nspec:\n  images:\n  - glob: \"**\"\n  authorities:\n  - key:\n      secretRef:\n        name: s%d\n  - keyless:\n      identities:\n      - issuer: https://issuer.example\n        subject: me@example.com\n", i, i)
		d, err := policy.Parse("policy.yaml", []byte(text))
		if err != nil {
			b.Fatal(err)
		}
		docs = append(docs, d)
		folder := filepath.Join(dir, "secrets/cosign-system", fmt.Sprintf("s%d", i))
		if err := os.MkdirAll(folder, 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "k"), []byte(pem), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	set, err := policy.NewSet(docs...)
	if err != nil {
		b.Fatal(err)
	}
	k, err := New(Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	key := keyOf(set)
	var s *Snapshot
	b.Run("Resolve", func(b *testing.B) {
		for b.Loop() {
			s = k.Resolve(set)
		}
	})
	b.Run("Keys", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Keys(key); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Root", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Root(""); err != nil {
				b.Fatal(err)
			}
		}
	})
}
