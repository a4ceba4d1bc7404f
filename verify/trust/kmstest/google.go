package kmstest

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const googleRing = "projects/tests/locations/global/keyRings/ring/cryptoKeys/"

// startGoogle starts Google Cloud KMS: https://cloud.google.com/kms/docs/reference/rpc/google.cloud.kms.v1
func (s *Services) startGoogle() error {
	s.Google = newService(func(key string) string { return "gcpkms://" + googleRing + key })
	if err := s.writeServiceAccount(); err != nil {
		return err
	}
	config, err := s.ca.serverConfig("cloudkms.googleapis.com")
	if err != nil {
		return err
	}
	config.NextProtos = []string{"h2"}
	l, err := listen()
	if err != nil {
		return err
	}
	s.Google.conns = l
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
	kmspb.RegisterKeyManagementServiceServer(server, googleKMS{svc: s.Google})
	s.close = append(s.close, server.Stop)
	go func() { _ = server.Serve(l) }()
	return nil
}

// writeServiceAccount writes a service account's key file. Google's library signs its tokens by itself with one.
func (s *Services) writeServiceAccount() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	file, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "tests", "private_key_id": "1",
		"private_key":  string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
		"client_email": "node@tests.iam.gserviceaccount.com", "client_id": "1",
		"token_uri": "https://oauth2.googleapis.com/token", "universe_domain": "googleapis.com",
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, "google.json"), file, 0o600)
}

type googleKMS struct {
	kmspb.UnimplementedKeyManagementServiceServer
	svc *Service
}

// errAway is what gRPC makes of a connection that closes.
var errAway = status.Error(codes.Unavailable, "away")

func (g googleKMS) GetCryptoKey(ctx context.Context, r *kmspb.GetCryptoKeyRequest) (*kmspb.CryptoKey, error) {
	name := strings.TrimPrefix(r.GetName(), googleRing)
	token := ""
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		token = strings.Join(md.Get("authorization"), ",")
	}
	key, b := g.svc.ask(name, token, ctx.Done())
	switch {
	case b == Away:
		return nil, errAway
	case b == Denying || !strings.HasPrefix(token, "Bearer "):
		return nil, status.Error(codes.PermissionDenied, "not for you")
	case b == Serving && key == nil:
		return nil, status.Error(codes.NotFound, "no such key")
	}
	return &kmspb.CryptoKey{Name: r.GetName(), Purpose: kmspb.CryptoKey_ASYMMETRIC_SIGN}, nil
}

func (g googleKMS) ListCryptoKeyVersions(_ context.Context, r *kmspb.ListCryptoKeyVersionsRequest) (*kmspb.ListCryptoKeyVersionsResponse, error) {
	g.svc.mu.Lock()
	defer g.svc.mu.Unlock()
	algorithm := kmspb.CryptoKeyVersion_RSA_SIGN_PKCS1_2048_SHA256
	if _, ok := g.svc.keys[strings.TrimPrefix(r.GetParent(), googleRing)].(*ecdsa.PublicKey); ok {
		algorithm = kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256
	}
	return &kmspb.ListCryptoKeyVersionsResponse{CryptoKeyVersions: []*kmspb.CryptoKeyVersion{
		{Name: r.GetParent() + "/cryptoKeyVersions/2", Algorithm: algorithm, State: kmspb.CryptoKeyVersion_ENABLED},
	}}, nil
}

func (g googleKMS) GetPublicKey(_ context.Context, r *kmspb.GetPublicKeyRequest) (*kmspb.PublicKey, error) {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.GetName(), googleRing), "/")
	g.svc.mu.Lock()
	key, b := g.svc.keys[name], g.svc.behaves
	g.svc.mu.Unlock()
	switch b {
	case Garbage:
		return &kmspb.PublicKey{Pem: "it works!"}, nil
	case Huge:
		return &kmspb.PublicKey{Pem: strings.Repeat("A", hugeSize)}, nil
	}
	text, err := toPEM(key)
	if err != nil {
		return nil, status.Error(codes.NotFound, "no such key")
	}
	return &kmspb.PublicKey{Name: r.GetName(), Pem: text}, nil
}
