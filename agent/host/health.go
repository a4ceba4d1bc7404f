package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/cosentry/cosentry/agent/host/files"
)

// Fault is one thing of an installation that is not as it should be.
type Fault struct {
	// What is a word of the closed set below, for metrics.
	What string
	// Why says it to a person.
	Why string
}

// What may be wrong. The first group keeps from installing again: somebody has to do something about it first.
const (
	FaultHost    = "host"    // it cannot be looked at: no systemd, a state that cannot be read
	FaultLayout  = "layout"  // where kubelet is told its runtime cannot be understood, or not be changed
	FaultRuntime = "runtime" // it does not answer
	FaultInvalid = "invalid" // settings that no agent could start with on this host
	FaultRoom    = "room"    // too little, or read-only, for what is to be mended
	FaultUnsafe  = "unsafe"  // others than root can write to where the binary is to be written

	FaultBinary   = "binary"   // lost, changed, or another in its place
	FaultSettings = "settings" // lost, or another version of them is to be installed
	FaultUnits    = "units"    // lost or changed
	FaultSocket   = "socket"   // not there, or on another path
	FaultAgent    = "agent"    // not running, or not what was installed
	FaultDropIn   = "dropin"   // kubelet does not wait for the socket at boot
	FaultEndpoint = "endpoint" // kubelet's settings name another socket
	FaultKubelet  = "kubelet"  // it does not run, or is not connected to the agent
	FaultOffered  = "offered"  // the settings that are offered are not taken: they are weaker than the node's, or faulty
	FaultPolicies = "policies" // the policies that are given are not the node's, which keeps its own
	FaultUntold   = "untold"   // whether kubelet is connected to the agent cannot be told
)

// stuck are the faults that no installation mends.
var stuck = [...]string{FaultHost, FaultLayout, FaultRuntime, FaultInvalid, FaultRoom, FaultUnsafe}

// AllFaults are all values of Fault.What.
func AllFaults() []string {
	return append(stuck[:len(stuck):len(stuck)], FaultBinary, FaultSettings, FaultUnits, FaultSocket, FaultAgent, FaultDropIn, FaultEndpoint, FaultKubelet, FaultOffered, FaultPolicies, FaultUntold)
}

// Health is what a look at an installation found.
type Health struct {
	Phase  Phase
	Agent  Binary
	Faults []Fault
	// Left says that cosentry was taken off on purpose: by a person, by a run that is under way, or without a trace.
	Left bool
}

// Whole says that the installation is as it should be, as far as can be told. To install again would not change that other settings or
// policies are given than it takes, nor that kubelet's connections cannot be seen.
func (h Health) Whole() bool {
	told := []string{FaultOffered, FaultPolicies, FaultUntold}
	return !slices.ContainsFunc(h.Faults, func(f Fault) bool { return !slices.Contains(told, f.What) })
}

// Repairable says that an installation would mend what is wrong.
func (h Health) Repairable() bool {
	return !h.Whole() && !slices.ContainsFunc(h.Faults, func(f Fault) bool { return slices.Contains(stuck[:], f.What) })
}

// Look compares the host with what an installation would make of it, and changes nothing.
func (h *Host) Look(ctx context.Context) Health {
	s, err := h.load()
	var broken *brokenState
	if err != nil && !errors.As(err, &broken) {
		return Health{Faults: []Fault{{FaultHost, err.Error()}}}
	}
	health := Health{Phase: s.Phase, Agent: s.Agent}
	if h.takenOff() || s.Phase == Uninstalling || err == nil && h.gone(s) {
		health.Left = true
		return health
	}
	p, problems := h.remembering(s).installed(s).survey(ctx, s)
	if len(problems) == 0 {
		if why := h.allowed(s, &p); why != nil {
			problems = append(problems, *why)
		}
	}
	for _, one := range problems {
		health.Faults = append(health.Faults, Fault{one.what, one.err.Error()})
	}
	health.Faults = append(health.Faults, p.faults()...)
	return health
}

