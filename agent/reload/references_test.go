package reload

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/verify/trust"
)

const bySecret = `apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata: {name: by-secret}
spec:
  images: [{glob: "**"}]
  authorities: [{key: {secretRef: {namespace: keys, name: release}}}]
`

func publicKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// fingerprint is that of the one key which the policy in force accepts; empty if there is none.
func (v *verifier) fingerprint() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.set == nil {
		return ""
	}
	keys, err := v.refs.Keys(v.set.Policies()[0].Authorities[0].Key)
	if err != nil || len(keys) != 1 {
		return ""
	}
	return keys[0].Fingerprint
}

// TestReferencesAreFollowed: a key that is rotated or taken away counts at once, whatever state the policy files are in.
func TestReferencesAreFollowed(t *testing.T) {
	dir, held := t.TempDir(), t.TempDir()
	put(t, dir, "a.yaml", bySecret)
	keeper, err := trust.New(trust.Options{Dir: held, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	v := &verifier{}
	var log bytes.Buffer
	p := New(dir, keeper, v, v, slog.New(slog.NewTextHandler(&log, nil)))
	p.Load()
	if v.names() != "by-secret" || v.fingerprint() != "" || p.State().Warnings == 0 {
		t.Fatalf("a secret that is not there: policies %q, %d warnings", v.names(), p.State().Warnings)
	}
	if n := strings.Count(log.String(), "keys/release"); n == 0 || strings.Count(log.String(), "level=WARN") != p.State().Warnings {
		t.Errorf("told %d times:\n%s", n, &log)
	}

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { defer func() { done <- struct{}{} }(); p.Follow(ctx, keeper.Changed()) }()
	go func() {
		defer func() { done <- struct{}{} }()
		if err := keeper.Run(ctx); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}()
	defer func() { cancel(); <-done; <-done }()

	secret := filepath.Join(held, "secrets", "keys", "release")
	if err := os.MkdirAll(secret, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, secret, "cosign.pub", publicKey(t))
	eventually(t, "the key counts", func() bool { return v.fingerprint() != "" })
	first := v.fingerprint()

	put(t, dir, "a.yaml", "{") // the set stays in force
	p.Load()
	put(t, secret, "cosign.pub", publicKey(t))
	eventually(t, "the new key counts", func() bool { return v.fingerprint() != "" && v.fingerprint() != first })
	if err := os.Remove(filepath.Join(secret, "cosign.pub")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no key counts", func() bool { return v.fingerprint() == "" })
	if s := p.State(); s.Broken == "" || s.Revision == "" {
		t.Errorf("state %+v", s)
	}
}
