package sigstore

import (
	"crypto"
	"encoding/asn1"
	"io"
	"net/http"
	"time"

	"github.com/digitorus/timestamp"
)

// TimestampURL is where timestamps are asked for.
func (i *Instance) TimestampURL() string { return i.TSA.URL + "/api/v1/timestamp" }

func (i *Instance) timestampHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/timestamp", func(w http.ResponseWriter, r *http.Request) {
		query, err := io.ReadAll(r.Body)
		if err != nil {
			refuse(w, http.StatusBadRequest, "reading the request: %v", err)
			return
		}
		request, err := timestamp.ParseRequest(query)
		if err != nil {
			refuse(w, http.StatusBadRequest, "reading the request: %v", err)
			return
		}
		stamp := timestamp.Timestamp{
			HashAlgorithm: request.HashAlgorithm, HashedMessage: request.HashedMessage, Nonce: request.Nonce,
			Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, Time: time.Now(),
			AddTSACertificate: request.Certificates, ExtraExtensions: request.Extensions,
		}
		response, err := stamp.CreateResponseWithOpts(i.stamper.certificate, i.stamper.key, crypto.SHA256)
		if err != nil {
			refuse(w, http.StatusInternalServerError, "%v", err)
			return
		}
		w.Header().Set("Content-Type", "application/timestamp-reply")
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(response)
	})
	return mux
}
