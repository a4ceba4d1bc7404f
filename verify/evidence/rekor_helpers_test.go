package evidence_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore/pkg/signature"
)

// rekor is a transparency log of one entry after the other: a real key, real signatures, and a tree for each entry. It
// takes entries and finds them as Rekor does, by Rekor's own code for what they are.
type rekor struct {
	t    *testing.T
	srv  *httptest.Server
	key  *ecdsa.PrivateKey
	id   string // hex of the key's hash
	seen []map[string]json.RawMessage

	mu      sync.Mutex
	entries map[string]models.LogEntryAnon // by leaf hash
	time    int64
	// meddle may answer a search in the log's place, by returning true.
	meddle func(w http.ResponseWriter, r *http.Request) bool
}

func newRekor(t *testing.T) *rekor {
	t.Helper()
	key := newKey(t)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	id := sha256.Sum256(der)
	l := &rekor{t: t, key: key, id: hex.EncodeToString(id[:]), entries: map[string]models.LogEntryAnon{}, time: time.Now().Add(-time.Hour).Unix()}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/log/entries", l.create)
	mux.HandleFunc("POST /api/v1/log/entries/retrieve", l.retrieve)
	l.srv = httptest.NewServer(mux)
	t.Cleanup(l.srv.Close)
	return l
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicPEM(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func (l *rekor) create(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	name, err := l.log(raw)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("ETag", name)
	w.Header().Set("Location", "/api/v1/log/entries/"+name)
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]models.LogEntryAnon{name: l.entries[name]})
}

// log takes a proposed entry in.
func (l *rekor) log(raw []byte) (name string, err error) {
	proposed, err := models.UnmarshalProposedEntry(bytes.NewReader(raw), jsonConsumer{})
	if err != nil {
		return "", err
	}
	entry, err := types.CreateVersionedEntry(proposed)
	if err != nil {
		return "", err
	}
	body, err := types.CanonicalizeEntry(context.Background(), entry)
	if err != nil {
		return "", err
	}
	root := sha256.Sum256(append([]byte{0}, body...))
	name = hex.EncodeToString(root[:])
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[name] = l.entry(body, root[:])
	return name, nil
}

// entry is signed as Rekor signs: a promise over the entry, and a checkpoint over the tree that holds it alone.
func (l *rekor) entry(body, root []byte) models.LogEntryAnon {
	text, index, zero, one := base64.StdEncoding.EncodeToString(body), int64(len(l.entries)), int64(0), int64(1)
	payload, err := json.Marshal(map[string]any{"body": text, "integratedTime": l.time, "logID": l.id, "logIndex": index})
	if err != nil {
		l.t.Fatal(err)
	}
	hash := sha256.Sum256(payload) // canonical already: a map's members are sorted, and there is nothing to escape
	promise, err := ecdsa.SignASN1(rand.Reader, l.key, hash[:])
	if err != nil {
		l.t.Fatal(err)
	}
	signer, err := signature.LoadSigner(l.key, crypto.SHA256)
	if err != nil {
		l.t.Fatal(err)
	}
	checkpoint, err := util.CreateAndSignCheckpoint(context.Background(), "rekor.example", 1, 1, root, signer)
	if err != nil {
		l.t.Fatal(err)
	}
	note, rootHash, id, when := string(checkpoint), hex.EncodeToString(root), l.id, l.time
	return models.LogEntryAnon{
		Body: text, IntegratedTime: &when, LogID: &id, LogIndex: &index,
		Verification: &models.LogEntryAnonVerification{
			SignedEntryTimestamp: promise,
			InclusionProof:       &models.InclusionProof{Checkpoint: &note, Hashes: []string{}, LogIndex: &zero, RootHash: &rootHash, TreeSize: &one},
		},
	}
}

// retrieve finds entries by their hash and by what was proposed.
func (l *rekor) retrieve(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.meddle != nil && l.meddle(w, r) {
		return
	}
	raw, err := io.ReadAll(r.Body)
	var members map[string]json.RawMessage
	var query models.SearchLogQuery
	if err == nil {
		err = json.Unmarshal(raw, &members)
	}
	if err == nil {
		err = json.Unmarshal(raw, &query)
	}
	if err != nil || len(query.EntryUUIDs)+len(query.Entries())+len(query.LogIndexes) > 10 {
		http.Error(w, fmt.Sprintf(`{"message":"%v"}`, err), http.StatusUnprocessableEntity)
		return
	}
	l.seen = append(l.seen, members)
	answer := []models.LogEntry{}
	for _, name := range query.EntryUUIDs {
		if entry, ok := l.entries[name]; ok {
			answer = append(answer, models.LogEntry{"0123456789abcdef" + name: entry})
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

type jsonConsumer struct{}

func (jsonConsumer) Consume(r io.Reader, v any) error { return json.NewDecoder(r).Decode(v) }

// answers makes the log say the same to every search.
func (l *rekor) answers(code int, body string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.meddle = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(code)
		_, _ = io.Copy(w, strings.NewReader(body))
		return true
	}
}
