package trust

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trustroot"
)

// rootsFolder is where copies of TUF repositories are kept in CacheDir.
const rootsFolder = "roots"

// publicGoodName is what the root without a name is called.
const publicGoodName = "public-good"

func rootName(name string) string { return cmp.Or(name, publicGoodName) }

// parsed is what a Resolve has read and the next one would read alike.
type parsed struct {
	rules      map[string]error           // by the hash of kind and text: what Check said
	roots      map[string]*trustroot.Root // by the hash of what they were read from
	publicGood *trustroot.Root
}

type rootOrError struct {
	root *trustroot.Root
	err  error
	// item, if there is one, says what the background makes of it.
	item *item
	// source and field are where the root is described; empty for the public-good instance's.
	source, field string
}

// resolveRoots reads all trust roots there are, whether or not a policy names them: an owner who has written one down
// wants to know that it is good. A name that policies use and that no root has is among them, as an error: who looks at
// the state of this node must see what fails for it.
func (k *Keeper) resolveRoots(set *policy.Set, w *wanted, fetched map[itemID]got) map[string]rootOrError {
	before := k.parsed.roots
	k.parsed.roots = map[string]*trustroot.Root{}
	roots := map[string]rootOrError{"": k.resolvePublicGood(w, fetched)}
	if set != nil {
		for _, t := range set.TrustRoots() {
			r := rootOrError{source: t.Source, field: "spec"}
			if t.Remote != nil {
				r.root, r.item, r.err = k.remoteRoot(remoteItemID(t.Name, *t.Remote), t.Name, fetched)
			} else {
				r.root, r.err = k.once(before, documentHash(t), func() (*trustroot.Root, error) { return fromDocument(t, k.now()) })
				r.err = rootTrouble("trust root "+quote(t.Name), r.err)
			}
			roots[t.Name] = r
		}
	}
	for _, f := range k.opts.Roots {
		what := "trust root " + quote(f.Name)
		if doc, both := roots[f.Name]; both {
			// Choosing one would let whoever may write the other believe that theirs counts.
			doc.root, doc.item, doc.field = nil, nil, "metadata.name"
			doc.err = fmt.Errorf("%s: %w: both a TrustRoot document and the settings (trust.roots, %s) have this name: rename one", what, ErrInvalid, quote(f.Path))
			roots[f.Name] = doc
			continue
		}
		r := rootOrError{source: f.Path, field: "trust.roots"}
		data, err := readFile(f.Path, limits.TrustedRoot)
		if err != nil {
			r.err = fmt.Errorf("%s: %w", what, err)
		} else {
			r.root, r.err = k.once(before, hashOf("file", string(data)), func() (*trustroot.Root, error) { return trustroot.FromJSON(data) })
			r.err = rootTrouble(what, r.err)
		}
		roots[f.Name] = r
	}
	for name := range w.roots {
		if _, there := roots[name]; !there {
			roots[name] = rootOrError{err: noRoot(name)}
		}
	}
	return roots
}

func noRoot(name string) error {
	return fmt.Errorf("trust root %s: %w: no TrustRoot document and no file of the settings (trust.roots) has this name", quote(name), ErrMissing)
}

// once reads a root unless the last Resolve has read the same.
func (k *Keeper) once(before map[string]*trustroot.Root, hash string, read func() (*trustroot.Root, error)) (*trustroot.Root, error) {
	r := before[hash]
	if r == nil {
		var err error
		if r, err = read(); err != nil {
			return nil, err
		}
	}
	k.parsed.roots[hash] = r
	return r, nil
}

