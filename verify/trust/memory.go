package trust

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
)

// Memory is Files that were read before, all at one moment. The zero Memory holds nothing and can be added to; it must not
// be once somebody reads it.
type Memory struct {
	objects map[held]map[string][]byte // by kind, namespace and name
}

// Add puts in a file of a Secret or ConfigMap. Names are checked as they are on disk, and what Kubernetes would not hold
// is ErrInvalid.
func (m *Memory) Add(kind, namespace, name, key string, data []byte) error {
	h := held{kind, policy.Reference{Namespace: namespace, Name: name, Key: key}}
	if kind != KindSecret && kind != KindConfigMap {
		return fmt.Errorf("%s: %w: %s is nothing that is held", h, ErrInvalid, quote(kind))
	}
	if _, err := h.folder("/"); err != nil {
		return err
	}
	if key == "" {
		return fmt.Errorf("%s: %w: a file without a name", h, ErrInvalid)
	}
	if err := limits.HeldFile.Check(int64(len(data))); err != nil {
		return fmt.Errorf("%s: %w: %w", h, ErrInvalid, err)
	}
	h.ref.Key = ""
	if m.objects == nil {
		m.objects = map[held]map[string][]byte{}
	}
	if m.objects[h] == nil {
		m.objects[h] = map[string][]byte{}
	}
	m.objects[h][key] = data
	return limits.HeldFiles.Check(int64(len(m.objects[h])))
}

// Read gives what was put in.
func (m *Memory) Read(kind string, ref policy.Reference) ([]byte, error) {
	h := held{kind, ref}
	whole := h
	whole.ref.Key = ""
	keys, key := m.objects[whole], ref.Key
	if key == "" {
		switch all := slices.Collect(maps.Keys(keys)); len(all) {
		case 0:
			return nil, fmt.Errorf("%s: %w: %w", h, ErrMissing, errNotSynced)
		case 1:
			key = all[0]
		default:
			return nil, fmt.Errorf("%s: %w: it holds several files: name one, or leave one", h, ErrInvalid)
		}
	}
	data, ok := keys[key]
	if !ok {
		return nil, fmt.Errorf("%s: %w: %w", h, ErrMissing, errNotSynced)
	}
	return data, nil
}

var errNotSynced = errors.New("the cluster's documents came without it")
