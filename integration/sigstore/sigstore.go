// Package sigstore is a small sigstore of a test's own, served in this process
// on loopback: a certificate authority that gives certificates to whoever holds an
// identity token, a certificate transparency log, a transparency log of
// signatures and a timestamp authority. The real cosign command signs with
// it, and what it signs is judged like anything else.
//
// Only the services are stand-ins, not what they give out: certificates are
// issued by a chain of two, with a signed certificate timestamp inside;
// entries are canonicalised by Rekor's own library, stand in a Merkle tree and come
// with an inclusion proof, a signed checkpoint and a signed entry timestamp; timestamps are
// RFC 3161 responses. Two instances share no key.
//
// What is served follows github.com/sigstore/fulcio (api/v1 and api/v2
// signingCert), github.com/sigstore/rekor (api/v1/log) and RFC 3161 over HTTP.
// Nothing is kept: an instance ends with its process.
package sigstore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"time"
)

// Instance is one sigstore. Its parts can be stopped and started one by one.
type Instance struct {
	Fulcio, Rekor, TSA *Service

	signers    *authority // of signing certificates
	timestamps *authority
	stamper    *leaf
	ctLog      *ecdsa.PrivateKey
	ledger     *ledger
	tokens     *ecdsa.PrivateKey
}

// New starts an instance on free ports of the loopback interface.
func New() (*Instance, error) {
	i := &Instance{}
	var err error
	fail := func(what string, err error) (*Instance, error) {
		i.Stop()
		return nil, fmt.Errorf("starting a sigstore: %s: %w", what, err)
	}
	if i.signers, err = newAuthority("fulcio", codeSigning); err != nil {
		return fail("certificate authority", err)
	}
	if i.timestamps, err = newAuthority("timestamps", timeStamping); err != nil {
		return fail("timestamp authority", err)
	}
	if i.stamper, err = i.timestamps.stamper(); err != nil {
		return fail("timestamp authority", err)
	}
	if i.ctLog, err = newKey(); err != nil {
		return fail("certificate transparency log", err)
	}
	if i.tokens, err = newKey(); err != nil {
		return fail("identity tokens", err)
	}
	if i.ledger, err = newLedger(); err != nil {
		return fail("transparency log", err)
	}
	for _, s := range []struct {
		service **Service
		handler http.Handler
	}{{&i.Fulcio, i.fulcioHandler()}, {&i.Rekor, i.ledger.handler()}, {&i.TSA, i.timestampHandler()}} {
		if *s.service, err = serve(s.handler); err != nil {
			return fail("listening", err)
		}
	}
	return i, nil
}

// Stop ends all services.
func (i *Instance) Stop() {
	for _, s := range []*Service{i.Fulcio, i.Rekor, i.TSA} {
		if s != nil {
			s.Stop()
		}
	}
}

// Service is an HTTP server on an address of its own.
type Service struct {
	URL     string
	addr    string
	handler http.Handler
	server  *http.Server
}

func serve(handler http.Handler) (*Service, error) {
	s := &Service{addr: "127.0.0.1:0", handler: handler}
	return s, s.Start()
}

// Start listens, at the same address as before if there was one.
func (s *Service) Start() error {
	listener, err := net.Listen("tcp", s.addr)
	if err != nil {
		return err
	}
	s.addr = listener.Addr().String()
	s.URL = "http://" + s.addr
	server := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	s.server = server
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Printf("sigstore service %s: %v", s.URL, err)
		}
	}()
	return nil
}

// Stop closes the listener and every connection: to its clients the service is away.
func (s *Service) Stop() { _ = s.server.Close() }

// ServeHTTP implements [http.Handler].
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<20)
	s.handler.ServeHTTP(w, r)
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// public returns the public half as the interface that libraries ask for.
func public(key crypto.Signer) crypto.PublicKey { return key.Public() }

// refuse answers like the services do: a status and a JSON message.
func refuse(w http.ResponseWriter, status int, format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), `"`, `'`)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"code":%d,"message":%q}`, status, text)
}
