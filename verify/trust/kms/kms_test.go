package kms

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/cosentry/cosentry/verify/trust/kmstest"
)

// services are shared: Go reads proxies and CAs from the environment once in the life of a process.
var services *kmstest.Services

func TestMain(m *testing.M) { os.Exit(kmstest.Main(m, &services)) }

func all() map[string]*kmstest.Service {
	return map[string]*kmstest.Service{"vault": services.Vault, "aws": services.AWS, "google": services.Google, "azure": services.Azure}
}

// each runs a test for each service, with a key of its own.
func each(t *testing.T, test func(t *testing.T, s *kmstest.Service, key string)) {
	for name, s := range all() {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { s.Behave(kmstest.Serving) })
			key := strings.ToLower(strings.NewReplacer("/", "", "_", "").Replace(t.Name()))
			s.Put(key, ecKey(t))
			test(t, s, key)
		})
	}
}

func ecKey(t *testing.T) crypto.PublicKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}

func rsaKey(t *testing.T) crypto.PublicKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}

func fetch(t *testing.T, uri string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return Fetch(ctx, uri)
}

func mustBe(t *testing.T, uri string, want crypto.PublicKey) {
	t.Helper()
	got, err := fetch(t, uri)
	if err != nil {
		t.Fatal(err)
	}
	text, err := cryptoutils.MarshalPublicKeyToPEM(want)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(text) {
		t.Errorf("got the key\n%swant\n%s", got, text)
	}
}

func TestKeyOfEveryService(t *testing.T) {
	each(t, func(t *testing.T, s *kmstest.Service, key string) {
		for kind, public := range map[string]crypto.PublicKey{"ecdsa": ecKey(t), "rsa": rsaKey(t)} {
			t.Run(kind, func(t *testing.T) {
				s.Put(key, public)
				mustBe(t, s.URI(key), public)
			})
		}
	})
	t.Run("vault/ed25519", func(t *testing.T) {
		public, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		services.Vault.Put("ed", public)
		mustBe(t, services.Vault.URI("ed"), public)
	})
	if refused := services.Refused(); len(refused) > 0 {
		t.Errorf("the libraries also wanted to go to %q", refused)
	}
}

func TestRotatedKeyIsTheNewOne(t *testing.T) {
	each(t, func(t *testing.T, s *kmstest.Service, key string) {
		for range 2 {
			public := ecKey(t)
			s.Put(key, public)
			mustBe(t, s.URI(key), public)
		}
	})
}

func TestKeyThatTheServiceDoesNotHaveIsGone(t *testing.T) {
	each(t, func(t *testing.T, s *kmstest.Service, key string) {
		s.Remove(key)
		if _, err := fetch(t, s.URI(key)); !errors.Is(err, ErrGone) {
			t.Errorf("error is %v, want ErrGone", err)
		}
	})
}

// A service that fails, or forbids, has not said that there is no key.
func TestFailuresAreNotGone(t *testing.T) {
	for name, b := range map[string]kmstest.Behaviour{"away": kmstest.Away, "garbage": kmstest.Garbage, "huge": kmstest.Huge, "denying": kmstest.Denying} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, s *kmstest.Service, key string) {
				s.Behave(b)
				// The libraries try again, three times or until the end of this context.
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				pem, err := Fetch(ctx, s.URI(key))
				if err == nil || errors.Is(err, ErrGone) || pem != "" {
					t.Errorf("got %q, error %v", pem, err)
				}
			})
		})
	}
}

func TestHangingServiceHoldsNobodyPastTheContext(t *testing.T) {
	each(t, func(t *testing.T, s *kmstest.Service, key string) {
		s.Behave(kmstest.Hanging)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		select {
		case <-s.Called(): // of before
		default:
		}
		go func() {
			_, err := Fetch(ctx, s.URI(key))
			done <- err
		}()
		select {
		case <-s.Called():
		case <-time.After(20 * time.Second):
			t.Fatal("the service was not asked")
		}
		cancel()
		select {
		case err := <-done:
			if err == nil || errors.Is(err, ErrGone) {
				t.Errorf("error is %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("still waiting for the service")
		}
	})
}

func TestRegionOfAnARN(t *testing.T) {
	key := ecKey(t)
	services.AWS.Put("regional", key)
	t.Setenv("AWS_REGION", "")
	mustBe(t, services.ARN("eu-central-1", "regional"), key)
	if signed := services.AWS.Credentials(); !strings.Contains(signed, "/eu-central-1/kms/") {
		t.Errorf("signed for another region: %s", signed)
	}
}

func TestWhoeverCouldAnswerInPlaceOfAServiceIsNotAsked(t *testing.T) {
	for name, tt := range map[string]struct {
		service   *kmstest.Service
		env, to   string
		wantWords string
	}{
		"aws without tls checks":      {services.AWS, "AWS_TLS_INSECURE_SKIP_VERIFY", "1", "AWS_TLS_INSECURE_SKIP_VERIFY is set"},
		"vault without tls checks":    {services.Vault, "VAULT_SKIP_VERIFY", "true", "VAULT_SKIP_VERIFY is set"},
		"vault, a value misspelt":     {services.Vault, "VAULT_SKIP_VERIFY", "yes", "VAULT_SKIP_VERIFY is set"},
		"vault over http":             {services.Vault, "VAULT_ADDR", "http://vault.example:8200", "plain http"},
		"vault over http, by address": {services.Vault, "VAULT_ADDR", "http://192.0.2.1:8200", "plain http"},
		"vault over something else":   {services.Vault, "VAULT_ADDR", "ftp://vault.example", "use https"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.service.Put("checked", ecKey(t))
			t.Setenv(tt.env, tt.to)
			before := tt.service.Asked()
			_, err := fetch(t, tt.service.URI("checked"))
			if err == nil || !strings.Contains(err.Error(), tt.wantWords) {
				t.Errorf("error is %v, want one with %q", err, tt.wantWords)
			}
			if tt.service.Asked() != before {
				t.Error("it was asked all the same")
			}
		})
	}
}

// sigstore starts a program named after a scheme that it does not know.
func TestNoProgramIsStartedForAnUnknownScheme(t *testing.T) {
	dir := t.TempDir()
	ran := dir + "/ran"
	program := fmt.Sprintf("#!/bin/sh\ntouch %s\n", ran)
	if err := os.WriteFile(dir+"/sigstore-kms-evil", []byte(program), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if _, err := fetch(t, "evil://key"); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("the program was started")
	}
}

func FuzzURIIsNeverAPanic(f *testing.F) {
	for _, uri := range []string{"awskms://", "gcpkms://projects/", "azurekms://a/b/c/d", "hashivault://", "", "://", "awskms:///arn:"} {
		f.Add(uri)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nobody is asked
	f.Fuzz(func(t *testing.T, uri string) {
		if pem, err := Fetch(ctx, uri); err == nil {
			t.Errorf("got %q", pem)
		}
	})
}
