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

// What may be wrong.
const (
	FaultHost     = "host"     // it cannot be looked at: no runtime, no systemd, a kubelet that cannot be understood
	FaultBinary   = "binary"   // lost, changed, or another in its place
	FaultSettings = "settings" // lost, or another version of them is to be installed
	FaultUnits    = "units"    // lost or changed
	FaultSocket   = "socket"   // not there, or on another path
	FaultAgent    = "agent"    // not running, or not what was installed
	FaultDropIn   = "dropin"   // kubelet does not wait for the socket at boot
	FaultEndpoint = "endpoint" // kubelet's settings name another socket
	FaultKubelet  = "kubelet"  // it does not run, or is not connected to the agent
	FaultOffered  = "offered"  // the settings that are offered are not taken: they are weaker than the node's, or faulty
)

// AllFaults are all values of Fault.What.
func AllFaults() []string {
	return []string{FaultHost, FaultBinary, FaultSettings, FaultUnits, FaultSocket, FaultAgent, FaultDropIn, FaultEndpoint, FaultKubelet, FaultOffered}
}

// Health is what a look at an installation found.
type Health struct {
	Phase  Phase
	Agent  Binary
	Faults []Fault
	// Gone says that there is neither a state nor anything else of cosentry: it was taken off.
	Gone bool
}

// Whole says that the installation is as it should be. That other settings are offered than it takes is none of its faults, and to
// install again would not change it.
func (h Health) Whole() bool {
	return !slices.ContainsFunc(h.Faults, func(f Fault) bool { return f.What != FaultOffered })
}

// Repairable says that an installation would mend what is wrong.
func (h Health) Repairable() bool {
	return !h.Whole() && !slices.ContainsFunc(h.Faults, func(f Fault) bool { return f.What == FaultHost })
}

// Look compares the host with what an installation would make of it, and changes nothing.
func (h *Host) Look(ctx context.Context) Health {
	s, err := h.load()
	var broken *brokenState
	if err != nil && !errors.As(err, &broken) {
		return Health{Faults: []Fault{{FaultHost, err.Error()}}}
	}
	health := Health{Phase: s.Phase, Agent: s.Agent}
	p, err := h.remembering(s).installed(s).plan(ctx, s)
	if err != nil {
		health.Faults = []Fault{{FaultHost, err.Error()}}
		return health
	}
	health.Faults = p.faults()
	health.Gone = s.Phase == "" && err == nil && p.untouched()
	return health
}

// installed is the host with the binary that the state says is installed as the one to install: whoever mends a host does not
// change its version. Where that binary is lost it is replaced by the one that was given.
func (h *Host) installed(s State) *Host {
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

// Repair installs what is installed once more.
func (h *Host) Repair(ctx context.Context) error {
	s, err := h.loadOrBegin()
	if err != nil {
		return err
	}
	if s.Phase == Uninstalling {
		return errors.New("cosentry is being taken off this host")
	}
	return h.installed(s).Install(ctx)
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
	return all
}

// untouched says that nothing of cosentry is on the host.
func (p Plan) untouched() bool {
	return p.Copy && len(p.DropIn) == 1 && p.DropIn[0].Before == nil && len(p.Units) == 2 && p.Units[0].Before == nil && p.Units[1].Before == nil &&
		!ours(p.Facts.Endpoint.Runtime) && !ours(p.Facts.Endpoint.Image)
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
