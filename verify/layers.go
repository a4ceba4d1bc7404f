package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust"
)

// given is what a layer was last told to be.
type given struct {
	set  *policy.Set
	refs *trust.Snapshot
	err  error // why it cannot be judged by
}

// SetPolicies puts a set of the node's own in force with what it refers to, atomically. Verdicts reached under others are
// dropped. refs may be nil where the set refers to nothing.
func (v *Verifier) SetPolicies(set *policy.Set, refs *trust.Snapshot) {
	if set == nil {
		v.SetUnusable(errors.New("no policy set was given"))
		return
	}
	v.change(&v.floor, given{set: set, refs: refs}, v.cache, v.floors)
}

// SetUnusable takes the policy set away: every Verify fails with ErrNoPolicy and reason.
// It is for an agent that never had a good set; one that had keeps it.
func (v *Verifier) SetUnusable(reason error) {
	v.change(&v.floor, given{err: reason}, v.cache, v.floors)
}

// SetCluster puts a set of the cluster's in force beside the node's own, with what it refers to; nil, and there is
// none. Whatever is in it, nothing is allowed that would not be without it.
func (v *Verifier) SetCluster(set *policy.Set, refs *trust.Snapshot) {
	v.change(&v.cluster, given{set: set, refs: refs}, v.cache)
}

// SetClusterUnusable says that the cluster has policies which cannot be had: every Verify fails with ErrNoPolicy and
// reason, because what they would refuse is not known.
func (v *Verifier) SetClusterUnusable(reason error) {
	v.change(&v.cluster, given{err: fmt.Errorf("cluster policies: %w", reason)}, v.cache)
}

// change replaces one layer of what is in force, and forgets what rested on it.
func (v *Verifier) change(which *given, to given, caches ...*cache) {
	v.setting.Lock()
	defer v.setting.Unlock()
	*which = to
	v.state.Store(v.inForce())
	for _, c := range caches {
		c.purge()
	}
}

func (v *Verifier) inForce() *state {
	if v.floor.set == nil {
		return &state{err: v.floor.err}
	}
	floor := v.floor.layer(NodeLayer)
	floor.noMatch, floor.places, floor.keeper = v.opts.NoMatch, v.places, v.opts.Keeper
	var cluster *layer
	if v.cluster.set != nil {
		cluster = v.cluster.layer(ClusterLayer)
		cluster.noMatch, cluster.places, cluster.keeper = NoMatchAllow, v.clusterPlaces, v.opts.ClusterKeeper
	}
	st, err := newState(floor, cluster, v.opts.CacheSize)
	if err != nil {
		return &state{err: err}
	}
	st.err = v.cluster.err
	return st
}

func (g given) layer(name Layer) *layer {
	return &layer{name: name, set: g.set, refs: g.refs, revision: g.set.Revision() + "/" + g.refs.Revision()}
}

// questions are what is to be judged about one image of one pod.
type questions struct {
	floor, cluster scope
	// floorPod is what of the pod makes a difference to the node's own policies; pod, to all.
	floorPod, pod string
}

func (m *match) questions(st *state, s Subject) (q questions) {
	q.floor, q.floorPod = m.floor.scope(s.Pod)
	q.pod = q.floorPod
	switch {
	case st.cluster == nil:
		return q
	case s.WithoutCluster:
		q.pod += "\x00-" // no verdict in which the cluster had its say has such a key, and this one serves none of those
		return q
	}
	var pod string
	if q.cluster, pod = m.cluster.scope(s.Pod); pod != "" {
		q.pod += "\x00" + pod // which is in neither: what is a stranger's is quoted there
	}
	return q
}

func (m *part) scope(pod *policy.Pod) (scope, string) {
	policies, key := m.about(pod)
	return scope{policies, len(m.policies) - len(policies)}, key
}

// reached is a verdict, and how long it may be remembered.
type reached struct {
	verdict Verdict
	expires time.Time
	settled bool // it may be remembered at all
	rests   toKeep
}

// and adds the cluster's verdict to the node's own, whose evidence is kept already. It never allows more than either.
func (r reached) and(cluster reached) reached {
	both := r.verdict
	both.Policies = slices.Concat(r.verdict.Policies, cluster.verdict.Policies)
	both.Allowed = r.verdict.Allowed && cluster.verdict.Allowed
	both.Warn = both.Allowed && (r.verdict.Warn || cluster.verdict.Warn)
	out := reached{both, r.expires, r.settled && cluster.settled, cluster.rests}
	if cluster.expires.Before(out.expires) {
		out.expires = cluster.expires
	}
	return out
}

