package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/systemd"
)

// Plan is all that an installation would do, in its order. Making one changes nothing.
type Plan struct {
	Facts Facts
	// Warnings are what the owner should know before.
	Warnings []string

	// Binary is the file to be on the host; Copy says that it is not there yet.
	Binary Binary
	Copy   bool
	// Links lead to the binary.
	Links []files.Change
	// NotTaken says why the settings that are offered do not take the place of those in force, a reason each; empty: they do, or are
	// not asked about.
	NotTaken []string
	// OtherPolicies says which of the node's policies differ from those that are given, a file each.
	OtherPolicies []string
	// Settings are those of the agent, Units those of systemd without kubelet's drop-in.
	Settings []files.Change
	Units    []files.Change
	// Start says why the agent is started, or started again; empty: it is not.
	Start string
	// Socket says why the socket is made anew; empty: it stays.
	Socket string
	// DropIn orders kubelet's unit after the socket. Kubelet is what makes it use the socket.
	DropIn  []files.Change
	Kubelet []files.Change
	// Restart says why kubelet is restarted; empty: it is not.
	Restart string
	// Untold says why it cannot be told whether kubelet is connected to the agent; empty: it can, or need not be. Nothing is restarted for it.
	Untold string
}

// Nothing says that the host is as it should be.
func (p Plan) Nothing() bool {
	return !p.Copy && p.Start == "" && p.Socket == "" && p.Restart == "" &&
		len(p.Links)+len(p.Settings)+len(p.Units)+len(p.DropIn)+len(p.Kubelet) == 0
}

// Plan looks at the host and says what an installation would do.
func (h *Host) Plan(ctx context.Context) (Plan, error) {
	s, err := h.loadOrBegin()
	if err != nil {
		return Plan{}, err
	}
	p, err := h.remembering(s).plan(ctx, s)
	if err != nil {
		return p, err
	}
	if h.takenOff() && !h.o.Person {
		p.Warnings = append(p.Warnings, "nothing of this would be done: "+ErrTakenOff.Error())
	}
	if err := h.refused(s, p); err != nil {
		p.Warnings = append(p.Warnings, "nothing of this would be done: "+err.Error())
	}
	return p, nil
}

// plan is the plan of an installation that can be made.
func (h *Host) plan(ctx context.Context, s State) (Plan, error) {
	p, all := h.survey(ctx, s)
	if len(all) > 0 {
		return p, all[0].err
	}
	if why := h.allowed(s, &p); why != nil {
		return p, why.err
	}
	return p, nil
}

// survey finds out what an installation would do, and what keeps it from that. Settings that are faulty do not keep it from looking at
// the rest: kubelet may be on another way meanwhile.
func (h *Host) survey(ctx context.Context, s State) (p Plan, all []problem) {
	f, why := h.look(ctx, s)
	p.Facts = f
	if why != nil {
		return p, []problem{*why}
	}
	if s.MachineID != "" && s.MachineID != p.Facts.MachineID {
		p.Warnings = append(p.Warnings, fmt.Sprintf(
			"the state in %s is of machine %s and this is %s, as after a disk was copied: what it says is only used where the files are as it wrote them",
			InstallDir, s.MachineID, p.Facts.MachineID))
	}
	for _, one := range []struct {
		what string
		do   func() error
		on   bool // the rest can be looked at all the same
	}{
		{FaultHost, func() error { return h.planBinary(&p) }, false},
		{FaultInvalid, func() error { return h.planSettings(s, &p) }, true},
		{FaultHost, func() error { return h.planUnits(&p) }, false},
		{FaultHost, func() error { return h.planStart(ctx, s, &p) }, false},
		{FaultLayout, func() error { return h.planKubelet(ctx, s, &p) }, false},
	} {
		err := one.do()
		if err == nil {
			continue
		}
		all = append(all, problem{one.what, err})
		if !one.on {
			return p, all
		}
	}
	if len(p.NotTaken) > 0 {
		p.Warnings = append(p.Warnings, h.notTaken(p.NotTaken))
	}
	return p, all
}

// planUnits splits what package systemd has for this host into units and kubelet's drop-in.
func (h *Host) planUnits(p *Plan) error {
	f := p.Facts
	all, err := systemd.Files(systemd.Node{
		Runtime: f.Runtime.Name, RuntimeUnit: f.Runtime.Unit, KubeletUnit: f.KubeletUnit,
		Binary: path.Join(f.BinDir, "cosentry"), Config: ConfigFile, Version: f.Systemd,
	})
	if err != nil {
		return err
	}
	for _, one := range all {
		c, err := h.change(path.Join(systemd.Dir, one.Path), one.Text)
		if err != nil {
			return err
		}
		c.Mode = one.Mode
		switch {
		case c.Nothing():
		case path.Base(one.Path) == systemd.DropIn:
			p.DropIn = append(p.DropIn, c)
		default:
			p.Units = append(p.Units, c)
		}
	}
	return nil
}

// change is how the file at path comes to hold text.
func (h *Host) change(path string, text []byte) (files.Change, error) {
	before, err := h.tree.Read(path)
	return files.Change{Path: path, Before: before, After: text}, err
}

