package trust

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rescue"
	"github.com/cosentry/cosentry/verify/rules"
)

// wanted is all that a set of policies refers to.
type wanted struct {
	secrets    map[policy.Reference]bool // that hold keys or certificates
	configMaps map[policy.Reference]bool
	keys       map[keyID]bool
	certs      map[certID]bool
	rules      map[ruleID]bool
	kms        map[string]bool
	remotes    map[policy.Remote]bool
	roots      map[string]bool // by the names that policies use; the public-good instance's is empty
}

// keyID is what makes two keys of policies the same: where they are from, and what is done with them.
type keyID struct {
	secret  policy.Reference
	kms     string
	hash    uint
	written bool
}

func keyIDOf(k *policy.Key) keyID {
	id := keyID{kms: k.KMS, hash: uint(k.Hash), written: k.HashWritten}
	if k.Secret != nil {
		id.secret = *k.Secret
	}
	return id
}

// certID is the same for a ca-cert.
type certID struct {
	pem    string
	secret policy.Reference
}

func certIDOf(c *policy.Certificates) certID {
	if c.Secret != nil {
		return certID{secret: *c.Secret}
	}
	return certID{pem: c.PEM}
}

// ruleID is the same for a rule.
type ruleID struct {
	kind      string
	remote    policy.Remote
	configMap policy.Reference
}

func ruleIDOf(r *policy.Rule) ruleID {
	id := ruleID{kind: r.Type}
	if r.Remote != nil {
		id.remote = *r.Remote
	} else if r.ConfigMap != nil {
		id.configMap = *r.ConfigMap
	}
	return id
}

func gather(set *policy.Set) *wanted {
	w := &wanted{
		secrets: map[policy.Reference]bool{}, configMaps: map[policy.Reference]bool{},
		keys: map[keyID]bool{}, certs: map[certID]bool{}, rules: map[ruleID]bool{},
		kms: map[string]bool{}, remotes: map[policy.Remote]bool{}, roots: map[string]bool{},
	}
	if set == nil {
		return w
	}
	for _, p := range set.Policies() {
		for _, u := range uses(p) {
			switch {
			case u.key != nil:
				w.keys[keyIDOf(u.key)] = true
				if u.key.Secret != nil {
					w.secrets[*u.key.Secret] = true
				} else {
					w.kms[u.key.KMS] = true
				}
			case u.cert != nil:
				w.certs[certIDOf(u.cert)] = true
				if u.cert.Secret != nil {
					w.secrets[*u.cert.Secret] = true
				}
			case u.rule != nil:
				w.rules[ruleIDOf(u.rule)] = true
				if u.rule.Remote != nil {
					w.remotes[*u.rule.Remote] = true
				} else {
					w.configMaps[*u.rule.ConfigMap] = true
				}
			case u.root != nil:
				w.roots[*u.root] = true
			}
		}
	}
	return w
}

// Resolve looks up everything that the policies of a set refer to, in files and in what was fetched so far. It waits for
// no network. What it cannot have now is an error of the Snapshot, and is fetched by Run.
func (k *Keeper) Resolve(set *policy.Set) *Snapshot { return k.ResolveIn(set, Folder(k.opts.Dir)) }

// ResolveIn is Resolve with other Secrets and ConfigMaps than those of Options.Dir, of which nothing is read then.
func (k *Keeper) ResolveIn(set *policy.Set, held Files) *Snapshot {
	k.resolving.Lock()
	defer k.resolving.Unlock()
	w := gather(set)
	s := &Snapshot{
		files: held, now: k.now,
		keys: map[keyID]keysOrError{}, certs: map[certID]certsOrError{}, rules: map[ruleID]textOrError{},
	}
	files := readFiles(held, w)
	fetched := k.refresh(set, w)
	for id := range w.keys {
		s.keys[id] = resolveKeys(id, files, fetched)
	}
	for id := range w.certs {
		s.certs[id] = resolveCerts(id, files)
	}
	s.rules = k.resolveRules(w, files, fetched)
	s.roots = k.resolveRoots(set, w, fetched)
	s.revision = s.hash()
	k.remember(w, files, s)
	return s
}

// fileOrError is one file that was read.
type fileOrError struct {
	data []byte
	err  error
}

type fileSet map[held]fileOrError

func readFiles(from Files, w *wanted) fileSet {
	files := fileSet{}
	read := func(kind string, refs map[policy.Reference]bool) {
		for ref := range refs {
			data, err := from.Read(kind, ref)
			files[held{kind, ref}] = fileOrError{data, err}
		}
	}
	read(KindSecret, w.secrets)
	read(KindConfigMap, w.configMaps)
	return files
}

// got is what an item had at the time of a Resolve.
type got struct {
	k       *Keeper
	item    *item
	content *content
	gone    bool
}

// absent is the error for there being no content.
func (g got) absent(what string) error {
	class := ErrUnavailable
	if g.gone {
		class = ErrMissing
	}
	return &absent{what, class, g.k, g.item}
}

