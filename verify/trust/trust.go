// Package trust holds what policies refer to and do not hold: keys in Secrets and in key management services, rules in
// ConfigMaps and on servers, and trust roots.
//
// It promises answers from memory. [Keeper.Resolve] reads files and what is kept on disk, [Keeper.Run] fetches in the
// background, and the [Snapshot] that decisions are made with waits for no network. What was fetched once goes on being
// used while its source is away, also after a restart. What was never fetched is ErrUnavailable, "could not verify", and
// what is not there is ErrMissing; neither is ever an empty list of keys, a rule that accepts, or an older root in
// place of the one that is named.
//
// # Files
//
// A Secret is the folder <Dir>/secrets/<namespace>/<name> with one file a key; a ConfigMap, <Dir>/configmaps/<namespace>/<name>.
// Folders that Kubernetes mounts have this form: links are followed, to regular files alone. A reference without a
// key means the only file; several are an error, as in policy-controller.
//
// # Key management services
//
// See package kms for URIs and credentials. A key is asked for again every hour, or more often if Options.Refresh says so; a rotated one takes the place of
// its predecessor. A service that says that it has no such key, or that the key is disabled, ends its use; one that fails
// in any other way does not.
//
// # Trust roots
//
// See package trustroot. A name may belong to one TrustRoot document or to one file of the settings. One that both have
// is nobody's: what refers to it fails. A root that has expired is ErrUnavailable. The empty name is sigstore's
// public-good instance.
//
// # ca-cert
//
// The certificates of a keyless authority's ca-cert take the place of a root's certificate authorities, not of its
// certificate transparency logs: those are the ones of trustRootRef or, without it, the public-good instance's. A private
// CA that writes to neither wants insecureIgnoreSCT. (policy-controller reads ca-cert and then accepts no
// signature by it.)
package trust

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust/kms"
	"github.com/cosentry/cosentry/verify/trustroot"
)

var (
	// ErrUnavailable is wrapped where something could not be had so far: nothing can be said about a signature.
	ErrUnavailable = errors.New("not available")
	// ErrMissing is wrapped where something is not there: the authority that needs it fails.
	ErrMissing = errors.New("not there")
	// ErrInvalid is wrapped where something is there and cannot be used: the authority that needs it fails.
	ErrInvalid = errors.New("not usable")
)

// RootFile is a trusted_root.json of the settings, under the name by which policies refer to it.
type RootFile struct {
	Name, Path string
}

// Options say where things are.
type Options struct {
	// Dir holds the folders secrets and configmaps. Empty: there are none.
	Dir string
	// CacheDir is where what was fetched is kept. It is made if need be, for its owner alone. Empty: nothing is kept,
	// and TUF repositories on servers, which cannot do without, are not available.
	CacheDir string
	// Roots are trust roots in files.
	Roots []RootFile
	// UpdatePublicGood fetches newer versions of the public-good instance's root, where a policy uses it.
	UpdatePublicGood bool
	// Refresh is how often trust roots are fetched again; 0: every 24 hours. KMS keys are asked for as often, and at least
	// every hour.
	Refresh time.Duration
	// Offline says that nothing is going to be fetched, as in a command that asks no network: what is not there is told as
	// what was not asked for, and not as a fault to mend.
	Offline bool
	Log     *slog.Logger
	// Observe, if set, is told of every attempt to fetch something, with the State's kind and name.
	Observe func(kind, name string, err error)
}

// The kinds of States.
const (
	KindSecret    = "secret"
	KindConfigMap = "configmap"
	KindKMS       = "kms key"
	KindRemote    = "remote rule"
	KindRoot      = "trust root"
)

// State is how things stand with one reference.
type State struct {
	// Name is namespace/name/key, a URI or the name of a trust root. That of the public-good instance is "public-good".
	Name string `json:"name"`
	Kind string `json:"kind"`
	// OK says that it can be used now, although Error may tell of a refresh that failed.
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	// Fetched is when its source was last heard; zero for files.
	Fetched time.Time `json:"fetched,omitzero"`
	// Expires is when it will no longer be used; zero: never.
	Expires time.Time `json:"expires,omitzero"`
	// Ends is when no authority of some kind in a trust root still signs. It is used afterwards as before, for what was
	// signed until then; zero: no end is known.
	Ends time.Time `json:"ends,omitzero"`
	// Disk says how what is kept in Options.CacheDir differs from what is in use, which a restart would tell; empty: it does
	// not.
	Disk string `json:"disk,omitempty"`
	// From says where it came from, in words.
	From string `json:"from,omitempty"`
}

// Keeper fetches and keeps. It is safe for concurrent use.
type Keeper struct {
	opts  Options
	log   *slog.Logger
	store *store
	clock clock
	// fetchKey is kms.Fetch, and client is what remote rules are fetched with.
	fetchKey func(ctx context.Context, uri string) (string, error)
	client   *http.Client
	// publicGood is trustroot.PublicGoodRemote().
	publicGood policy.TUFRemote

	changed chan struct{} // see Changed
	wake    chan struct{} // the items are others than Run knows
	slots   chan struct{} // a place for each fetch at once

	resolving sync.Mutex // one Resolve at a time
	parsed    parsed     // of the last Resolve; under resolving

	mu     sync.Mutex
	items  map[itemID]*item
	states []func() State
	watch  []string               // folders whose changes are changes to the last Resolve
	roots  map[string]rootOrError // of the last Resolve
}

// New makes a Keeper. It refuses options that contradict each other; a folder that cannot be used is no error, but what
// should be in it is missing.
func New(o Options) (*Keeper, error) {
	if o.Log == nil {
		return nil, errors.New("keeping trust material: it needs a log")
	}
	if o.Refresh < 0 {
		return nil, fmt.Errorf("keeping trust material: it cannot be refreshed every %s", o.Refresh)
	}
	if o.Refresh == 0 {
		o.Refresh = 24 * time.Hour
	}
	names := map[string]bool{}
	for _, r := range o.Roots {
		switch {
		case !isSubdomain(r.Name):
			return nil, fmt.Errorf("trust root %s: not a name that a policy could refer to", quote(r.Name))
		case names[r.Name]:
			return nil, fmt.Errorf("trust root %s: named twice", quote(r.Name))
		case !filepath.IsAbs(r.Path):
			return nil, fmt.Errorf("trust root %s: %s is not an absolute path", quote(r.Name), quote(r.Path))
		}
		names[r.Name] = true
	}
	return &Keeper{
		opts:       o,
		log:        o.Log,
		store:      &store{dir: o.CacheDir},
		clock:      systemClock(),
		fetchKey:   kms.Fetch,
		client:     newClient(),
		publicGood: trustroot.PublicGoodRemote(),
		changed:    make(chan struct{}, 1),
		wake:       make(chan struct{}, 1),
		slots:      make(chan struct{}, fetchesAtOnce),
		items:      map[itemID]*item{},
	}, nil
}

// now is the time of day.
func (k *Keeper) now() time.Time {
	day, _ := k.clock()
	return day
}

// Changed is sent to when a Resolve would see something else than the last one did. It is buffered, and many
// changes are one.
func (k *Keeper) Changed() <-chan struct{} { return k.changed }

// Status is how things stand with all that was referred to at the last Resolve, and with all trust roots.
func (k *Keeper) Status() []State {
	k.mu.Lock()
	ask := k.states
	k.mu.Unlock()
	states := make([]State, 0, len(ask))
	for _, f := range ask {
		states = append(states, f())
	}
	return states
}

// signal sends without waiting: one that is already there says the same.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
