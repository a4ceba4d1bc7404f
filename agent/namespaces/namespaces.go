// Package namespaces says in which namespaces images are judged.
//
// It promises that a namespace is left alone only if its owner said so in as many words: by name in the settings, or,
// where the settings go by labels, by a file that tells of the namespace and tells no label
// policy.sigstore.dev/include=true (policy-controller's opt-in). What is not known is judged: a namespace without a
// name, one that the file does not hold because it may be new, every namespace while there is no file or none that
// could be read. A file that breaks leaves what it last said in force.
//
// Which namespaces are left alone is root's to say. A file that others may write, or that is in the folder which sync writes,
// by whatever links its path leads there, frees no namespace of the node's own policies. Its labels say where the cluster's hold.
//
// It does no more than answer for a name. Where the name comes from, and why it can be believed, is the caller's matter.
package namespaces

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cosentry/cosentry/agent/watch"
)

// Options say which namespaces are enforced. Neither list may hold anything but small letters, digits, - and *.
type Options struct {
	// Enforce are patterns of names. A * stands for any run of characters, none included; all else for itself. Nil: all
	// namespaces, or, if File is set, those that it says are labelled.
	Enforce []string
	// Exempt are patterns too, and win over everything else.
	Exempt []string
	// File is the path of a file that holds namespaces with their labels; see Parse.
	File string
	// ForCluster says that File tells where the cluster's policies hold, and not where images are judged at all: it comes
	// from the API server. It is so, whatever the settings say, of a file that others than root may have written.
	ForCluster bool
	// ClusterDir is the folder that sync writes; empty: the cluster has no say, and a file that others may have written says nothing.
	ClusterDir string
	Log        *slog.Logger
}

// States of the file.
const (
	Unused  = "unused"  // the settings do not go by labels
	Good    = "good"    // it is in force
	Missing = "missing" // all namespaces are judged
	Broken  = "broken"  // what it last said is in force; if it never said anything, or is not root's to write, all namespaces are judged
)

// State is what is in force.
type State struct {
	File string // one of the states above
	// Count and Labelled are the namespaces that the file in force holds, and those of them that are judged.
	Count, Labelled int
	Loaded          time.Time // when the file in force was read; zero: none is
	Fault           string    // why the file on disk is not in force
	// ForCluster says that the file in force tells where the cluster's policies hold, and nothing of the node's own.
	ForCluster bool
}

// Namespaces is safe for concurrent use.
type Namespaces struct {
	o Options

	mu      sync.RWMutex
	state   State
	listed  map[string]bool   // in the file in force, and whether labelled; nil: there is none
	foreign string            // why the labels in force are not root's
	last    string            // what the last reading ended in, so that nothing is logged twice
	sum     [sha256.Size]byte // of what was parsed last: a large file is not parsed again every minute
}

// New returns Namespaces that have read their file, if they have one.
func New(o Options) (*Namespaces, error) {
	switch {
	case o.Log == nil:
		return nil, errors.New("namespaces need a log")
	case o.Enforce != nil && o.File != "" && !o.ForCluster:
		return nil, errors.New("namespaces are enforced by name or by label, not by both")
	}
	n := &Namespaces{o: o, state: State{File: Unused, ForCluster: o.ForCluster}}
	n.Load()
	return n, nil
}

// Enforced reports whether images of pods in namespace are judged.
func (n *Namespaces) Enforced(namespace string) bool {
	if namespace == "" {
		return true // nobody said which
	}
	matches := func(glob string) bool { return match(glob, namespace) }
	switch {
	case slices.ContainsFunc(n.o.Exempt, matches):
		return false
	case n.o.File == "" || n.o.Enforce != nil:
		return n.o.Enforce == nil || slices.ContainsFunc(n.o.Enforce, matches)
	}
	labelled, forCluster := n.labelled(namespace)
	return labelled || forCluster
}

// ClusterEnforced reports whether the cluster's policies hold for pods in namespace, if images are judged there.
func (n *Namespaces) ClusterEnforced(namespace string) bool {
	if namespace == "" || n.o.File == "" {
		return true
	}
	labelled, forCluster := n.labelled(namespace)
	return labelled || !forCluster
}

// labelled is true as well for what the file does not hold. forCluster says of what the labels speak.
func (n *Namespaces) labelled(namespace string) (labelled, forCluster bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	labelled, listed := n.listed[namespace]
	return labelled || !listed, n.state.ForCluster
}

