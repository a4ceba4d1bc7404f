package sigstore

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// handler serves the part of Rekor's API that clients use for signing and for looking up.
func (l *ledger) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/log/entries", l.create)
	mux.HandleFunc("GET /api/v1/log/entries/{name}", func(w http.ResponseWriter, r *http.Request) {
		place, ok := l.find(r.PathValue("name"))
		if !ok {
			refuse(w, http.StatusNotFound, "no entry of this name")
			return
		}
		l.answer(w, r, http.StatusOK, place)
	})
	mux.HandleFunc("GET /api/v1/log/entries", func(w http.ResponseWriter, r *http.Request) {
		place, err := strconv.Atoi(r.URL.Query().Get("logIndex"))
		if err != nil {
			refuse(w, http.StatusBadRequest, "reading logIndex: %v", err)
			return
		}
		l.answer(w, r, http.StatusOK, place)
	})
	mux.HandleFunc("POST /api/v1/log/entries/retrieve", l.retrieve)
	mux.HandleFunc("POST /api/v1/index/retrieve", l.search)
	mux.HandleFunc("GET /api/v1/log", l.info)
	mux.HandleFunc("GET /api/v1/log/publicKey", func(w http.ResponseWriter, _ *http.Request) {
		text, err := cryptoutils.MarshalPublicKeyToPEM(public(l.key))
		if err != nil {
			refuse(w, http.StatusInternalServerError, "%v", err)
			return
		}
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(text)
	})
	return mux
}

func (l *ledger) create(w http.ResponseWriter, r *http.Request) {
	var proposed json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&proposed); err != nil {
		refuse(w, http.StatusBadRequest, "reading the request: %v", err)
		return
	}
	e, err := canonical(r.Context(), proposed)
	if err != nil {
		refuse(w, http.StatusBadRequest, "%v", err)
		return
	}
	place, added := l.add(e)
	if !added {
		_, name, err := l.response(r.Context(), place)
		if err != nil {
			refuse(w, http.StatusInternalServerError, "%v", err)
			return
		}
		w.Header().Set("Location", "/api/v1/log/entries/"+name)
		refuse(w, http.StatusConflict, "an equivalent entry exists with name %s", name)
		return
	}
	l.answer(w, r, http.StatusCreated, place)
}

// retrieve looks entries up by what they hold, by their names or by their places.
func (l *ledger) retrieve(w http.ResponseWriter, r *http.Request) {
	var query struct {
		Entries    []json.RawMessage `json:"entries"`
		EntryUUIDs []string          `json:"entryUUIDs"`
		LogIndexes []int             `json:"logIndexes"`
	}
	if err := json.NewDecoder(r.Body).Decode(&query); err != nil {
		refuse(w, http.StatusBadRequest, "reading the request: %v", err)
		return
	}
	places := query.LogIndexes
	for _, proposed := range query.Entries {
		e, err := canonical(r.Context(), proposed)
		if err != nil {
			refuse(w, http.StatusBadRequest, "%v", err)
			return
		}
		if place, ok := l.find(fmt.Sprintf("%x", e.leafHash)); ok {
			places = append(places, place)
		}
	}
	for _, name := range query.EntryUUIDs {
		if place, ok := l.find(name); ok {
			places = append(places, place)
		}
	}
	found := []map[string]models.LogEntryAnon{}
	for _, place := range places {
		response, _, err := l.response(r.Context(), place)
		if err != nil {
			refuse(w, http.StatusNotFound, "%v", err)
			return
		}
		found = append(found, response)
	}
	writeJSON(w, http.StatusOK, found)
}

func (l *ledger) search(w http.ResponseWriter, r *http.Request) {
	var query struct {
		Hash string `json:"hash"`
	}
	if err := json.NewDecoder(r.Body).Decode(&query); err != nil {
		refuse(w, http.StatusBadRequest, "reading the request: %v", err)
		return
	}
	writeJSON(w, http.StatusOK, l.indexed(query.Hash))
}

func (l *ledger) info(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	checkpoint, rootHash, err := l.head(r.Context())
	if err != nil {
		refuse(w, http.StatusInternalServerError, "%v", err)
		return
	}
	size, tree := int64(len(l.entries)), strconv.FormatInt(treeID, 10)
	writeJSON(w, http.StatusOK, models.LogInfo{
		RootHash: &rootHash, SignedTreeHead: &checkpoint, TreeID: &tree, TreeSize: &size,
		InactiveShards: []*models.InactiveShardLogInfo{},
	})
}

func (l *ledger) answer(w http.ResponseWriter, r *http.Request, status, place int) {
	response, name, err := l.response(r.Context(), place)
	if err != nil {
		refuse(w, http.StatusNotFound, "%v", err)
		return
	}
	w.Header().Set("ETag", name)
	w.Header().Set("Location", "/api/v1/log/entries/"+name)
	writeJSON(w, status, response)
}

func writeJSON(w http.ResponseWriter, status int, what any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(what) // the client is gone if it fails
}
