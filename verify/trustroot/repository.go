package trustroot

import (
	"errors"
	"fmt"
	"time"

	"github.com/cosentry/cosentry/verify/policy"
)

// FromRepository reads the trust root of a TUF repository that came with a document, without a network.
//
// Signatures, thresholds, versions and hashes are checked by TUF's rules from the document's own root.json on. Root,
// snapshot and targets must not have expired at now: if one has, the error is an [*ExpiredError] that says when. The
// timestamp may have. It tells a client that the server it asks is not holding back something newer; nobody is asked
// here, the copy is as new as the document, and a timestamp is good for a few days only, so that a node without a network
// would stop each week.
func FromRepository(r *policy.TUFRepository, now time.Time) (*Root, error) {
	return rescued("reading a TUF repository", func() (*Root, error) {
		if r == nil || len(r.Root) == 0 || len(r.MirrorFS) == 0 {
			return nil, errors.New("reading a TUF repository: its root.json or its archive is missing")
		}
		all, err := unpack(r.MirrorFS)
		if err != nil {
			return nil, fmt.Errorf("reading a TUF repository's archive: %w", err)
		}
		opened, err := open(r.Root, newPlace(r.Targets, r.Target), all)
		if err != nil {
			return nil, fmt.Errorf("reading a TUF repository: %w", err)
		}
		if err := opened.fresh(now); err != nil {
			return nil, fmt.Errorf("reading a TUF repository: %w", err)
		}
		opened.root.From = fmt.Sprintf("TUF repository of the document (%s)", opened)
		return opened.root, nil
	})
}

// opened is a repository that was verified without a network, and what it says.
type opened struct {
	*verified
	root *Root
}

// open verifies files from a trusted root.json on. Expiry is the caller's part: fresh.
func open(trusted []byte, at place, all files) (*opened, error) {
	v, err := follow(trusted, nowhere, all.read, always)
	if err != nil {
		return nil, err
	}
	r, err := v.material(at, all.read)
	if err != nil {
		return nil, err
	}
	_, r.Expires = v.expires()
	return &opened{v, r}, nil
}
