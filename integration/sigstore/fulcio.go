package sigstore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// WithoutSCT is the URL of the same certificate authority for clients that ask for certificates
// which no certificate transparency log holds.
func (i *Instance) WithoutSCT() string { return i.Fulcio.URL + "/unlogged" }

func (i *Instance) fulcioHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/signingCert", func(w http.ResponseWriter, r *http.Request) { i.signingCertV1(w, r, i.ctLog) })
	mux.HandleFunc("POST /unlogged/api/v1/signingCert", func(w http.ResponseWriter, r *http.Request) { i.signingCertV1(w, r, nil) })
	mux.HandleFunc("POST /api/v2/signingCert", i.signingCertV2)
	return mux
}

// signingCertV1 answers with certificate and chain as PEM.
func (i *Instance) signingCertV1(w http.ResponseWriter, r *http.Request, ctLog *ecdsa.PrivateKey) {
	var request struct {
		PublicKey struct {
			Content []byte `json:"content"`
		} `json:"publicKey"`
		Proof []byte `json:"signedEmailAddress"`
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		refuse(w, http.StatusBadRequest, "reading the request: %v", err)
		return
	}
	if c := i.certify(w, r, request.PublicKey.Content, request.Proof, ctLog); c != nil {
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(pemOf(append([]*x509.Certificate{c}, i.signers.chain()...)...))
	}
}

// signingCertV2 answers with a list of PEM texts.
func (i *Instance) signingCertV2(w http.ResponseWriter, r *http.Request) {
	var request struct {
		PublicKeyRequest struct {
			PublicKey struct {
				Content string `json:"content"`
			} `json:"publicKey"`
			Proof []byte `json:"proofOfPossession"`
		} `json:"publicKeyRequest"`
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		refuse(w, http.StatusBadRequest, "reading the request: %v", err)
		return
	}
	key := request.PublicKeyRequest
	if c := i.certify(w, r, []byte(key.PublicKey.Content), key.Proof, i.ctLog); c != nil {
		var list []string
		for _, c := range append([]*x509.Certificate{c}, i.signers.chain()...) {
			list = append(list, string(pemOf(c)))
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"signedCertificateEmbeddedSct": map[string]any{"chain": map[string]any{"certificates": list}},
		})
	}
}

// certify issues what the token and the proof of possession allow; nil: refused already.
func (i *Instance) certify(w http.ResponseWriter, r *http.Request, key, proof []byte, ctLog *ecdsa.PrivateKey) *x509.Certificate {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		refuse(w, http.StatusUnauthorized, "an identity token is needed")
		return nil
	}
	who, subject, err := i.bearer(token)
	if err != nil {
		refuse(w, http.StatusUnauthorized, "%v", err)
		return nil
	}
	publicKey, err := parseKey(key)
	if err != nil {
		refuse(w, http.StatusBadRequest, "reading the public key: %v", err)
		return nil
	}
	verifier, err := signature.LoadVerifier(publicKey, crypto.SHA256)
	if err != nil {
		refuse(w, http.StatusBadRequest, "reading the public key: %v", err)
		return nil
	}
	if err := verifier.VerifySignature(bytes.NewReader(proof), strings.NewReader(subject)); err != nil {
		refuse(w, http.StatusBadRequest, "the proof of possession is not by this key: %v", err)
		return nil
	}
	certificate, err := i.signers.signer(who, publicKey, ctLog)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "%v", err)
		return nil
	}
	return certificate
}

// parseKey reads a public key in PEM or in DER: clients send both.
func parseKey(text []byte) (crypto.PublicKey, error) {
	if block, _ := pem.Decode(text); block != nil {
		return cryptoutils.UnmarshalPEMToPublicKey(text)
	}
	return x509.ParsePKIXPublicKey(text)
}