// State returns what is in force.
func (n *Namespaces) State() State {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.state
}

// Watch reads the file again whenever its folder changes, again is signalled, or a minute has passed, until ctx ends.
func (n *Namespaces) Watch(ctx context.Context, again <-chan os.Signal) {
	if n.o.File == "" {
		return
	}
	watch.Folder(ctx, filepath.Dir(n.o.File), again, n.o.Log, n.Load)
}

// Load reads the file.
func (n *Namespaces) Load() {
	if n.o.File == "" {
		return
	}
	f, err := read(n.o.File, n.o.ClusterDir)
	// Whose it is counts as much as what it says: the same labels may come from somebody else by now.
	sum := sha256.Sum256(append([]byte(f.foreign+"\x00"), f.data...))
	n.mu.RLock()
	known := n.sum
	n.mu.RUnlock()
	if err == nil && sum == known {
		return
	}
	var listed map[string]bool
	if err == nil {
		if listed, err = Parse(f.data, f.foreign == ""); err != nil {
			err = fmt.Errorf("%s: %w", n.o.File, err)
		}
	} else {
		sum = [sha256.Size]byte{}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sum = sum
	switch {
	case err == nil && f.foreign != "" && n.o.ClusterDir == "":
		n.notRoots(f.foreign)
	case err == nil:
		n.inForce(listed, f.foreign)
	case errors.Is(err, fs.ErrNotExist):
		n.listed, n.state = nil, State{File: Missing, ForCluster: n.o.ForCluster}
		if n.outcome(Missing) {
			n.o.Log.Warn("there is no namespaces file: "+n.everywhere(), "file", n.o.File)
		}
	default:
		n.state.File, n.state.Fault = Broken, err.Error()
		if !n.outcome(err.Error()) {
			return
		}
		if n.listed == nil {
			n.o.Log.Error("the namespaces file cannot be read: "+n.everywhere(), "file", n.o.File, "error", err)
		} else {
			n.o.Log.Error("the namespaces file cannot be read: what it last said stays in force", "file", n.o.File, "loaded", n.state.Loaded, "error", err)
		}
	}
}

// everywhere is what holds while nothing is known.
func (n *Namespaces) everywhere() string {
	if n.state.ForCluster {
		return "the cluster's policies hold in all namespaces"
	}
	return "images are judged in all namespaces"
}

// notRoots is for a file by which others than root would say where images are judged.
func (n *Namespaces) notRoots(why string) {
	n.listed, n.state = nil, State{File: Broken, Fault: why + ", and only root may say where images are judged"}
	if n.outcome(why) {
		n.o.Log.Error("the namespaces file can be written by others than root: "+n.everywhere(), "file", n.o.File, "why", why)
	}
}

func (n *Namespaces) inForce(listed map[string]bool, foreign string) {
	n.listed = listed
	n.state = State{File: Good, Count: len(listed), Loaded: time.Now(), ForCluster: n.o.ForCluster || foreign != ""}
	if foreign != "" && !n.o.ForCluster && n.foreign != foreign {
		n.o.Log.Warn("the namespaces file can be written by others than root: its labels say where the cluster's policies hold, and the node's own hold in all namespaces that are not exempt",
			"file", n.o.File, "why", foreign)
	}
	n.foreign = foreign
	var names []string
	for name, labelled := range listed {
		if labelled {
			names = append(names, name)
		}
	}
	n.state.Labelled = len(names)
	slices.Sort(names)
	if n.outcome(Good + " " + strings.Join(names, " ")) {
		n.o.Log.Info("namespaces in force", "file", n.o.File, "count", len(listed), "labelled", len(names))
	}
}

// outcome reports whether the reading ended otherwise than the last.
func (n *Namespaces) outcome(what string) bool {
	changed := n.last != what
	n.last = what
	return changed
}

// match reports whether name is of the form of glob, in which * stands for any run of characters. A namespace's name
// holds no separator at which a run would have to end.
func match(glob, name string) bool {
	parts := strings.Split(glob, "*")
	if len(parts) == 1 {
		return glob == name
	}
	first, last := parts[0], parts[len(parts)-1]
	if len(name) < len(first)+len(last) || !strings.HasPrefix(name, first) || !strings.HasSuffix(name, last) {
		return false
	}
	rest := name[len(first) : len(name)-len(last)]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(rest, part)
		if i < 0 {
			return false
		}
		rest = rest[i+len(part):]
	}
	return true
}
