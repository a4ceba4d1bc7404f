package trust

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
)

// rulesFolder is where remote rules are kept in CacheDir.
const rulesFolder = "rules"

// newRuleItem is a rule that a policy has by URL and hash, with what was kept of it. It cannot change: once is enough.
func (k *Keeper) newRuleItem(r policy.Remote) *item {
	it := &item{id: ruleItemID(r), limit: ruleLimit}
	it.fetch = func(ctx context.Context) (*content, error) {
		text, err := k.download(ctx, r)
		if err != nil {
			return nil, err
		}
		k.onDisk(it, notKept, k.store.write(rulesFolder, r.SHA256, text))
		return &content{text: string(text), revision: r.SHA256, fetched: k.now()}, nil
	}
	text, err := k.store.read(rulesFolder, r.SHA256, limits.RemoteRule)
	if err == nil {
		err = checkHash(text, r)
	}
	if err == nil {
		it.content = &content{text: string(text), revision: r.SHA256}
	} else if !errors.Is(err, fs.ErrNotExist) {
		k.log.Warn("a rule that was kept on disk cannot be used and is fetched again", "name", quote(r.URL), "error", brief(err))
	}
	return it
}

func ruleItemID(r policy.Remote) itemID { return itemID{KindRemote, r.URL, r.SHA256} }

func (k *Keeper) download(ctx context.Context, r policy.Remote) ([]byte, error) {
	u, err := url.Parse(r.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: not a URL", ErrInvalid)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: not a URL", ErrInvalid)
	}
	req.Header.Set("User-Agent", "cosentry")
	resp, err := k.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answers %d", resp.StatusCode)
	}
	text, err := limits.RemoteRule.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return text, checkHash(text, r)
}

func checkHash(text []byte, r policy.Remote) error {
	sum := sha256.Sum256(text)
	if hex.EncodeToString(sum[:]) != r.SHA256 {
		return fmt.Errorf("%w: its sha256 is %x, not the policy's", ErrInvalid, sum)
	}
	return nil
}
