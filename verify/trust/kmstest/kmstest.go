// Package kmstest stands in for key management services: Vault's transit engine over HTTP, AWS KMS and Azure Key Vault
// over HTTPS, Google Cloud KMS over gRPC. The real client libraries reach them by their environment alone.
//
// Vault and AWS KMS are named by address. Google's and Azure's libraries go to the hosts that their clouds have and no
// others, so a forward proxy, as companies have one, leads those hosts here; certificates are of a CA of the
// tests' own. Services answer what the libraries ask when they read a public key, and nothing else.
//
// It is for tests alone.
package kmstest

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
)

// Behaviour is how a service meets its callers.
type Behaviour int

const (
	Serving Behaviour = iota // it answers
	Away                     // it closes every connection
	Hanging                  // it takes requests and never answers
	Garbage                  // it answers with what no client understands
	Huge                     // it answers with more than anybody should read
	Denying                  // it lets nobody read keys
)

// hugeSize is the size of an answer of a Huge service.
const hugeSize = 16 << 20

// Services are all stand-ins.
type Services struct {
	Vault, AWS, Google, Azure *Service

	dir   string
	ca    *authority
	proxy *proxy
	close []func()
}

// Service is one stand-in. Its methods are safe for concurrent use.
type Service struct {
	uri func(key string) string

	mu      sync.Mutex
	behaves Behaviour
	freed   chan struct{} // closed when a service stops hanging
	keys    map[string]crypto.PublicKey
	asked   int
	called  chan struct{}
	conns   *listener
	lastly  string // see Credentials
}

// Start starts all services. Files that clients need are written to dir.
func Start(dir string) (_ *Services, err error) {
	s := &Services{dir: dir}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.ca, err = newAuthority(); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), s.ca.pem(), 0o600); err != nil {
		return nil, err
	}
	for _, start := range []func() error{s.startVault, s.startAWS, s.startGoogle, s.startAzure, s.startProxy} {
		if err := start(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Env is the environment in which client libraries find the services, as for os.Setenv. Go reads some of it
// once in the life of a process, so it is set before anything speaks TLS or asks a proxy.
func (s *Services) Env() map[string]string {
	return map[string]string{
		"SSL_CERT_FILE": filepath.Join(s.dir, "ca.pem"),
		"SSL_CERT_DIR":  s.dir,
		"HTTPS_PROXY":   "http://" + s.proxy.addr,
		"NO_PROXY":      "127.0.0.1,localhost",

		"VAULT_ADDR":  "http://" + s.Vault.conns.Addr().String(),
		"VAULT_TOKEN": vaultToken,

		"AWS_ACCESS_KEY_ID":         awsKeyID,
		"AWS_SECRET_ACCESS_KEY":     "not-a-secret",
		"AWS_REGION":                "us-east-1",
		"AWS_CA_BUNDLE":             filepath.Join(s.dir, "ca.pem"),
		"AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE":           filepath.Join(s.dir, "no-aws-config"),

		"GOOGLE_APPLICATION_CREDENTIALS": filepath.Join(s.dir, "google.json"),

		"AZURE_TENANT_ID":         azureTenant,
		"AZURE_CLIENT_ID":         "11111111-2222-3333-4444-555555555555",
		"AZURE_CLIENT_SECRET":     "not-a-secret",
		"AZURE_TOKEN_CREDENTIALS": "prod",
	}
}

// Refused are the hosts that somebody wanted to reach through the proxy and that are none of the services.
func (s *Services) Refused() []string { return s.proxy.refusedHosts() }

// Close ends all services.
func (s *Services) Close() {
	for _, svc := range []*Service{s.Vault, s.AWS, s.Google, s.Azure} {
		if svc != nil && svc.conns != nil {
			svc.Behave(Away)
		}
	}
	for _, f := range s.close {
		f()
	}
}

// URI is by which a policy names a key: small letters and digits.
func (s *Service) URI(key string) string { return s.uri(key) }

// Put gives the service a key, in place of the one that it may have had under the name.
func (s *Service) Put(name string, key crypto.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[name] = key
}

// Remove destroys a key.
func (s *Service) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, name)
}

// Asked is how many requests there were for a key.
func (s *Service) Asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// Called is sent to when there was a request for a key. Many are one.
func (s *Service) Called() <-chan struct{} { return s.called }

// Credentials is what the last request proved itself with, in the protocol's own form.
func (s *Service) Credentials() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastly
}

// Behave changes how the service meets its callers from now on. Connections that are open are closed.
func (s *Service) Behave(b Behaviour) {
	s.mu.Lock()
	s.behaves = b
	close(s.freed)
	s.freed = make(chan struct{})
	s.mu.Unlock()
	s.conns.closeAll(b == Away)
}

func newService(uri func(string) string) *Service {
	return &Service{uri: uri, keys: map[string]crypto.PublicKey{}, freed: make(chan struct{}), called: make(chan struct{}, 1)}
}

// ask notes a request for a key, and hangs if that is how the service behaves.
func (s *Service) ask(name, credentials string, done <-chan struct{}) (crypto.PublicKey, Behaviour) {
	s.mu.Lock()
	s.asked++
	s.lastly = credentials
	b, freed, key := s.behaves, s.freed, s.keys[name]
	s.mu.Unlock()
	select {
	case s.called <- struct{}{}:
	default:
	}
	if b == Hanging {
		select {
		case <-freed:
		case <-done:
		}
		return nil, Away
	}
	return key, b
}

// misbehave answers for a service that does not serve, and reports whether it did.
func misbehave(w http.ResponseWriter, b Behaviour) bool {
	switch b {
	case Away:
		panic(http.ErrAbortHandler)
	case Garbage:
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html>it works!</html>")
	case Huge:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"PublicKey":"`)
		chunk := make([]byte, 64<<10)
		for i := range chunk {
			chunk[i] = 'A'
		}
		for n := 0; n < hugeSize; n += len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return true
			}
		}
		fmt.Fprint(w, `"}`)
	default:
		return false
	}
	return true
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

// toPEM is a key as files have it.
func toPEM(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", errors.New("not a key that can be written down")
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}