// planStart finds out whether what runs is what shall run.
func (h *Host) planStart(ctx context.Context, s State, p *Plan) error {
	service, err := h.o.Systemd.Unit(ctx, systemd.Service)
	if err != nil {
		return err
	}
	socket, err := h.o.Systemd.Unit(ctx, systemd.Socket)
	if err != nil {
		return err
	}
	there, err := h.tree.Exists(p.Facts.Socket)
	if err != nil {
		return err
	}
	switch {
	case socket.Active != "active":
		p.Socket = "it is " + socket.Active
	case socket.Load != "loaded" || len(socket.Listen) == 0:
		// systemd read its units while the file was gone: it let go of the socket, and says that it is active all the same.
		p.Socket = "systemd let go of it"
	case !there:
		p.Socket = p.Facts.Socket + " is gone"
	case socket.Listen[0] != p.Facts.Socket:
		p.Socket = "it listens on " + socket.Listen[0]
	}
	running := h.running(service.MainPID)
	switch {
	case service.Active != "active":
		p.Start = "it is " + service.Active
	case p.Socket != "":
		p.Start = "its socket is made anew"
	case len(p.Settings) > 0:
		p.Start = "its settings change"
	case len(p.Units) > 0 || service.NeedDaemonReload || socket.NeedDaemonReload:
		p.Start = "its unit changes"
	case running != p.Binary.Path:
		p.Start = fmt.Sprintf("%s runs and %s shall", path.Base(running), path.Base(p.Binary.Path))
	case s.Phase == Installing:
		p.Start = "an installation was stopped halfway"
	default:
		lost, err := h.foldersLost(s)
		if lost != "" {
			p.Start = "its folder " + lost + " was lost"
		}
		return err
	}
	return nil
}

// running is the file that a process of the host was started from; "" if that cannot be told.
func (h *Host) running(pid int) string {
	if pid == 0 {
		return ""
	}
	to, err := h.tree.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(to, " (deleted)")
}

// planKubelet finds out what makes kubelet use the agent's socket, and whether it has to be restarted for that.
func (h *Host) planKubelet(ctx context.Context, s State, p *Plan) (err error) {
	f := p.Facts
	if p.Kubelet, err = f.Endpoint.Changes(f.Socket); err != nil {
		return err
	}
	if err := h.staysAfterBoot(p.Kubelet); err != nil {
		return err
	}
	switch {
	case len(p.Kubelet) > 0:
		p.Restart = "it shall use " + f.Socket
	case s.Kubelet.Restart:
		p.Restart = "its settings were changed and it was not restarted since"
	case f.KubeletPID == 0:
		p.Restart = "it does not run"
	case p.Start == "":
		// One that lost its connection to an agent that was restarted makes another with its next call.
		var untold error
		err := wait(ctx, h.o.Reconnect, func(ctx context.Context) error {
			untold = h.connected(ctx, f.Socket, f.KubeletUnit)
			if errors.Is(untold, errBypassed) || ctx.Err() != nil { // a look that was cut off tells nothing new
				return untold
			}
			return nil
		})
		switch {
		case errors.Is(err, errBypassed):
			p.Restart = errBypassed.Error()
		case err != nil:
			p.Untold = err.Error()
		case untold != nil:
			p.Untold = untold.Error()
		}
	}
	return nil
}

// Print shows the plan to a person, with the diff of each file.
func (p Plan) Print(w io.Writer) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	f := p.Facts
	line("host: machine %s, systemd %d", f.MachineID, f.Systemd)
	line("runtime: %s %.64q on %s%s", f.Runtime.Name, f.Runtime.Version, f.Runtime.Socket, inUnit(f.Runtime.Unit))
	line("kubelet: %s, endpoint %s set in %s", f.KubeletUnit, f.Endpoint.Runtime, f.Endpoint.Source)
	for _, one := range p.Warnings {
		line("warning: %s", one)
	}
	if p.Nothing() {
		line("nothing to do: all is as it should be")
	}
	if p.Copy {
		line("binary: write %s", p.Binary.Path)
	}
	show(&b, "links", p.Links)
	show(&b, "settings", p.Settings)
	show(&b, "units", p.Units)
	because(&b, "socket: make it, because", p.Socket)
	because(&b, "agent: start it, because", p.Start)
	show(&b, "kubelet's unit", p.DropIn)
	show(&b, "kubelet's endpoint", p.Kubelet)
	because(&b, "kubelet: restart it, because", p.Restart)
	because(&b, "warning:", p.Untold)
	_, err := io.WriteString(w, b.String())
	return err
}

func inUnit(unit string) string {
	if unit == "" {
		return ""
	}
	return ", " + unit
}

func because(b *strings.Builder, what, why string) {
	if why != "" {
		fmt.Fprintf(b, "%s %s\n", what, why)
	}
}

func show(b *strings.Builder, what string, changes []files.Change) {
	for _, c := range changes {
		fmt.Fprintf(b, "%s: %s\n%s", what, c.Path, c.Diff())
	}
}
