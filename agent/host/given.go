package host

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cosentry/cosentry/agent/host/files"
)

// given are the settings and policies that a command was called with, as they were when it began. What is mounted into a container may
// change while that runs: on every node at once, and past the rollout, which a mistake stops at the first nodes that it breaks.
type given struct {
	settings []byte
	faulty   error // why they could not be read
	policies map[string][]byte
	unread   error // why those could not be
}

func readGiven(o Options) (g given) {
	if o.Settings != "" {
		g.settings, g.faulty = read(o.Settings)
	}
	if o.Policies != "" {
		g.policies, g.unread = readPolicies(o.Policies)
	}
	return g
}

// isPolicy says whether an agent would read a file of this name. A mounted ConfigMap has folders beside its files, whose names begin
// with two dots.
func isPolicy(name string) bool {
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(name))
}

func readPolicies(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the policies to install: %w", err)
	}
	if len(entries) > maxKept {
		return nil, fmt.Errorf("reading the policies to install: %s has more than %d files", dir, maxKept)
	}
	all := map[string][]byte{}
	for _, e := range entries {
		if !isPolicy(e.Name()) {
			continue
		}
		data, err := read(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the policies to install: %w", err)
		}
		if data == nil {
			data = []byte{} // an empty file is not one that is missing
		}
		all[e.Name()] = data
	}
	return all, nil
}

// holding is the host as who mends it sees it: of settings that are others than the last installation was given, nothing is taken. They
// were edited beneath a pod that runs, and the next installation takes them.
func (h *Host) holding(s State) *Host {
	if h.o.Settings == "" || !s.proved() || h.given.faulty == nil && files.Hash(h.given.settings) == s.Offered {
		return h
	}
	other := *h
	other.held = true
	return &other
}

// noteGiven has the state say which settings this installation was given.
func (h *Host) noteGiven(s *State) {
	if h.o.Settings != "" && h.given.faulty == nil && !h.held {
		s.Offered = files.Hash(h.given.settings)
	}
}

// HowToReplacePolicies says what the owner of a node does who wants other policies there.
const HowToReplacePolicies = "on the node, as root, its owner changes the files in " + PoliciesDir + ", or runs cosentry install --policies DIR --replace-policies; " +
	"what is only to be added comes by policies of the cluster"

// planPolicies plans the policies of a node; now are its settings. Those that are given are for a node's first installation: from then on
// they are the node's own, and whoever may edit a ConfigMap does not change them. Where they differ, that is said: new nodes begin with
// others than this one has.
func (h *Host) planPolicies(s State, now []byte, p *Plan) error {
	if h.o.Policies == "" {
		return nil
	}
	there, err := h.policiesThere()
	if err != nil {
		return err
	}
	// Until an agent proved itself, what is there of ours may be half of what a run that was killed had to write.
	first := now == nil || !s.proved() && s.ownsSettings(now)
	if first {
		if first, err = h.policiesAreOurs(s, there); err != nil {
			return err
		}
	}
	switch {
	case h.given.unread != nil && (first || h.o.ReplacePolicies):
		return h.given.unread
	case h.given.unread != nil:
		p.OtherPolicies = []string{h.given.unread.Error()}
	case h.o.ReplacePolicies && len(h.given.policies) == 0:
		return fmt.Errorf("%s has no policies, and a node without any has nothing but policies.noMatch: name the folder that has them", h.o.Policies)
	case first || h.o.ReplacePolicies:
		all, err := h.replacePolicies(there)
		if err != nil {
			return err
		}
		p.Settings = append(all, p.Settings...) // the settings last: what is stopped before them begins anew
	default:
		if p.OtherPolicies, err = h.otherPolicies(s, p.Settings); err != nil {
			return err
		}
	}
	if len(p.OtherPolicies) > 0 {
		p.Warnings = append(p.Warnings, fmt.Sprintf("the policies of %s are NOT TAKEN, and this node keeps its own: %s. They are for a node's first installation; for others, %s",
			h.o.Policies, policyList(p.OtherPolicies), HowToReplacePolicies))
	}
	return nil
}

// policiesThere are the names of the node's policies.
func (h *Host) policiesThere() (names []string, err error) {
	there, err := h.tree.List(PoliciesDir)
	if err != nil {
		return nil, err
	}
	for _, e := range there {
		if isPolicy(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// policiesAreOurs says whether no policy of the node is anybody else's than an installation's.
func (h *Host) policiesAreOurs(s State, names []string) (bool, error) {
	for _, name := range names {
		p := path.Join(PoliciesDir, name)
		now, err := h.tree.Read(p)
		if err != nil {
			return false, err
		}
		if !slices.ContainsFunc(s.Files, func(r Record) bool { return r.Path == p && r.wrote(now, "") }) {
			return false, nil
		}
	}
	return true, nil
}

// replacePolicies has the node's policies be those that are given and no others.
func (h *Host) replacePolicies(there []string) (all []files.Change, err error) {
	for _, name := range slices.Sorted(maps.Keys(h.given.policies)) {
		c, err := h.change(path.Join(PoliciesDir, name), h.given.policies[name])
		if err != nil {
			return nil, err
		}
		if !c.Nothing() {
			all = append(all, c)
		}
	}
	for _, name := range there {
		if _, ok := h.given.policies[name]; ok {
			continue
		}
		c, err := h.change(path.Join(PoliciesDir, name), nil)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// otherPolicies says which of the node's policies differ from those that are given: files that the node lacks or has otherwise, and files
// that came by an earlier installation and are not given any more. What its owner added says nothing. An empty folder gives none.
func (h *Host) otherPolicies(s State, planned []files.Change) (all []string, err error) {
	now := func(p string) ([]byte, error) {
		for _, c := range planned {
			if c.Path == p {
				return c.After, nil
			}
		}
		return h.tree.Read(p)
	}
	for _, name := range slices.Sorted(maps.Keys(h.given.policies)) {
		data, err := now(path.Join(PoliciesDir, name))
		switch {
		case err != nil:
			return nil, err
		case data == nil:
			all = append(all, fmt.Sprintf("%q is missing here", name))
		case !bytes.Equal(data, h.given.policies[name]):
			all = append(all, fmt.Sprintf("%q is another here", name))
		}
	}
	for _, r := range s.Files {
		name := path.Base(r.Path)
		if _, ok := h.given.policies[name]; ok || len(h.given.policies) == 0 || r.Stage != stageSettings || path.Dir(r.Path) != PoliciesDir {
			continue
		}
		data, err := now(r.Path)
		if err != nil {
			return nil, err
		}
		if r.wrote(data, "") {
			all = append(all, fmt.Sprintf("%q is not given any more", name))
		}
	}
	return all, nil
}

// policyList is for people. A stranger may have written the names.
func policyList(all []string) string { return line(errors.New(strings.Join(all, "; "))) }
