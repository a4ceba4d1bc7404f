package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust"
)

// state is what is in force, or the reason why nothing can be judged.
type state struct {
	// floor are the node's own policies, cluster those that came by way of the API server; nil: there are none.
	floor, cluster *layer
	err            error
	// revision names all that is in force, for the keys of the cache; names is its short form, for people.
	revision, names string
	// matched remembers which policies are about a name: with a thousand of them, looking would cost more than
	// all the rest of a warm decision.
	matched *lru.Cache[nameKey, *match]
}

// layer is one set of policies with what it refers to, and what is asked and kept for it. No layer uses anything of
// another's, so that none can take something from it.
type layer struct {
	name     Layer
	set      *policy.Set
	refs     *trust.Snapshot
	revision string
	noMatch  NoMatch
	places   *evidence.Places
	keeper   Keeper
}

type nameKey struct {
	image  string
	digest digest.Digest
}

// newState puts together what is in force. Names are remembered for as many images as verdicts are.
func newState(floor, cluster *layer, size int) (*state, error) {
	matched, err := lru.New[nameKey, *match](size)
	if err != nil {
		return nil, err
	}
	st := &state{floor: floor, cluster: cluster, revision: floor.revision, names: floor.set.Revision(), matched: matched}
	if cluster != nil {
		st.revision += " " + cluster.revision
		st.names += "+" + cluster.set.Revision()
	}
	return st, nil
}

// match is the policies that are about an image by its name.
type match struct{ floor, cluster part }

// part is those of one layer, and what about a pod makes a difference to them.
type part struct {
	policies []*policy.Policy
	selects  bool // some are about certain pods only
	metadata bool // some have a rule over the pod's metadata
	secrets  bool // some look for signatures with secrets of the pod's namespace
}

// match finds the policies that are about a name.
func (st *state) match(image string, d digest.Digest) (*match, error) {
	key := nameKey{image, d}
	if m, ok := st.matched.Get(key); ok {
		return m, nil
	}
	// Only after the look-up: nothing is remembered under another digest.
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("%.100q is not a sha256 digest", d)
	}
	m := &match{}
	for _, l := range []struct {
		*layer
		to *part
	}{{st.floor, &m.floor}, {st.cluster, &m.cluster}} {
		if l.layer == nil {
			continue
		}
		policies, err := l.set.Match(image, d)
		if err != nil {
			return nil, err
		}
		*l.to = partOf(policies)
	}
	st.matched.Add(key, m)
	return m, nil
}

func partOf(policies []*policy.Policy) part {
	m := part{policies: policies}
	for _, p := range policies {
		m.selects = m.selects || len(p.Match) > 0
		m.metadata = m.metadata || p.Rule != nil && p.IncludeObjectMeta
		for i := range p.Authorities {
			s := p.Authorities[i].Source
			m.secrets = m.secrets || s != nil && len(s.PullSecrets) > 0
		}
	}
	return m
}

// scope is the policies of a layer about one image of one pod, and how many name the image and are for other pods.
type scope struct {
	policies []*policy.Policy
	others   int
}

// about narrows the match down to a pod: which policies are about it, and a key that is the same for pods
// which cannot have different verdicts. Almost always every pod is the same.
func (m *part) about(pod *policy.Pod) (policies []*policy.Policy, key string) {
	if !m.selects && !m.metadata && !m.secrets {
		return m.policies, ""
	}
	policies = m.policies
	if m.selects {
		policies = nil
		chosen := make([]byte, 0, len(m.policies))
		for _, p := range m.policies {
			if p.Selects(pod) {
				policies = append(policies, p)
				chosen = append(chosen, '1')
			} else {
				chosen = append(chosen, '0')
			}
		}
		key = string(chosen)
	}
	switch {
	case pod == nil:
		key += " unknown"
	case m.metadata:
		key += " " + fingerprint(*pod)
	case m.secrets:
		key += fmt.Sprintf(" %q", pod.Namespace)
	}
	return policies, key
}

// fingerprint tells pods apart. encoding/json writes maps in the order of their keys.
func fingerprint(pod policy.Pod) string {
	raw, err := json.Marshal(pod)
	if err != nil {
		panic(err) // strings and maps of strings
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}
