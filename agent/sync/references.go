package sync

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/cosentry/cosentry/agent/cluster"
	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
)

const (
	secrets    = "secrets"
	configMaps = "configmaps"
)

// reference is what is watched: the Secret or ConfigMap of one name, in one namespace or, for pull secrets, which belong
// to the namespaces of pods, in all.
type reference struct {
	resource        string // secrets or configmaps
	namespace, name string
}

func (r reference) String() string {
	if r.namespace == "" {
		return fmt.Sprintf("%s %s of all namespaces", r.resource, r.name)
	}
	return fmt.Sprintf("%s %s/%s", r.resource, r.namespace, r.name)
}

// keys are those of an object that policies name. No other comes to the node.
type keys struct {
	all   bool
	named map[string]bool
}

// pullSecretKey is the key of a Secret of type kubernetes.io/dockerconfigjson, which is what package trust reads.
const pullSecretKey = ".dockerconfigjson"

// references are all Secrets and ConfigMaps that policies name.
func references(all []*policy.Policy) (map[reference]keys, error) {
	found := map[reference]keys{}
	add := func(resource, namespace, name, key string) {
		r := reference{resource, namespace, name}
		k := found[r]
		if k.named == nil {
			k.named = map[string]bool{}
		}
		if key == "" {
			k.all = true // it must be the only one, which the reader sees to
		}
		k.named[key] = true
		found[r] = k
	}
	to := func(resource string, ref *policy.Reference) {
		if ref != nil {
			add(resource, ref.Namespace, ref.Name, ref.Key)
		}
	}
	for _, p := range all {
		if p.Rule != nil {
			to(configMaps, p.Rule.ConfigMap)
		}
		for _, a := range p.Authorities {
			if a.Key != nil {
				to(secrets, a.Key.Secret)
			}
			if a.Keyless != nil && a.Keyless.CA != nil {
				to(secrets, a.Keyless.CA.Secret)
			}
			for _, attestation := range a.Attestations {
				if attestation.Rule != nil {
					to(configMaps, attestation.Rule.ConfigMap)
				}
			}
			if a.Source != nil {
				for _, name := range a.Source.PullSecrets {
					add(secrets, "", name, pullSecretKey)
				}
			}
		}
	}
	return found, limits.SyncedReferences.Check(int64(len(found)))
}

// watchedReference is a reference whose changes arrive.
type watchedReference struct {
	*source
	started time.Time
	stop    context.CancelFunc
}

// follow watches what is referred to, and nothing else any more.
func (s *Sync) follow(wantedRefs map[reference]keys) {
	for r, w := range s.refs {
		if _, ok := wantedRefs[r]; !ok {
			w.stop()
			delete(s.refs, r)
		}
	}
	for r := range wantedRefs {
		if s.refs[r] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(s.running)
		src := s.newSource(r.String(), s.o.API.of(wanted{
			versions:  []schema.GroupVersionResource{{Version: "v1", Resource: r.resource}},
			namespace: r.namespace, name: r.name,
		}))
		s.refs[r] = &watchedReference{src, time.Now(), cancel}
		s.watches.Go(func() { src.run(ctx) })
	}
}

// collect takes what was referred to: from the API server where it has said what there is, and from the set in force where
// it has not. waiting says that some have had no answer yet and may well have one in a moment.
func (s *Sync) collect(wantedRefs map[reference]keys, now cluster.Contents) (c cluster.Contents, waiting bool, err error) {
	c = cluster.Contents{Secrets: map[cluster.Object]map[string][]byte{}, ConfigMaps: map[cluster.Object]map[string][]byte{}}
	for r, k := range wantedRefs {
		to, held := c.Secrets, now.Secrets
		if r.resource == configMaps {
			to, held = c.ConfigMaps, now.ConfigMaps
		}
		w := s.refs[r]
		v := w.view()
		if !v.known {
			waiting = waiting || v.state == Waiting && time.Since(w.started) < s.pace.firstAnswer
			for id, data := range held {
				if id.Name == r.name && (r.namespace == "" || id.Namespace == r.namespace) {
					merge(to, id, data, k)
				}
			}
			continue
		}
		for id, o := range v.objects {
			data, err := dataOf(r.resource, o)
			if err != nil {
				return c, false, fmt.Errorf("%s %s: %w", r.resource, id, err)
			}
			merge(to, id, data, k)
		}
	}
	return c, waiting, nil
}

// merge adds those keys of an object that are wanted. It may be wanted twice: as a pull secret, and by its namespace.
func merge(to map[cluster.Object]map[string][]byte, id cluster.Object, data map[string][]byte, k keys) {
	for key, value := range data {
		if !k.all && !k.named[key] {
			continue
		}
		if to[id] == nil {
			to[id] = map[string][]byte{}
		}
		to[id][key] = value
	}
}

// dataOf is what a Secret or ConfigMap holds.
func dataOf(resource string, o metav1.Object) (map[string][]byte, error) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("a %T is no whole object", o)
	}
	all := map[string][]byte{}
	take := func(field string, encoded bool) error {
		values, _, err := unstructured.NestedStringMap(u.Object, field)
		if err != nil {
			return fmt.Errorf("%s: not text by key", field)
		}
		for key, value := range values {
			data := []byte(value)
			if encoded {
				if data, err = base64.StdEncoding.DecodeString(value); err != nil {
					return fmt.Errorf("%s: not base64", field) // the error would quote a secret
				}
			}
			if err := limits.HeldFile.Check(int64(len(data))); err != nil {
				return fmt.Errorf("%s: %w", field, err)
			}
			all[key] = data
		}
		return nil
	}
	if resource == secrets {
		return all, take("data", true)
	}
	if err := take("data", false); err != nil {
		return nil, err
	}
	return all, take("binaryData", true)
}
