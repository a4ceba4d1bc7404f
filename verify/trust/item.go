package trust

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/rescue"
	"github.com/cosentry/cosentry/verify/trustroot"
)

const (
	keyLimit  = 30 * time.Second // for one try to get a key
	ruleLimit = 30 * time.Second // for one try to get a rule
	rootLimit = 2 * time.Minute  // for one try to get a trust root: a chain of small files
)

// notFetchedYet is the Error of something that no try has ended for.
const notFetchedYet = "not fetched yet"

// errNotAsked is wrapped by the error for such a thing where no try is going to begin.
var errNotAsked = errors.New("not asked here: use --online")

var fetchesAtOnce = limits.Fetches.Max()

// itemID is what an item is known by: a URI, a URL or a trust root's name; and what else makes it another one.
type itemID struct {
	kind, name string
	what       string
}

func (id itemID) String() string {
	if id.kind == KindRoot {
		return rootName(id.name)
	}
	return id.name
}

// item is something that is fetched in the background.
type item struct {
	id itemID
	// fetch gets it over the network and keeps it on disk. What it returns is whole and checked.
	fetch func(context.Context) (*content, error)
	limit time.Duration // for one fetch
	every time.Duration // between fetches; 0: once is enough, it never changes
	// builtIn is the root that is used while no other was fetched: the public-good instance's alone has one.
	builtIn *trustroot.Root

	// The rest is under Keeper.mu.
	content  *content      // what is in force; nil: never had, or gone
	err      error         // of the last try, if it failed
	gone     bool          // err is its source's word that there is no such thing
	disk     string        // how the disk differs from that; empty: it does not
	failures int           // in a row
	due      time.Time     // by the time of day, see clock
	again    bool          // Again was called while a try was under way
	trying   bool          // a try is under way
	running  bool          // a call to fetch has not come back, even if nobody waits for it any more
	attempt  chan struct{} // closed when the last try is over
}

// content is what was fetched. It is not changed.
type content struct {
	text     string          // a PEM public key, or a rule
	root     *trustroot.Root // or a trust root
	revision string          // a hash of it
	fetched  time.Time
}

// begin starts a try, unless one is under way or was left behind, and gives what is closed at its end. It is called
// under k.mu.
func (k *Keeper) begin(ctx context.Context, it *item) <-chan struct{} {
	if it.trying || it.running {
		return it.attempt
	}
	it.trying, it.attempt = true, make(chan struct{})
	go k.try(ctx, it, it.attempt)
	return it.attempt
}

type outcome struct {
	content *content
	err     error
}

// try fetches it once, when there is a place. Libraries that do not come back at the end of their time are left
// behind: their place is free for others, and the item is not tried again until they do.
func (k *Keeper) try(ctx context.Context, it *item, over chan struct{}) {
	defer close(over)
	defer k.set(&it.trying, false)
	select {
	case k.slots <- struct{}{}:
		defer func() { <-k.slots }()
	case <-ctx.Done():
		return
	}
	limited, cancel := context.WithTimeout(ctx, it.limit)
	defer cancel()
	done := make(chan outcome, 1)
	k.set(&it.running, true)
	go func() {
		var o outcome
		o.err = rescue.Do(k.log, "fetching "+it.id.kind+" "+quote(it.id.String()), func() (err error) {
			o.content, err = it.fetch(limited)
			return err
		})
		k.set(&it.running, false) // before the outcome is known: who has seen it may begin the next
		done <- o
	}()
	var o outcome
	select {
	case o = <-done:
	case <-limited.Done():
		select {
		case o = <-done: // both at once
		default:
			o.err = fmt.Errorf("no answer within %s", it.limit)
		}
	}
	if ctx.Err() == nil {
		k.record(it, o)
	}
}

// set changes what an item is doing, and has Run look again.
func (k *Keeper) set(what *bool, to bool) {
	k.mu.Lock()
	*what = to
	k.mu.Unlock()
	signal(k.wake)
}

// record takes what a try came to.
func (k *Keeper) record(it *item, o outcome) {
	now := k.now()
	k.mu.Lock()
	before, failed := it.content, it.err
	it.err, it.gone = o.err, false
	switch {
	case o.err == nil:
		it.content, it.failures = o.content, 0
	case isGone(o.err):
		it.content, it.gone = nil, true
		fallthrough
	default:
		it.failures++
	}
	it.due = now.Add(it.pause(now))
	if it.again {
		it.again = false
		it.sooner(now.Add(rand.N(spread)))
	}
	news := !same(before, it.content)
	first := (failed == nil) != (o.err == nil)
	after := it.content
	k.mu.Unlock()

	k.tell(it.id, o.err, after, news, first)
	if k.opts.Observe != nil {
		k.opts.Observe(it.id.kind, it.id.String(), o.err)
	}
	if news || first {
		signal(k.changed)
	}
}

// tell logs what is new. That something still fails is not.
func (k *Keeper) tell(id itemID, err error, after *content, news, first bool) {
	args := []any{"kind", id.kind, "name", quote(id.String())}
	switch {
	case err != nil && news:
		k.log.Error("what policies refer to is gone, as its source says; what needs it is refused", append(args, "error", brief(err))...)
	case err != nil && first && id.kind == KindRoot && id.name == "":
		k.log.Warn("the public-good instance's trust root could not be fetched; the one that is built in, or was fetched before, stays in use until it expires", append(args, "error", brief(err))...)
	case err != nil && first && after == nil:
		k.log.Warn("what policies refer to could not be fetched; what needs it is refused until it is", append(args, "error", brief(err))...)
	case err != nil && first:
		k.log.Warn("what policies refer to could not be fetched again; what was fetched before stays in use", append(args, "error", brief(err))...)
	case err == nil && news:
		k.log.Info("fetched what policies refer to", append(args, "revision", short(after.revision))...)
	case err == nil && first:
		k.log.Info("what policies refer to can be fetched again", args...)
	default:
		k.log.Debug("tried to fetch what policies refer to", append(args, "error", err)...)
	}
}

func same(a, b *content) bool {
	return a == b || a != nil && b != nil && a.revision == b.revision
}

// state is how things stand with an item.
func (k *Keeper) state(it *item) State {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := State{Name: it.id.String(), Kind: it.id.kind, OK: it.content != nil}
	if it.content != nil {
		s.Fetched = it.content.fetched
	}
	s.Disk = it.disk
	switch {
	case it.err != nil:
		s.Error = brief(it.err)
	case it.content == nil:
		s.Error = notFetchedYet
	}
	return s
}

// absent is the error for an item that there is no content of. Its words are those of the last try at the time when
// they are read: a Snapshot lives on through many.
type absent struct {
	what  string
	class error
	k     *Keeper
	it    *item
}

// untried says that nobody was asked, and nobody will be. It is called under k.mu.
func (a *absent) untried() bool {
	return a.k.opts.Offline && a.it.err == nil && a.it.content == nil
}

// Is tells errors.Is of errNotAsked.
func (a *absent) Is(target error) bool {
	if target != errNotAsked {
		return false
	}
	a.k.mu.Lock()
	defer a.k.mu.Unlock()
	return a.untried()
}

func (a *absent) Unwrap() error { return a.class }

func (a *absent) Error() string {
	a.k.mu.Lock()
	defer a.k.mu.Unlock()
	why := notFetchedYet
	switch {
	case a.untried():
		why = errNotAsked.Error()
	case a.it.err != nil:
		why = brief(a.it.err)
	case a.it.content != nil:
		why = "it has just been fetched, try again"
	}
	return fmt.Sprintf("%s: %s: %s", a.what, a.class, why)
}
