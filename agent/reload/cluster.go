package reload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/cosentry/cosentry/agent/cluster"
	"github.com/cosentry/cosentry/agent/watch"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rescue"
	"github.com/cosentry/cosentry/verify/trust"
)

// ClusterVerifier takes the cluster's policies, which only ever add to the node's own. *verify.Verifier is one.
type ClusterVerifier interface {
	SetCluster(*policy.Set, *trust.Snapshot)
	SetClusterUnusable(error)
}

// ClusterReferences finds what the cluster's policies refer to. It must be another than finds it for the node's own.
// *trust.Keeper is one.
type ClusterReferences interface {
	ResolveIn(*policy.Set, trust.Files) *trust.Snapshot
}

// ClusterOptions say where the cluster's policies are. All but Keys and Own are needed.
type ClusterOptions struct {
	Dir string
	// Keys are those that documents must be signed with. Own are the Secrets and ConfigMaps of the node, which such
	// documents refer to; without keys they refer to what came with them.
	Keys       []policy.PublicKey
	Own        trust.Files
	References ClusterReferences
	Verifier   ClusterVerifier
	Log        *slog.Logger
}

// Cluster keeps the cluster's policies in force the same as sync has written them.
//
// A set that cannot be loaded leaves the last good one in force. If there is none, the verifier is told that the
// cluster has restrictions which are not known, and refuses. Only where no set ever came do the node's own policies hold alone.
type Cluster struct {
	o    ClusterOptions
	tell teller

	loading sync.Mutex // one Load at a time; what follows is its own
	loaded  *cluster.Loaded
	refs    string
	last    string

	mu    sync.Mutex
	state ClusterState
}

// The states of the cluster's policies.
const (
	ClusterOff    = "off"    // the settings name no folder
	ClusterNone   = "none"   // none have ever come: the node's own hold alone
	ClusterGood   = "good"   // what is on disk is in force
	ClusterBroken = "broken" // it cannot be loaded: an older set, or none and nothing is allowed
)

// ClusterStates are all that there are.
func ClusterStates() []string {
	return []string{ClusterOff, ClusterNone, ClusterGood, ClusterBroken}
}

// ClusterState is what of the cluster is in force.
type ClusterState struct {
	State    string // one of the above
	ID       string // of the set in force
	Revision string // of its policies; empty if none are in force
	Count    int
	Loaded   time.Time
	Names    []string
	Warnings int
	Skipped  []cluster.Skipped
	Broken   string // why the set on disk is not in force
}

// loadLimit is how long reading a set may take. A thousand policies take two seconds.
const loadLimit = time.Minute

// NewCluster returns a Cluster that has loaded nothing yet.
func NewCluster(o ClusterOptions) *Cluster {
	o.Log = o.Log.With("layer", "cluster")
	if o.Own == nil {
		o.Own = trust.Folder("") // nothing is held
	}
	return &Cluster{o: o, tell: teller{log: o.Log, see: "cosentry status", dir: o.Dir}, state: ClusterState{State: ClusterNone}}
}

// State returns what is in force.
func (c *Cluster) State() ClusterState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Dir is the folder.
func (c *Cluster) Dir() string { return c.o.Dir }

// Start loads the policies for the first time. What takes longer than patience goes on by itself: kubelet needs its socket,
// and until the policies are there what they could refuse is.
func (c *Cluster) Start(patience time.Duration) {
	if _, err := cluster.CurrentID(c.o.Dir); !errors.Is(err, cluster.ErrNone) {
		reading := errors.New("they are still being read")
		c.o.Verifier.SetClusterUnusable(reading)
		c.state = ClusterState{State: ClusterBroken, Broken: reading.Error()}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Load()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		c.o.Log.Error("reading the cluster's policies takes long: gated calls are refused until it is done", "dir", c.o.Dir, "so far", patience)
	}
}

// Load reads the set in force and has it judged by, if it is good, with what it refers to as it is known now.
func (c *Cluster) Load() {
	c.loading.Lock()
	defer c.loading.Unlock()
	err := rescue.Do(c.o.Log, "loading the cluster's policies", c.load)
	if err != nil {
		c.broken(err)
	}
}

func (c *Cluster) load() error {
	id, err := cluster.CurrentID(c.o.Dir)
	switch {
	case errors.Is(err, cluster.ErrNone) && c.loaded == nil:
		c.none()
		return nil
	case errors.Is(err, cluster.ErrNone):
		return fmt.Errorf("there was a set, and now there is none: %w", err)
	case err != nil:
		return err
	case c.loaded != nil && c.loaded.ID == id:
		// A set is never changed. What it refers to may be.
		c.put(c.loaded)
		return nil
	}
	l, err := c.read(id)
	if err != nil {
		return err
	}
	c.put(l)
	return nil
}

