package kmstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"net/http"
)

const (
	azureTenant = "99999999-8888-7777-6666-555555555555"
	azureVault  = "tests.vault.azure.net"
	azureToken  = "access-token-of-tests"
	azureLogin  = "https://login.microsoftonline.com/"
)

// startAzure starts Azure Key Vault and the login in front of it:
// https://learn.microsoft.com/rest/api/keyvault/keys/get-key/get-key
func (s *Services) startAzure() error {
	s.Azure = newService(func(key string) string { return "azurekms://" + azureVault + "/" + key })
	config, err := s.ca.serverConfig("*.vault.azure.net", "login.microsoftonline.com", "login.microsoft.com")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /common/discovery/instance", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{
			"tenant_discovery_endpoint": azureLogin + azureTenant + "/v2.0/.well-known/openid-configuration",
			"metadata": []any{map[string]any{
				"preferred_network": "login.microsoftonline.com", "preferred_cache": "login.microsoftonline.com",
				"aliases": []string{"login.microsoftonline.com"},
			}},
		})
	})
	mux.HandleFunc("GET /"+azureTenant+"/v2.0/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		at := azureLogin + azureTenant
		writeJSON(w, http.StatusOK, map[string]any{
			"authorization_endpoint": at + "/oauth2/v2.0/authorize", "token_endpoint": at + "/oauth2/v2.0/token", "issuer": at + "/v2.0",
		})
	})
	mux.HandleFunc("POST /"+azureTenant+"/oauth2/v2.0/token", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"token_type": "Bearer", "expires_in": 3600, "access_token": azureToken})
	})
	mux.HandleFunc("GET /keys/{name}/{version...}", s.serveAzureKey)
	mux.HandleFunc("GET /keys/{name}", s.serveAzureKey)
	return s.serve(s.Azure, config, mux)
}

func (s *Services) serveAzureKey(w http.ResponseWriter, r *http.Request) {
	given := r.Header.Get("Authorization")
	if given == "" {
		w.Header().Set("WWW-Authenticate", `Bearer authorization="`+azureLogin+azureTenant+`", resource="https://vault.azure.net"`)
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": map[string]any{"code": "Unauthorized", "message": "a token is needed"}})
		return
	}
	key, b := s.Azure.ask(r.PathValue("name"), given, r.Context().Done())
	switch {
	case misbehave(w, b):
	case b == Denying || given != "Bearer "+azureToken:
		writeJSON(w, http.StatusForbidden, map[string]any{"error": map[string]any{"code": "Forbidden", "message": "not for you"}})
	case key == nil:
		writeJSON(w, http.StatusNotFound, map[string]any{"error": map[string]any{"code": "KeyNotFound", "message": "no such key"}})
	default:
		writeJSON(w, http.StatusOK, map[string]any{"key": jsonWebKey(r.PathValue("name"), key), "attributes": map[string]any{"enabled": true}})
	}
}

func jsonWebKey(name string, key crypto.PublicKey) map[string]any {
	number := func(n *big.Int, size int) string {
		return base64.RawURLEncoding.EncodeToString(n.FillBytes(make([]byte, size)))
	}
	jwk := map[string]any{"kid": "https://" + azureVault + "/keys/" + name + "/1", "key_ops": []string{"sign", "verify"}}
	switch k := key.(type) {
	case *rsa.PublicKey:
		jwk["kty"], jwk["n"], jwk["e"] = "RSA", number(k.N, k.Size()), "AQAB"
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 4, x, y
		if err != nil {
			return jwk
		}
		half := len(point) / 2
		jwk["kty"], jwk["crv"] = "EC", k.Curve.Params().Name
		jwk["x"] = base64.RawURLEncoding.EncodeToString(point[1 : 1+half])
		jwk["y"] = base64.RawURLEncoding.EncodeToString(point[1+half:])
	}
	return jwk
}
