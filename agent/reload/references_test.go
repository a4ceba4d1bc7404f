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

// TestWhatIsLostIsAnErrorOfItsOwn: images that ran until now are refused. That must not look like a regexp without an anchor,
// nor like a change that somebody made.
func TestWhatIsLostIsAnErrorOfItsOwn(t *testing.T) {
	dir, held := t.TempDir(), t.TempDir()
	put(t, dir, "a.yaml", bySecret+"---\n"+strings.Replace(bySecret, "by-secret", "another", 1))
	put(t, dir, "b.yaml", strings.Replace(document("open"), "fail", "pass", 1))
	secret := filepath.Join(held, "secrets", "keys", "release")
	if err := os.MkdirAll(secret, 0o700); err != nil {
		t.Fatal(err)
	}
	keeper, err := trust.New(trust.Options{
		Dir: held, Log: slog.New(slog.DiscardHandler), Roots: []trust.RootFile{{Name: "corp", Path: "/nowhere/root.json"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	v := &verifier{}
	var log bytes.Buffer
	p := New(dir, keeper, v, v, slog.New(slog.NewTextHandler(&log, nil)))
	const lost = `level=ERROR msg="what policies refer to is no longer usable: what needs it is refused" kind=secret name=keys/release policies="another, by-secret" error=`
	step := func(what string, want map[string]int) {
		t.Helper()
		log.Reset()
		p.Load()
		p.Load()
		for line, n := range want {
			if strings.Count(log.String(), line) != n {
				t.Errorf("%s: %q is not logged %d times:\n%s", what, line, n, &log)
			}
		}
	}
	// What was never there is no loss, and each kind of warning has words of its own.
	step("never there", map[string]int{
		"level=ERROR": 0,
		`msg="a policy refers to what cannot be used now" policy=`:           2,
		`msg="a policy is legal and probably not what is meant" policy=open`: 1,
		`level=WARN msg="a trust root cannot be used" trustRoot=corp`:        1,
		"policy=corp": 0,
	})
	put(t, secret, "cosign.pub", publicKey(t))
	step("there", map[string]int{"level=ERROR": 0, "level=WARN": 0, "usable again": 0})
	for range 2 {
		if err := os.Remove(filepath.Join(secret, "cosign.pub")); err != nil {
			t.Fatal(err)
		}
		step("lost", map[string]int{lost: 1, "level=ERROR": 1, "level=WARN": 0})
		if n := p.State().Warnings; n != len(p.set.Warnings())+3 {
			t.Errorf("%d warnings are counted", n)
		}
		put(t, secret, "cosign.pub", publicKey(t))
		step("again", map[string]int{`level=INFO msg="what policies refer to is usable again" kind=secret name=keys/release`: 1, "level=WARN": 0, "level=ERROR": 0})
	}
	// A loss that comes with other policies is one as well.
	if err := os.Remove(filepath.Join(secret, "cosign.pub")); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "c.yaml", document("more"))
	step("lost with a change", map[string]int{lost: 1})
}
