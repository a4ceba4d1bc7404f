package kmstest

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"strings"
)

const awsKeyID = "AKIATESTTESTTESTTEST"

// startAWS starts AWS KMS: https://docs.aws.amazon.com/kms/latest/APIReference/API_GetPublicKey.html
func (s *Services) startAWS() error {
	s.AWS = newService(func(key string) string {
		return "awskms://" + s.AWS.conns.Addr().String() + "/alias/" + key
	})
	config, err := s.ca.serverConfig()
	if err != nil {
		return err
	}
	return s.serve(s.AWS, config, http.HandlerFunc(s.serveAWS))
}

// ARN is a URI for a key of AWS KMS with the region in it.
func (s *Services) ARN(region, key string) string {
	return "awskms://" + s.AWS.conns.Addr().String() + "/arn:aws:kms:" + region + ":111122223333:alias/" + key
}

func (s *Services) serveAWS(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		KeyId string //nolint:revive // AWS' own spelling
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&ask); err != nil {
		http.Error(w, "not a request", http.StatusBadRequest)
		return
	}
	name := ask.KeyId[strings.LastIndexByte(ask.KeyId, '/')+1:]
	signed := r.Header.Get("Authorization")
	key, b := s.AWS.ask(name, signed, r.Context().Done())
	if misbehave(w, b) {
		return
	}
	fail := func(kind string) {
		w.Header().Set("X-Amzn-ErrorType", kind)
		writeJSON(w, http.StatusBadRequest, map[string]any{"__type": kind, "message": kind + " of tests"})
	}
	if b == Denying || !strings.HasPrefix(signed, "AWS4-HMAC-SHA256 Credential="+awsKeyID+"/") {
		fail("AccessDeniedException")
		return
	}
	if key == nil {
		fail("NotFoundException")
		return
	}
	algorithms := []string{"ECDSA_SHA_256"}
	if _, ok := key.(*rsa.PublicKey); ok {
		algorithms = []string{"RSASSA_PKCS1_V1_5_SHA_256"}
	}
	switch r.Header.Get("X-Amz-Target") {
	case "TrentService.GetPublicKey":
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{
			"KeyId": ask.KeyId, "PublicKey": der, "KeyUsage": "SIGN_VERIFY", "SigningAlgorithms": algorithms,
		})
	case "TrentService.DescribeKey":
		writeJSON(w, http.StatusOK, map[string]any{"KeyMetadata": map[string]any{
			"KeyId": ask.KeyId, "KeyUsage": "SIGN_VERIFY", "SigningAlgorithms": algorithms,
		}})
	default:
		fail("UnsupportedOperationException")
	}
}
