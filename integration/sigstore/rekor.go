package sigstore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	"github.com/go-openapi/runtime"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"         // kinds of entries that
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1" // cosign writes
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

const (
	treeID     = int64(0x5e17)
	origin     = "rekor.sigstore.test"
	treePrefix = "0000000000005e17" // treeID, as entries' names begin
)

// ledger is a transparency log: entries in a Merkle tree, and a key that vouches for its head.
type ledger struct {
	key    *ecdsa.PrivateKey
	signer signature.Signer
	id     string // hex SHA-256 of the public key

	mu      sync.Mutex
	entries []entry
	byHash  map[string]int // hex leaf hash to place
}

type entry struct {
	body     []byte
	leafHash []byte
	logged   int64
	keys     []string // what it is found by
}

func newLedger() (*ledger, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	signer, err := signature.LoadECDSASigner(key, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public(key))
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(der)
	return &ledger{key: key, signer: signer, id: hex.EncodeToString(id[:]), byHash: map[string]int{}}, nil
}

// canonical reads a proposed entry as Rekor does, which checks its signature,
// and returns the bytes that stand in the log.
func canonical(ctx context.Context, proposed json.RawMessage) (entry, error) {
	pe, err := models.UnmarshalProposedEntry(bytes.NewReader(proposed), runtime.JSONConsumer())
	if err != nil {
		return entry{}, fmt.Errorf("reading the entry: %w", err)
	}
	impl, err := types.CreateVersionedEntry(pe)
	if err != nil {
		return entry{}, fmt.Errorf("checking the entry: %w", err)
	}
	body, err := types.CanonicalizeEntry(ctx, impl)
	if err != nil {
		return entry{}, fmt.Errorf("canonicalising the entry: %w", err)
	}
	keys, err := impl.IndexKeys()
	if err != nil {
		return entry{}, fmt.Errorf("indexing the entry: %w", err)
	}
	return entry{body: body, leafHash: rfc6962.DefaultHasher.HashLeaf(body), keys: keys}, nil
}

// add appends an entry; one that is there already is left where it is.
func (l *ledger) add(e entry) (place int, added bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := hex.EncodeToString(e.leafHash)
	if place, ok := l.byHash[name]; ok {
		return place, false
	}
	e.logged = time.Now().Unix()
	l.entries = append(l.entries, e)
	l.byHash[name] = len(l.entries) - 1
	return len(l.entries) - 1, true
}

// find returns the places of the entries that a name, an index key or a leaf hash stands for.
func (l *ledger) find(name string) (place int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name = strings.ToLower(name)
	if len(name) == len(treePrefix)+2*sha256.Size {
		var ours bool
		if name, ours = strings.CutPrefix(name, treePrefix); !ours {
			return 0, false
		}
	}
	place, ok = l.byHash[name]
	return place, ok
}

// indexed returns the names of the entries with this index key.
func (l *ledger) indexed(key string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	names := []string{}
	for _, e := range l.entries {
		if slices.Contains(e.keys, key) || slices.Contains(e.keys, "sha256:"+key) {
			names = append(names, treePrefix+hex.EncodeToString(e.leafHash))
		}
	}
	return names
}

// response is an entry with its proofs at the log's present size, under its name.
func (l *ledger) response(ctx context.Context, place int) (map[string]models.LogEntryAnon, string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if place < 0 || place >= len(l.entries) {
		return nil, "", fmt.Errorf("the log has no entry %d", place)
	}
	e := l.entries[place]
	body, index := base64.StdEncoding.EncodeToString(e.body), int64(place)
	promise, err := l.promise(body, e.logged, index)
	if err != nil {
		return nil, "", err
	}
	inclusion, err := l.inclusion(ctx, place)
	if err != nil {
		return nil, "", err
	}
	name := treePrefix + hex.EncodeToString(e.leafHash)
	return map[string]models.LogEntryAnon{name: {
		Body: body, IntegratedTime: &e.logged, LogID: &l.id, LogIndex: &index,
		Verification: &models.LogEntryAnonVerification{SignedEntryTimestamp: promise, InclusionProof: inclusion},
	}}, name, nil
}

// promise is the signed entry timestamp.
func (l *ledger) promise(body string, logged, index int64) ([]byte, error) {
	text, err := json.Marshal(map[string]any{"body": body, "integratedTime": logged, "logID": l.id, "logIndex": index})
	if err != nil {
		return nil, err
	}
	if text, err = jsoncanonicalizer.Transform(text); err != nil {
		return nil, err
	}
	return l.signer.SignMessage(bytes.NewReader(text))
}

func (l *ledger) inclusion(ctx context.Context, place int) (*models.InclusionProof, error) {
	size := uint64(len(l.entries))
	nodes, err := proof.Inclusion(uint64(place), size)
	if err != nil {
		return nil, err
	}
	var hashes [][]byte
	for _, id := range nodes.IDs {
		from, to := id.Coverage()
		hashes = append(hashes, l.root(from, to))
	}
	if hashes, err = nodes.Rehash(hashes, rfc6962.DefaultHasher.HashChildren); err != nil {
		return nil, err
	}
	checkpoint, rootHash, err := l.head(ctx)
	if err != nil {
		return nil, err
	}
	index, total := int64(place), int64(size)
	p := &models.InclusionProof{Checkpoint: &checkpoint, RootHash: &rootHash, LogIndex: &index, TreeSize: &total, Hashes: []string{}}
	for _, h := range hashes {
		p.Hashes = append(p.Hashes, hex.EncodeToString(h))
	}
	return p, nil
}

// head is the signed checkpoint and the hex root hash of the whole tree.
func (l *ledger) head(ctx context.Context) (checkpoint, rootHash string, err error) {
	hash := l.root(0, uint64(len(l.entries)))
	signed, err := util.CreateAndSignCheckpoint(ctx, origin, treeID, uint64(len(l.entries)), hash, l.signer)
	return string(signed), hex.EncodeToString(hash), err
}

// root is the hash of the entries from one place up to another, by RFC 6962's
// definition: the largest power of two to the left. A test's log is small.
func (l *ledger) root(from, to uint64) []byte {
	switch to - from {
	case 0:
		return rfc6962.DefaultHasher.EmptyRoot()
	case 1:
		return l.entries[from].leafHash
	}
	half := uint64(1)
	for half*2 < to-from {
		half *= 2
	}
	return rfc6962.DefaultHasher.HashChildren(l.root(from, from+half), l.root(from+half, to))
}