// decide asks the node's own policies, and then those of the cluster about what these let through.
func (v *Verifier) decide(ctx context.Context, st *state, k key, s Subject, about questions) (Verdict, error) {
	r, found, err := v.floorSays(ctx, st, s, about)
	if err == nil && r.verdict.Allowed && len(about.cluster.policies) > 0 {
		// Not held on to while the cluster's places are waited for: nobody would count it.
		r.rests.keep()
		r.rests = toKeep{}
		var added reached
		added, _, err = v.layerSays(ctx, st.cluster, s, about.cluster, carried(found))
		if err == nil {
			r = r.and(added)
		} else {
			err = besides(r.verdict, err)
		}
	}
	var undecided *UndecidedError
	if errors.As(err, &undecided) && undecided.Verdict != nil {
		undecided.Verdict.Revision = st.names
	}
	if err != nil {
		return Verdict{}, err
	}
	r.verdict.Revision = st.names
	if r.settled {
		v.cache.put(k, s.Credentials, r.verdict, r.expires)
	}
	// No place is held any more, and whoever asks next has the verdict.
	r.rests.keep()
	return r.verdict, nil
}

// besides puts what the node's own policies said into an error about the cluster's.
func besides(floor Verdict, err error) error {
	var undecided *UndecidedError
	if errors.As(err, &undecided) && undecided.Verdict != nil {
		undecided.Verdict.Policies = slices.Concat(floor.Policies, undecided.Verdict.Policies)
		undecided.Verdict.NoMatch, undecided.Verdict.OtherPods = floor.NoMatch, floor.OtherPods
	}
	return err
}

// floorSays asks the node's own policies, unless the answer is known.
func (v *Verifier) floorSays(ctx context.Context, st *state, s Subject, about questions) (reached, gathered, error) {
	if st.cluster == nil {
		return v.layerSays(ctx, st.floor, s, about.floor, nil)
	}
	k := keyOf(s, st.floor.revision, about.floorPod)
	if e, ok := v.floors.entry(k, s.Credentials, v.now()); ok {
		return reached{verdict: e.verdict, expires: e.expires, settled: true}, nil, nil
	}
	r, found, err := v.layerSays(ctx, st.floor, s, about.floor, nil)
	if err == nil && r.settled {
		v.floors.put(k, s.Credentials, r.verdict, r.expires)
	}
	return r, found, err
}

// layerSays gathers evidence for the policies of one layer, and judges it. known is evidence that was found before.
func (v *Verifier) layerSays(ctx context.Context, l *layer, s Subject, about scope, known gathered) (reached, gathered, error) {
	ctx, cancel := context.WithTimeout(ctx, v.opts.FetchTimeout)
	defer cancel()
	policies := about.policies
	j := &judgement{subject: s, layer: l.name, refs: l.refs, now: v.now()}
	if asks := plan(policies, s); len(asks) > 0 {
		questions := slices.Collect(maps.Values(asks))
		if l.name == ClusterLayer {
			if err := evidence.CheckCluster(questions...); err != nil {
				return reached{}, nil, &UndecidedError{Subject: s, Err: fmt.Errorf("the cluster's policies have signatures looked for in %d places: %w", len(asks), err)}
			}
		}
		leave, err := l.places.Enter(ctx, questions...)
		defer leave()
		j.found = gathered{}
		for at, q := range asks {
			if ev := known[at]; ev != nil && ev.Answers(q) {
				j.found[at] = ev
				delete(asks, at)
			}
		}
		maps.Copy(j.found, v.gatherAll(ctx, l, asks, s, err))
	}
	verdict, settled, err := v.judge(ctx, j, l, policies)
	if len(j.unproved) > 0 && (err != nil || !verdict.Allowed || verdict.Warn) {
		j.proved = v.prove(ctx, j)
		verdict, settled, err = v.judge(ctx, j, l, policies)
	}
	if err != nil {
		return reached{}, nil, err
	}
	verdict.OtherPods = about.others
	// A warning is kept as briefly as a refusal: somebody is about to sign.
	r := reached{verdict: verdict, expires: v.now().Add(v.opts.DenyTTL), settled: settled}
	if verdict.Allowed && !verdict.Warn {
		r.expires, r.rests = v.now().Add(v.opts.AllowTTL), restsOn(l.keeper, j)
	}
	return r, j.found, nil
}

// maxCarried is the most material, in bytes, that the cluster's policies are shown of what the node's own had fetched. It
// is held while a place is waited for, which the bounds on what is in memory know nothing of; a signature has a few kilobytes.
const maxCarried = 64 << 10

// carried is the evidence that need not be fetched again: small, whole, and fetched with no secret of a policy's.
func carried(found gathered) gathered {
	left, some := maxCarried, gathered{}
	for at, ev := range found {
		if at.secrets != "" || ev.AskedConfig || ev.Incomplete != nil || ev.Size() > left {
			continue
		}
		left -= ev.Size()
		some[at] = ev
	}
	return some
}