// read reads the set in force, and once more if it was replaced meanwhile: sync may have removed it.
func (c *Cluster) read(id string) (*cluster.Loaded, error) {
	ctx, cancel := context.WithTimeout(context.Background(), loadLimit)
	defer cancel()
	l, err := cluster.Load(ctx, c.o.Dir, c.o.Keys)
	if err == nil {
		return l, nil
	}
	if now, nerr := cluster.CurrentID(c.o.Dir); nerr != nil || now == id {
		return nil, err
	}
	return cluster.Load(ctx, c.o.Dir, c.o.Keys)
}

// put puts l in force, if it or what it refers to is not what is in force.
func (c *Cluster) put(l *cluster.Loaded) {
	refs := c.resolve(l)
	again := c.loaded != nil && c.loaded.Policies.Revision() == l.Policies.Revision()
	if !again || c.refs != refs.Revision() {
		c.o.Verifier.SetCluster(l.Policies, refs)
	}
	if c.last != "" && c.loaded != nil {
		c.o.Log.Info("the cluster's policies can be loaded again", "dir", c.o.Dir)
	}
	news := c.loaded != l || c.refs != refs.Revision()
	c.loaded, c.refs, c.last = l, refs.Revision(), ""
	written, references := l.Policies.Warnings(), refs.References(l.Policies)
	c.mu.Lock()
	s := &c.state
	if !again || s.Revision == "" {
		s.Loaded = time.Now()
	}
	s.State, s.ID, s.Revision, s.Broken, s.Skipped = ClusterGood, l.ID, l.Policies.Revision(), "", l.Skipped
	s.Count, s.Warnings = len(l.Policies.Policies()), warnings(written, references)
	s.Names = nil
	for _, p := range l.Policies.Policies() {
		s.Names = append(s.Names, p.Name)
	}
	c.mu.Unlock()
	if !news {
		return
	}
	c.told(l, again)
	c.tell.all(written, references)
}

func (c *Cluster) resolve(l *cluster.Loaded) *trust.Snapshot {
	if l.Held != nil {
		return c.o.References.ResolveIn(l.Policies, l.Held)
	}
	return c.o.References.ResolveIn(l.Policies, c.o.Own)
}

// told logs a set that was put in force.
func (c *Cluster) told(l *cluster.Loaded, again bool) {
	if again {
		c.o.Log.Info("the cluster's documents, or what they refer to, have changed", "set", l.ID, "revision", l.Policies.Revision(), "references", c.refs)
	} else {
		c.tell.anew()
		c.o.Log.Info("the cluster's policies are in force beside the node's own", "set", l.ID, "revision", l.Policies.Revision(), "references", c.refs, "count", len(l.Policies.Policies()))
	}
	for i, s := range l.Skipped {
		if i == maxWarnings {
			c.o.Log.Warn("more of the cluster's documents are not taken; see: cosentry status", "documents", len(l.Skipped)-i)
			break
		}
		c.o.Log.Warn("one of the cluster's documents is not taken", "file", s.File, "why", s.Why)
	}
}

func (c *Cluster) none() {
	const none = "none"
	if c.last == none {
		return
	}
	c.last = none
	c.o.Verifier.SetCluster(nil, nil)
	c.mu.Lock()
	c.state = ClusterState{State: ClusterNone}
	c.mu.Unlock()
	c.o.Log.Warn("no policies have come from the cluster yet: the node's own hold alone", "dir", c.o.Dir)
}

func (c *Cluster) broken(err error) {
	if c.loaded == nil {
		// It is known that there are restrictions, and not which.
		c.o.Verifier.SetClusterUnusable(err)
	}
	c.mu.Lock()
	c.state.State, c.state.Broken = ClusterBroken, err.Error()
	set := c.state.ID
	c.mu.Unlock()
	if c.loaded != nil {
		// A key that was rotated, or taken away, counts for the policies that stay in force.
		_ = rescue.Do(c.o.Log, "resolving the cluster's references", func() error {
			if refs := c.resolve(c.loaded); refs.Revision() != c.refs {
				c.refs = refs.Revision()
				c.o.Verifier.SetCluster(c.loaded.Policies, refs)
			}
			return nil
		})
	}
	if c.last == err.Error() {
		return
	}
	c.last = err.Error()
	if c.loaded == nil {
		c.o.Log.Error("the cluster's policies cannot be loaded: every gated call is refused", "dir", c.o.Dir, "error", err)
		return
	}
	c.o.Log.Error("the cluster's policies cannot be loaded: the last good set stays in force", "dir", c.o.Dir, "set", set, "error", err)
}

// Follow loads the policies again whenever what they refer to has changed, until ctx ends.
func (c *Cluster) Follow(ctx context.Context, changed <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			c.Load()
		}
	}
}

// Watch loads the policies again whenever the folder changes or again is signalled, until ctx ends.
func (c *Cluster) Watch(ctx context.Context, again <-chan os.Signal) {
	watch.Folder(ctx, c.o.Dir, again, c.o.Log, c.Load)
}