func resolveKeys(id keyID, files fileSet, fetched map[itemID]got) keysOrError {
	var data, what string
	if id.kms != "" {
		what = "KMS key " + quote(id.kms)
		g := fetched[keyItemID(id.kms)]
		if g.content == nil {
			return keysOrError{err: g.absent(what)}
		}
		data = g.content.text
	} else {
		h := held{KindSecret, id.secret}
		what = h.String()
		f := files[h]
		if f.err != nil {
			return keysOrError{err: f.err}
		}
		data = string(f.data)
	}
	var keys []policy.PublicKey
	err := rescue.Do(nil, "reading keys", func() (err error) {
		keys, err = policy.ParsePublicKeys([]byte(data), hashFunc(id.hash), id.written)
		return err
	})
	if err != nil {
		return keysOrError{err: fmt.Errorf("%s: %w: %w", what, ErrInvalid, err)}
	}
	return keysOrError{keys: keys}
}

func (k *Keeper) resolveRules(w *wanted, files fileSet, fetched map[itemID]got) map[ruleID]textOrError {
	resolved, checked := map[ruleID]textOrError{}, map[string]error{}
	for id := range w.rules {
		text, what, err := ruleText(id, files, fetched)
		if err == nil {
			// Compiling costs more than all else here, and the same text compiles again.
			key := hashOf(id.kind, text)
			wrong, done := k.parsed.rules[key]
			if !done {
				wrong = rules.Check(id.kind, text)
			}
			checked[key] = wrong
			if wrong != nil {
				err = fmt.Errorf("%s: %w: as a %s rule: %w", what, ErrInvalid, id.kind, wrong)
			}
		}
		resolved[id] = textOrError{text, err}
	}
	k.parsed.rules = checked
	return resolved
}

func ruleText(id ruleID, files fileSet, fetched map[itemID]got) (text, what string, err error) {
	if id.remote != (policy.Remote{}) {
		what = "remote rule " + quote(id.remote.URL)
		g := fetched[ruleItemID(id.remote)]
		if g.content == nil {
			return "", what, g.absent(what)
		}
		return g.content.text, what, nil
	}
	h := held{KindConfigMap, id.configMap}
	f := files[h]
	return string(f.data), h.String(), f.err
}

// refresh makes the items those that are wanted, and gives what they have. Whatever is new is fetched next by Run.
func (k *Keeper) refresh(set *policy.Set, w *wanted) map[itemID]got {
	makers := map[itemID]func() *item{}
	for uri := range w.kms {
		makers[keyItemID(uri)] = func() *item { return k.newKeyItem(uri) }
	}
	for r := range w.remotes {
		makers[ruleItemID(r)] = func() *item { return k.newRuleItem(r) }
	}
	maps.Copy(makers, k.rootMakers(set, w))

	k.mu.Lock()
	known := maps.Clone(k.items)
	k.mu.Unlock()
	items := map[itemID]*item{}
	for id, create := range makers {
		if it := known[id]; it != nil {
			items[id] = it
		} else {
			items[id] = create() // reads the disk, so not under k.mu
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.items = items
	fetched := map[itemID]got{}
	for id, it := range items {
		fetched[id] = got{k, it, it.content, it.gone}
	}
	signal(k.wake)
	return fetched
}

// remember keeps what Status and Run need of a Resolve.
func (k *Keeper) remember(w *wanted, files fileSet, s *Snapshot) {
	var states []func() State
	wrongFiles, wrongItems := s.faults()
	for _, h := range slices.SortedFunc(maps.Keys(files), func(a, b held) int { return strings.Compare(a.String(), b.String()) }) {
		st := State{Name: referenceName(h.ref), Kind: h.kind, OK: true, From: "file"}
		err := files[h].err
		if err == nil {
			err = wrongFiles[h]
		}
		if err != nil {
			st.OK, st.Error = false, brief(err)
		}
		states = append(states, func() State { return st })
	}
	k.mu.Lock()
	items := k.items
	k.mu.Unlock()
	for _, id := range slices.SortedFunc(maps.Keys(items), compareItems) {
		if id.kind == KindRoot {
			continue // a part of the root's own state
		}
		it, wrong := items[id], wrongItems[id]
		states = append(states, func() State {
			st := k.state(it)
			if wrong != nil && st.OK {
				st.OK, st.Error = false, brief(wrong)
			}
			return st
		})
	}
	states = append(states, k.rootStates(s)...)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.states, k.watch, k.roots = states, k.folders(w), s.roots
}

func compareItems(a, b itemID) int {
	return cmp.Or(strings.Compare(a.kind, b.kind), strings.Compare(a.name, b.name), strings.Compare(a.what, b.what))
}

// faults are what is wrong with the content of files that could be read and of rules that were fetched: one for each.
func (s *Snapshot) faults() (files map[held]error, items map[itemID]error) {
	files, items = map[held]error{}, map[itemID]error{}
	for id, r := range s.keys {
		if id.kms == "" && r.err != nil {
			files[held{KindSecret, id.secret}] = r.err
		}
	}
	for id, r := range s.certs {
		if id.pem == "" && r.err != nil {
			files[held{KindSecret, id.secret}] = r.err
		}
	}
	for id, r := range s.rules {
		switch {
		case r.err == nil:
		case id.remote == (policy.Remote{}):
			files[held{KindConfigMap, id.configMap}] = r.err
		case errors.Is(r.err, ErrInvalid):
			items[ruleItemID(id.remote)] = r.err
		}
	}
	return files, items
}