// installed is the host with the binary that the state says is installed as the one to install: whoever mends a host does not
// change its version. Where that binary is lost it is replaced by the one that was given.
func (h *Host) installed(s State) *Host {
	h = h.holding(s)
	if s.Agent.Path == "" || h.o.Version == s.Agent.Version {
		return h
	}
	here, err := h.tree.Path(s.Agent.Path)
	if err != nil {
		return h
	}
	if differs, err := h.differs(s.Agent); err != nil || differs {
		return h
	}
	other := *h
	other.o.Binary, other.o.Version = here, s.Agent.Version
	return &other
}

// Repair installs what is installed once more, unless it was taken off.
func (h *Host) Repair(ctx context.Context) error {
	s, err := h.loadOrBegin()
	if err != nil {
		return err
	}
	return h.installed(s).install(ctx, true)
}

// faults says in words what a plan would change.
func (p Plan) faults() (all []Fault) {
	add := func(what, why string) { all = append(all, Fault{what, why}) }
	changed := func(what string, changes []files.Change) {
		for _, c := range changes {
			if c.Before == nil && c.BeforeLink == "" {
				add(what, c.Path+" is missing")
				continue
			}
			add(what, c.Path+" is not as it was written")
		}
	}
	if len(p.NotTaken) > 0 {
		add(FaultOffered, "settings that are offered are not taken, because this node enforces and they would loosen that: "+strings.Join(p.NotTaken, "; "))
	}
	if len(p.OtherPolicies) > 0 {
		add(FaultPolicies, "policies that are given are not taken, because this node has its own: "+policyList(p.OtherPolicies))
	}
	if p.Copy {
		add(FaultBinary, p.Binary.Path+" is missing or was changed")
	}
	changed(FaultBinary, p.Links)
	changed(FaultSettings, p.Settings)
	changed(FaultUnits, p.Units)
	if p.Socket != "" {
		add(FaultSocket, "the socket: "+p.Socket)
	}
	if p.Start != "" {
		add(FaultAgent, "the agent: "+p.Start)
	}
	changed(FaultDropIn, p.DropIn)
	for _, c := range p.Kubelet {
		add(FaultEndpoint, fmt.Sprintf("kubelet is told %s (%s)", p.Facts.Endpoint.Runtime, c.Path))
	}
	if p.Restart != "" && len(p.Kubelet) == 0 {
		add(FaultKubelet, "kubelet: "+p.Restart)
	}
	if p.Untold != "" {
		add(FaultUntold, p.Untold)
	}
	return all
}

// Keep has what is kept of a host that is well be as the host is: the copy of the owner's settings, for a boot that loses /etc, and
// what the state says of settings that are offered. It does nothing while another run is under way, and where nothing is installed.
func (h *Host) Keep(ctx context.Context) error {
	return errors.Join(h.keepSettings(ctx), h.noteOffer(ctx))
}

func (h *Host) keepSettings(ctx context.Context) error {
	stale, err := h.stale()
	if err != nil || !stale {
		return err
	}
	unlock, err := h.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := h.load()
	if err != nil || s.Phase != Installed {
		return err
	}
	return h.keep()
}

// stale says whether the copy differs from the settings.
func (h *Host) stale() (bool, error) {
	wanted, err := h.walk(configDir)
	if err != nil {
		return false, err
	}
	if !slices.Contains(wanted, path.Base(ConfigFile)) {
		return false, nil // lost: the copy is all there is
	}
	kept, err := h.walk(keptDir)
	if err != nil {
		return false, err
	}
	if !slices.Equal(wanted, kept) {
		return true, nil
	}
	for _, rel := range wanted {
		a, err := h.tree.Read(path.Join(configDir, rel))
		if err != nil {
			return false, err
		}
		b, err := h.tree.Read(path.Join(keptDir, rel))
		if err != nil {
			return false, err
		}
		if !bytes.Equal(a, b) {
			return true, nil
		}
	}
	return false, nil
}
