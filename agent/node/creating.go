package node

import (
	"context"
	"sync"
)

// creating knows the containers that are being created just now.
type creating struct {
	mu  sync.Mutex
	now map[chan struct{}]struct{}
}

// Creating is called before the runtime is asked to create a container, and done when the call has ended. Before Alias
// gives a tag to another image it waits for the calls under way: containerd reads an image's names first and its bytes a
// moment later, and in that moment no name may come to stand for another image. A call that its client
// abandons has ended although the runtime may still be at it; kubelet starts no container of such a call.
func (n *Node) Creating() (done func()) {
	c := &n.creating
	ended := make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		c.now = map[chan struct{}]struct{}{}
	}
	c.now[ended] = struct{}{}
	return func() {
		c.mu.Lock()
		delete(c.now, ended)
		c.mu.Unlock()
		close(ended)
	}
}

// wait waits for the creates that are under way now; later ones are not its matter.
func (c *creating) wait(ctx context.Context) error {
	c.mu.Lock()
	under := make([]chan struct{}, 0, len(c.now))
	for ended := range c.now {
		under = append(under, ended)
	}
	c.mu.Unlock()
	for _, ended := range under {
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