// rootTrouble tells a root whose time is over from one that is wrong.
func rootTrouble(what string, err error) error {
	if err == nil {
		return nil
	}
	if expired := new(trustroot.ExpiredError); errors.As(err, &expired) {
		return fmt.Errorf("%s: %w: %w", what, ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w: %w", what, ErrInvalid, err)
}

func fromDocument(t *policy.TrustRoot, now time.Time) (*trustroot.Root, error) {
	switch {
	case t.Keys != nil:
		return trustroot.FromKeys(t.Keys)
	case t.Repository != nil:
		return trustroot.FromRepository(t.Repository, now)
	case len(t.JSON) > 0:
		return trustroot.FromJSON(t.JSON)
	}
	return nil, errors.New("the document holds no root")
}

func documentHash(t *policy.TrustRoot) string {
	if r := t.Repository; r != nil {
		return hashOf("repository", string(r.Root), string(r.MirrorFS), r.Targets, r.Target)
	}
	keys, err := json.Marshal(t.Keys)
	if err != nil {
		keys = nil // plain data: it cannot fail
	}
	return hashOf("document", string(keys), string(t.JSON))
}

func remoteItemID(name string, r policy.TUFRemote) itemID {
	return itemID{KindRoot, name, hashOf(r.Mirror, string(r.Root), r.Targets, r.Target)}
}

// remoteRoot is what is had of a TUF repository on a server.
func (k *Keeper) remoteRoot(id itemID, name string, fetched map[itemID]got) (*trustroot.Root, *item, error) {
	g, ok := fetched[id]
	switch {
	case !ok && k.opts.Offline:
		return nil, nil, fmt.Errorf("trust root %s: %w: %w", quote(name), ErrUnavailable, errNotAsked)
	case !ok:
		return nil, nil, fmt.Errorf("trust root %s: %w: there is no folder to keep it in (trust.cacheDir)", quote(name), ErrUnavailable)
	case g.content == nil:
		return nil, g.item, g.absent("trust root " + quote(name))
	}
	return g.content.root, g.item, nil
}

// resolvePublicGood chooses between the root that is built in and the one that was fetched. The fetched one counts as
// long as it is not older than it may be. After that, the one that is built in counts if it trusts just the same. If it
// does not it would be a step back to authorities that may have been dropped since, for which it would be enough to cut
// the node off.
func (k *Keeper) resolvePublicGood(w *wanted, fetched map[itemID]got) rootOrError {
	builtIn := k.builtIn()
	if !k.updates(w) {
		return rootOrError{root: builtIn}
	}
	g := fetched[remoteItemID("", k.publicGood)]
	if g.content == nil {
		return rootOrError{root: builtIn, item: g.item}
	}
	return rootOrError{root: newerOf(builtIn, g.content.root), item: g.item}
}

// builtIn is the public-good instance's root as it was when this program was built. It is called under k.resolving.
func (k *Keeper) builtIn() *trustroot.Root {
	if k.parsed.publicGood == nil {
		k.parsed.publicGood = trustroot.PublicGood()
	}
	return k.parsed.publicGood
}

// newerOf is the fetched root, with the later end of the two if they trust just the same.
func newerOf(builtIn, fetched *trustroot.Root) *trustroot.Root {
	r := *fetched
	if r.Revision == builtIn.Revision && builtIn.Expires.After(r.Expires) {
		r.Expires = builtIn.Expires
	}
	return &r
}

// updates says whether the public-good instance is asked for a newer root.
func (k *Keeper) updates(w *wanted) bool {
	return k.opts.UpdatePublicGood && k.opts.CacheDir != "" && w.roots[""]
}

// rootMakers are the items for TUF repositories on servers.
func (k *Keeper) rootMakers(set *policy.Set, w *wanted) map[itemID]func() *item {
	makers := map[itemID]func() *item{}
	if k.opts.CacheDir == "" {
		return makers
	}
	add := func(name string, r policy.TUFRemote) {
		id := remoteItemID(name, r)
		makers[id] = func() *item { return k.newRootItem(id, r) }
	}
	if set != nil {
		for _, t := range set.TrustRoots() {
			if t.Remote != nil {
				add(t.Name, *t.Remote)
			}
		}
	}
	if k.updates(w) {
		add("", k.publicGood)
	}
	return makers
}

// newRootItem is a TUF repository on a server, with what was kept of it.
func (k *Keeper) newRootItem(id itemID, r policy.TUFRemote) *item {
	remote := trustroot.NewRemote(r, filepath.Join(k.opts.CacheDir, rootsFolder), trustroot.RemoteOptions{})
	it := &item{id: id, limit: rootLimit, every: k.opts.Refresh}
	if id.name == "" {
		it.builtIn = k.builtIn()
	}
	it.fetch = func(ctx context.Context) (*content, error) {
		root, err := remote.Refresh(ctx)
		if err != nil {
			return nil, err
		}
		k.onDisk(it, notKept, remote.Unwritten())
		return rootContent(root, k.now()), nil
	}
	// What has expired is asked for as well: that it was there is worth knowing, and it says itself that it is over.
	root, err := remote.Kept(time.Time{})
	switch {
	case err == nil:
		it.content = rootContent(root, time.Time{})
	case !errors.Is(err, trustroot.ErrNotKept):
		k.log.Warn("a trust root that was kept on disk cannot be used and is fetched again", "name", quote(id.String()), "error", brief(err))
	}
	return it
}

// rootContent is a new version also if only its end is: whoever holds the old one would stop at its end.
func rootContent(r *trustroot.Root, fetched time.Time) *content {
	return &content{root: r, revision: hashOf(r.Revision, r.Expires.UTC().Format(time.RFC3339Nano)), fetched: fetched}
}

// rootStates are the States of all trust roots.
func (k *Keeper) rootStates(s *Snapshot) []func() State {
	var states []func() State
	for _, name := range sortedNames(s.roots) {
		r := s.roots[name]
		states = append(states, func() State {
			st := State{Name: rootName(name), Kind: KindRoot}
			if r.item != nil {
				st = k.state(r.item)
			}
			st.OK = r.err == nil
			if r.root != nil {
				st.Expires, st.Ends, st.From = r.root.Expires, r.root.Ends, r.root.From
				if err := r.root.Expired(k.now()); err != nil {
					st.OK, st.Error = false, brief(err)
				}
			}
			if r.err != nil {
				st.Error = brief(r.err)
			} else if st.Error == notFetchedYet {
				st.Error = ""
			}
			return st
		})
	}
	return states
}

func sortedNames(roots map[string]rootOrError) []string {
	names := make([]string, 0, len(roots))
	for name := range roots {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
