package trust

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust/kms"
)

// keysFolder is where KMS keys are kept in CacheDir.
const keysFolder = "keys"

// keptKey is the file of a key that was fetched.
type keptKey struct {
	URI     string    `json:"uri"` // the file's name is its hash alone
	PEM     string    `json:"pem"`
	Fetched time.Time `json:"fetched"`
}

func isGone(err error) bool { return errors.Is(err, kms.ErrGone) }

// newKeyItem is the public key that a KMS holds, with what was kept of it.
func (k *Keeper) newKeyItem(uri string) *item {
	it := &item{id: keyItemID(uri), limit: keyLimit, every: min(k.opts.Refresh, time.Hour)}
	it.fetch = func(ctx context.Context) (*content, error) {
		pem, err := k.fetchKey(ctx, uri)
		if isGone(err) {
			// A restart must not bring it back.
			k.onDisk(it, stillKept, k.store.remove(keysFolder, uri))
		}
		if err != nil {
			return nil, err
		}
		c, err := keyContent(pem, k.now())
		if err != nil {
			return nil, fmt.Errorf("what the service gave as its public key: %w", err)
		}
		file, err := json.Marshal(keptKey{URI: uri, PEM: pem, Fetched: c.fetched})
		if err != nil {
			return nil, err
		}
		k.onDisk(it, notKept, k.store.write(keysFolder, uri, file))
		return c, nil
	}
	if c, err := k.recallKey(uri); err == nil {
		it.content = c
		it.due = dueAfter(c.fetched, it.every, k.now())
	} else if !errors.Is(err, fs.ErrNotExist) {
		k.log.Warn("a key that was kept on disk cannot be used and is fetched again", "name", quote(uri), "error", brief(err))
	}
	return it
}

func keyItemID(uri string) itemID { return itemID{kind: KindKMS, name: uri} }

func (k *Keeper) recallKey(uri string) (*content, error) {
	data, err := k.store.read(keysFolder, uri, limits.KeptKey)
	if err != nil {
		return nil, err
	}
	var kept keptKey
	if err := json.Unmarshal(data, &kept); err != nil {
		return nil, fmt.Errorf("%w: not the file of a key", ErrInvalid)
	}
	if kept.URI != uri {
		return nil, fmt.Errorf("%w: it is the key of %s", ErrInvalid, quote(kept.URI))
	}
	return keyContent(kept.PEM, kept.Fetched)
}

// keyContent checks that pem is one key that a policy may have.
func keyContent(pem string, fetched time.Time) (*content, error) {
	if err := limits.KeptKey.Check(int64(len(pem))); err != nil {
		return nil, err
	}
	keys, err := policy.ParsePublicKeys([]byte(pem), crypto.SHA256, false)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(keys) != 1 {
		return nil, fmt.Errorf("%w: %d keys, and not one", ErrInvalid, len(keys))
	}
	return &content{text: pem, revision: hashOf(keys[0].Fingerprint), fetched: fetched}, nil
}

// dueAfter is when something kept is fetched again. A time in the future is a clock that was wrong.
func dueAfter(fetched time.Time, every time.Duration, now time.Time) time.Time {
	if fetched.After(now) {
		return now
	}
	return fetched.Add(jitter(every))
}

const (
	notKept   = "is not kept on disk, a restart would have to fetch it again"
	stillKept = "is gone at its source and cannot be removed from disk, a restart would use it again"
)

// onDisk takes what came of writing an item's file, or removing it. What is not on disk is used all the same; that it
// is missing after a restart without network is told, once in the log and for as long as it lasts in the state.
func (k *Keeper) onDisk(it *item, what string, err error) {
	text := ""
	if err != nil {
		text = what + ": " + brief(err)
	}
	k.mu.Lock()
	news := text != "" && it.disk == ""
	it.disk = text
	k.mu.Unlock()
	if news {
		k.log.Warn("what was fetched is used, and the disk does not follow", "kind", it.id.kind, "name", quote(it.id.String()), "folder", k.opts.CacheDir, "error", text)
	}
}

func hashOf(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func short(revision string) string { return revision[:min(len(revision), 16)] }
