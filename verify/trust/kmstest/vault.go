package kmstest

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"net/http"
)

const vaultToken = "token-of-tests"

// startVault starts Vault's transit engine: https://developer.hashicorp.com/vault/api-docs/secret/transit#read-key
func (s *Services) startVault() error {
	s.Vault = newService(func(key string) string { return "hashivault://" + key })
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/transit/keys/{name}", func(w http.ResponseWriter, r *http.Request) {
		token := r.Header.Get("X-Vault-Token")
		key, b := s.Vault.ask(r.PathValue("name"), token, r.Context().Done())
		switch {
		case misbehave(w, b):
		case b == Denying || token != vaultToken:
			writeJSON(w, http.StatusForbidden, map[string]any{"errors": []string{"permission denied"}})
		case key == nil:
			writeJSON(w, http.StatusNotFound, map[string]any{"errors": []string{}})
		default:
			writeVaultKey(w, key)
		}
	})
	return s.serve(s.Vault, nil, mux)
}

func writeVaultKey(w http.ResponseWriter, key crypto.PublicKey) {
	name, text := "a key", ""
	if k, ok := key.(ed25519.PublicKey); ok {
		name, text = "ed25519", base64.StdEncoding.EncodeToString(k)
	} else {
		var err error
		if text, err = toPEM(key); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	version := map[string]any{"name": name, "public_key": text, "creation_time": "2024-01-01T00:00:00Z"}
	writeJSON(w, http.StatusOK, map[string]any{"data": map[string]any{
		"keys": map[string]any{"3": version}, "latest_version": 3, "supports_signing": true,
	}})
}
