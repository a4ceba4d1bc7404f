package trust

import (
	"math/rand/v2"
	"time"

	"github.com/cosentry/cosentry/verify/trustroot"
)

// How long an item is left alone after a try.
//
// What policies lack is tried again within lastWanted, because every pod that needs it is refused until it is there. Of
// 10,000 nodes that all lack the same thing 67 a second ask its source (10,000 in 150 s, the mean of full jitter), and no
// moment has more than another, so that a source that is back after an outage meets no wave. One that grants fewer, as some
// services do for their largest keys (25 a second), turns the rest away, who come again: it has served all in 7 minutes.
//
// What is kept and works is tried again within lastKept: nobody waits for it, and 10,000 nodes are then 3 a second.
const (
	firstWanted = 5 * time.Second // what policies lack; the time doubles up to lastWanted
	lastWanted  = 5 * time.Minute
	firstKept   = time.Minute // what is kept; the time doubles up to lastKept
	lastKept    = time.Hour
	// nearEnd is how long before its end a root is tried again as if it were over. A kept one is tried each hour, so without
	// this it could end between two tries.
	nearEnd = time.Hour
	// spread is the time over which that is begun which is due on every node at once: a fleet that is told to reload. 10,000
	// nodes in one second would be 2,000 requests a second; docs/operations.md says to reload them in parts.
	spread = 5 * time.Second
)

// Again has everything asked for again within seconds, whether or not the last try failed: an owner who says so has mended or
// changed something elsewhere. It puts nothing off, so that saying so on and on keeps nothing from being fetched. What
// never changes and is there is not asked for.
func (k *Keeper) Again() {
	now := k.now()
	k.mu.Lock()
	for _, it := range k.items {
		it.again = it.trying // that try may have asked before the owner was done
		it.sooner(now.Add(rand.N(spread)))
	}
	k.mu.Unlock()
	signal(k.wake)
}

// sooner has an item be due then, if it is not before.
func (it *item) sooner(then time.Time) {
	if then.Before(it.due) {
		it.due = then
	}
}

// pause is how long an item is left alone after a try that ended now. It is called under k.mu.
func (it *item) pause(now time.Time) time.Duration {
	switch wanting := it.wanting(now); {
	case wanting && it.err != nil:
		return full(retryAfter(it.failures, firstWanted, lastWanted))
	case wanting: // its source has nothing that lasts longer
		return full(lastWanted)
	}
	d := jitter(it.every)
	switch {
	case it.err != nil:
		d = jitter(retryAfter(it.failures, firstKept, lastKept))
	case it.disk != "":
		// Perhaps it can be kept then. What is fetched more often than that still is.
		if d = jitter(lastKept); it.every > 0 {
			d = jitter(min(it.every, lastKept))
		}
	}
	if r := it.root(); r != nil && !r.Expires.IsZero() {
		if left := r.Expires.Add(-nearEnd).Sub(now); left < d {
			// The end is the same on all nodes, so that they ask over half an hour and not at one moment.
			d = min(d, left+rand.N(nearEnd/2))
		}
	}
	return d
}

// wanting reports whether policies cannot use what an item stands for, or soon cannot. It is called under k.mu.
func (it *item) wanting(now time.Time) bool {
	if it.id.kind != KindRoot {
		return it.content == nil
	}
	r := it.root()
	return r == nil || !r.Expires.IsZero() && !now.Before(r.Expires.Add(-nearEnd))
}

// root is the trust root that an item has policies use; nil: none. It is called under k.mu.
func (it *item) root() *trustroot.Root {
	switch {
	case it.content == nil:
		return it.builtIn
	case it.builtIn != nil:
		return newerOf(it.builtIn, it.content.root)
	}
	return it.content.root
}

// retryAfter is how long to wait after so many failures in a row.
func retryAfter(failures int, first, last time.Duration) time.Duration {
	d := first
	for ; failures > 1 && d < last; failures-- {
		d *= 2
	}
	return min(d, last)
}

// full spreads what many nodes would do at one time over all of d.
func full(d time.Duration) time.Duration { return time.Millisecond + rand.N(max(d, 1)) }

// jitter spreads what many nodes would do at one time by a tenth in each direction.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return d
	}
	return d - d/10 + rand.N(d/5+1)
}
