package sync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cosentry/cosentry/agent/cluster"
)

// errNotYet ends a round in which there is nothing to say yet: more is about to arrive.
var errNotYet = errors.New("the API server has not answered for all kinds yet")

// update makes the node's copy what the cluster holds, as far as that is known, and writes how things stand.
func (s *Sync) update(ctx context.Context) {
	b, err := s.build()
	wrote := ""
	if err == nil {
		s.confirmRemovals(ctx, b)
		wrote, err = s.put(b)
	}
	if ctx.Err() != nil {
		return
	}
	s.metrics.round(b, wrote, err, s.refs)
	s.say(b, wrote, err)
	if err == nil && len(b.unsure) == 0 && !b.seen.IsZero() {
		if err := s.writer.Beat(b.seen); err != nil {
			s.o.Log.Error("the heartbeat cannot be written: the agent will take its documents for old", "error", brief(err))
			return
		}
		s.metrics.upToDate(b.seen)
	}
}

// built is what a round came to.
type built struct {
	now   cluster.Contents // in force
	there bool             // there is a set in force
	next  cluster.Contents
	views map[string]view
	held  map[string]int // documents that stay although the API server does not tell of them, by resource
	// unsure says why the node's copy may not be what the cluster holds.
	unsure []string
	// seen is since when nothing may have been missed.
	seen time.Time
}

// build puts together what ought to be in force, but for removals that are not confirmed yet.
func (s *Sync) build() (b *built, err error) {
	b = &built{views: map[string]view{}, held: map[string]int{}, seen: time.Now()}
	for name, k := range s.kinds {
		b.views[name] = k.view()
	}
	if b.now, b.there, err = s.writer.Current(); err != nil {
		// Nobody can say what it held, so only a whole answer of the API server may take its place.
		s.o.Log.Error("the set in force is not as it was written; it is replaced when all of it is known", "error", brief(err))
		b.now, b.there = cluster.Contents{}, false
	}
	for _, name := range []string{policies, trustRoots, namespaces} {
		v, watched := b.views[name]
		if !watched {
			continue
		}
		if v.state == Waiting && !v.known {
			return b, errNotYet
		}
		seen := v.seen
		if v.state == Absent {
			seen = seen.Add(s.pace.source.longest) // it is not looked for more often, which is no reason for an alert
		}
		if seen.Before(b.seen) {
			b.seen = seen
		}
		if v.state == Live || v.known && (v.state == Unreachable || v.state == Waiting) {
			continue // what has not been heard for a while is old, which seen tells
		}
		if v.state != Absent || name == namespaces {
			b.unsure = append(b.unsure, fmt.Sprintf("%s: %s", name, v.state))
		}
	}
	return b, s.documents(b)
}

// documents takes the documents of each kind, from the API server or, where it has not said what there is, from the set
// in force. With neither, there is nothing to go by.
func (s *Sync) documents(b *built) error {
	for _, name := range []string{policies, trustRoots} {
		v, kind := b.views[name], kindOf(name)
		if v.known {
			for id, o := range v.objects {
				d, err := document(kind, o, s.o.Signed)
				if err != nil {
					return fmt.Errorf("%s %s: %w", kind, id.Name, err)
				}
				b.next.Documents = append(b.next.Documents, d)
			}
			continue
		}
		if !b.there && v.state != Absent {
			return fmt.Errorf("%s: %s, and nothing was known before: %w", name, v.state, v.err)
		}
		for _, d := range b.now.Documents {
			if d.Kind == kind {
				b.keep(name, d)
			}
		}
	}
	v, watched := b.views[namespaces]
	switch {
	case !watched: // the last known ones would never change again
	case v.known:
		var err error
		if b.next.Namespaces, err = namespaceList(v.objects); err != nil {
			return fmt.Errorf("writing the namespaces file: %w", err)
		}
	default:
		b.next.Namespaces = b.now.Namespaces
	}
	return nil
}

// keep has a document stay.
func (b *built) keep(resource string, d cluster.File) {
	b.next.Documents = append(b.next.Documents, d)
	if b.held[resource]++; b.held[resource] == 1 {
		b.unsure = append(b.unsure, resource+": some stay of which the API server does not tell")
	}
}

// confirmRemovals has documents stay that the API server does not tell of any more, unless it is sure that somebody
// deleted them, and them alone.
func (s *Sync) confirmRemovals(ctx context.Context, b *built) {
	for _, name := range []string{policies, trustRoots} {
		if !b.views[name].known {
			continue
		}
		kind := kindOf(name)
		var missing []cluster.File
		for _, d := range b.now.Documents {
			if d.Kind == kind && !slices.ContainsFunc(b.next.Documents, func(n cluster.File) bool { return n.Kind == kind && n.Name == d.Name }) {
				missing = append(missing, d)
			}
		}
		if len(missing) == 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, definitionLimit)
		err := s.o.API.defined(ctx, name)
		cancel()
		if err == nil {
			continue
		}
		for _, d := range missing {
			b.keep(name, d)
		}
		b.unsure = append(b.unsure, brief(err))
	}
	slices.SortFunc(b.next.Documents, func(a, b cluster.File) int { return strings.Compare(a.Kind+" "+a.Name, b.Kind+" "+b.Name) })
}

// definitionLimit is for one look at a definition.
const definitionLimit = 10 * time.Second

// put writes what differs from the set in force, with what its policies refer to. It returns the name of the set that it
// wrote.
func (s *Sync) put(b *built) (string, error) {
	if !s.o.Signed {
		if err := s.refer(b); err != nil {
			return "", err
		}
	}
	if b.there && b.next.Equal(b.now) {
		return "", nil
	}
	return s.writer.Write(b.next, s.o.Load)
}

// refer adds what the documents refer to.
func (s *Sync) refer(b *built) error {
	found, err := s.parse(b.next.Documents)
	if err != nil {
		return err
	}
	refs, err := references(found)
	if err != nil {
		return err
	}
	s.follow(refs)
	held, waiting, err := s.collect(refs, b.now)
	if err != nil {
		return err
	}
	if waiting {
		return errNotYet
	}
	b.next.Secrets, b.next.ConfigMaps = held.Secrets, held.ConfigMaps
	for r := range refs {
		switch v := s.refs[r].view(); {
		case v.state == Refused: // has its own metric: a pull secret may be kept from a node on purpose
		case !v.known:
			b.unsure = append(b.unsure, r.String()+": "+string(v.state))
		case v.seen.Before(b.seen):
			b.seen = v.seen
		}
	}
	return nil
}

// say logs what a round came to, once.
func (s *Sync) say(b *built, wrote string, err error) {
	word, unsure := "", strings.Join(b.unsure, "; ")
	switch {
	case errors.Is(err, errNotYet):
		return
	case err != nil:
		word = brief(err)
	case unsure != "":
		word = "unsure " + unsure
	}
	if wrote != "" {
		s.o.Log.Info("the cluster's documents are on the node", "set", wrote, "documents", len(b.next.Documents), "secrets", len(b.next.Secrets), "configmaps", len(b.next.ConfigMaps))
	}
	if word == s.lastWord {
		return
	}
	s.lastWord = word
	switch {
	case err != nil && b.there:
		s.o.Log.Error("what the cluster holds cannot be put in force: the set before it stays", "error", brief(err))
	case err != nil:
		s.o.Log.Error("what the cluster holds cannot be put in force: the node has its own policies alone", "error", brief(err))
	case unsure != "":
		s.o.Log.Warn("the node's copy may not be what the cluster holds", "why", brief(errors.New(unsure)))
	default:
		s.o.Log.Info("the node's copy is what the cluster holds")
	}
}
