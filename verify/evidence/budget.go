package evidence

import (
	"io"
	"sync"

	"github.com/cosentry/cosentry/verify/limits"
)

// budget counts what is read for one question, wherever it comes from and whatever it is. The bounds on single
// documents leave a registry room for gigabytes: 128 referrers by either way, each with a manifest and bundles.
type budget struct {
	material limits.Bound // on the bytes
	stop     func()       // called once there is too much; may be nil

	mu              sync.Mutex
	bytes, elements int64
	over            error
}

// readAll reads a document of at most bound. It counts each byte as it comes, and the document's elements before
// anybody can parse it. An error from here is met again by everything that is read later.
func (b *budget) readAll(r io.Reader, bound limits.Bound) ([]byte, error) {
	raw, err := bound.ReadAll(counted{r, b})
	if err == nil {
		err = b.spend(0, limits.CountElements(raw))
	}
	if err != nil {
		return nil, err
	}
	return raw, nil
}

func (b *budget) spend(bytes, elements int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes += bytes
	b.elements += elements
	if b.over != nil {
		return b.over
	}
	if b.over = b.material.Check(b.bytes); b.over == nil {
		b.over = limits.Elements.Check(b.elements)
	}
	if b.over != nil && b.stop != nil {
		b.stop()
	}
	return b.over
}

// exceeded is the error once there was too much.
func (b *budget) exceeded() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.over
}

type counted struct {
	from   io.Reader
	budget *budget
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	if over := c.budget.spend(int64(n), 0); over != nil {
		return n, over
	}
	return n, err
}
