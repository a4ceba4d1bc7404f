package sigstore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// Vault is a key management service: as much of HashiCorp Vault's transit
// engine as signing with a key that never leaves it takes.
type Vault struct {
	*Service
	// Token is asked of every client.
	Token string

	mu   sync.Mutex
	keys map[string]*ecdsa.PrivateKey
}

// NewVault starts an empty one.
func NewVault() (*Vault, error) {
	v := &Vault{Token: rand.Text(), keys: map[string]*ecdsa.PrivateKey{}}
	mux := http.NewServeMux()
	for _, method := range []string{"POST", "PUT"} { // Vault takes both for a write
		mux.HandleFunc(method+" /v1/transit/keys/{key}", v.create)
		mux.HandleFunc(method+" /v1/transit/sign/{key}/sha2-256", v.sign)
	}
	mux.HandleFunc("GET /v1/transit/keys/{key}", v.read)
	var err error
	v.Service, err = serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Token") != v.Token {
			complain(w, http.StatusForbidden, "permission denied")
			return
		}
		mux.ServeHTTP(w, r)
	}))
	if err != nil {
		return nil, fmt.Errorf("starting a key management service: %w", err)
	}
	return v, nil
}

// Environment has clients find it.
func (v *Vault) Environment() []string {
	return []string{"VAULT_ADDR=" + v.URL, "VAULT_TOKEN=" + v.Token}
}

func (v *Vault) key(name string) *ecdsa.PrivateKey {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.keys[name]
}

func (v *Vault) create(w http.ResponseWriter, r *http.Request) {
	key, err := newKey()
	if err != nil {
		complain(w, http.StatusInternalServerError, err.Error())
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if name := r.PathValue("key"); v.keys[name] == nil {
		v.keys[name] = key
	}
	w.WriteHeader(http.StatusNoContent)
}

func (v *Vault) read(w http.ResponseWriter, r *http.Request) {
	key := v.key(r.PathValue("key"))
	if key == nil {
		complain(w, http.StatusNotFound)
		return
	}
	text, err := cryptoutils.MarshalPublicKeyToPEM(public(key))
	if err != nil {
		complain(w, http.StatusInternalServerError, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"data": map[string]any{
		"type": "ecdsa-p256", "latest_version": 1,
		"keys": map[string]any{"1": map[string]any{"name": "P-256", "public_key": string(text)}},
	}})
}

func (v *Vault) sign(w http.ResponseWriter, r *http.Request) {
	key := v.key(r.PathValue("key"))
	if key == nil {
		complain(w, http.StatusNotFound, "signing key not found")
		return
	}
	var request struct {
		Input     []byte `json:"input"`
		Prehashed bool   `json:"prehashed"`
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil || !request.Prehashed {
		complain(w, http.StatusBadRequest, "a digest is needed")
		return
	}
	raw, err := key.Sign(rand.Reader, request.Input, crypto.SHA256)
	if err != nil {
		complain(w, http.StatusBadRequest, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"data": map[string]any{
		"signature": "vault:v1:" + base64.StdEncoding.EncodeToString(raw),
	}})
}

// complain answers as Vault does.
func complain(w http.ResponseWriter, status int, words ...string) {
	writeJSON(w, status, map[string]any{"errors": append([]string{}, words...)})
}
