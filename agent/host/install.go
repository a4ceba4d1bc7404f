package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"slices"

	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/systemd"
)

// run is one installation under way.
type run struct {
	*Host
	plan  Plan
	state State
	was   State // before this run
	back  []step
	// restarted says that this run restarted the agent, or tried to.
	restarted bool
	// moved says that this run changed where kubelet's settings lead.
	moved bool
	// ready says that the agent has to be: it was before this run, or never proved itself.
	ready bool
	// proving says that the new agent runs, or should, and that kubelet was not touched yet.
	proving bool
}

// step takes back something that was done.
type step struct {
	what string
	do   func(context.Context) error
}

// undone has do called if this run fails, before all that was named earlier.
func (r *run) undone(what string, do func(context.Context) error) {
	r.back = append(r.back, step{what, do})
}

// Install puts cosentry on the host, or brings what is there up to date, and proves that it works. If it fails, the host is as it
// was, or the error says what is not.
func (h *Host) Install(ctx context.Context) error { return h.install(ctx, false) }

// install is that, or, mending, one that nobody asked for: it does nothing on a host from which cosentry was taken.
func (h *Host) install(ctx context.Context, mending bool) error {
	if err := h.isHost(ctx, &Facts{}); err != nil { // before the lock makes a folder
		return err
	}
	unlock, err := h.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := h.loadOrBegin()
	if err != nil {
		return err
	}
	switch { // known for certain only now: another run may have ended while this one waited
	case h.takenOff() && (mending || !h.o.Person):
		return ErrTakenOff
	case mending && (s.Phase == Uninstalling || h.gone(s)):
		return errors.New("cosentry was taken off this host, or is being so")
	}
	h.sweep(s)
	h = h.remembering(s)
	p, err := h.plan(ctx, s)
	if err != nil {
		return err
	}
	if err := h.refused(s, p); err != nil {
		return err
	}
	for _, one := range p.Warnings {
		h.say("warning: %s", one)
	}
	r := &run{Host: h, plan: p, state: s, was: s.clone()}
	if err := r.stages(ctx); err != nil {
		return r.giveUp(ctx, err)
	}
	h.say("installed: cosentry %s answers for %s on %s, and kubelet uses it", p.Binary.Version, p.Facts.Runtime.Name, p.Facts.Socket)
	if len(p.NotTaken) > 0 {
		h.say("warning: the settings of %s were NOT TAKEN, see above", h.o.Settings)
	}
	return nil
}

func (r *run) stages(ctx context.Context) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	for _, stage := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"binary", r.binary}, {"settings", r.settings}, {"units", r.units}, {"start", r.start},
		{"agent's proof", r.agentProof}, {"kubelet", r.kubelet}, {"kubelet's proof", r.kubeletProof}, {"state", r.finish},
	} {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stage %s: %w", stage.name, err)
		}
		r.proving = stage.name == "start" || stage.name == "agent's proof"
		if err := stage.do(ctx); err != nil {
			return fmt.Errorf("stage %s: %w", stage.name, err)
		}
	}
	return nil
}

// begin writes down what this run goes by, and has the agent that ran before run again if it fails.
func (r *run) begin(ctx context.Context) error {
	f := r.plan.Facts
	r.state.MachineID = f.MachineID
	if !r.plan.Nothing() {
		r.state.Phase = Installing
	}
	r.ready = !r.was.proved() || r.o.Proofs.Ready(ctx) == nil
	r.state.Runtime, r.state.Socket = f.Runtime, f.Socket
	r.state.NotTaken = r.plan.NotTaken
	r.noteGiven(&r.state)
	r.state.Kubelet.Unit, r.state.Kubelet.Layout = f.KubeletUnit, f.Endpoint.Layout
	if f.KubeletPID != 0 && r.o.Proofs.Healthy(ctx) == nil {
		r.state.Kubelet.Healthy = true
	}
	if err := r.saveChanged(); err != nil {
		return err
	}
	r.undone("agent", r.agentBack)
	return nil
}

// agentBack has the agent run that proved itself last. It does not rely on what this run changed: the one before it may have been
// killed when it had put another binary in place.
func (r *run) agentBack(ctx context.Context) error {
	before := r.was.Agent
	if before.Path == "" {
		return nil
	}
	links, err := r.links(r.plan.Facts, before)
	if err != nil {
		return err
	}
	for _, c := range links {
		if err := r.tree.Apply(c); err != nil {
			return err
		}
	}
	if !r.restarted && len(links) == 0 {
		return nil
	}
	r.say("undo: going back to %s", path.Base(before.Path))
	if err := r.o.Systemd.Restart(ctx, systemd.Service); err != nil {
		if err := r.secondTry(ctx, err); err != nil {
			return err
		}
	}
	return r.proveAgent(ctx, r.plan.Facts, before, false)
}

// saveChanged writes the state if it is another than the one on disk. A host that is well needs no room to be installed again.
func (r *run) saveChanged() error {
	onDisk, err := r.load()
	if err == nil && onDisk.Phase != "" {
		now := r.state.clone()
		now.Format, now.Changed = onDisk.Format, onDisk.Changed
		if reflect.DeepEqual(now, onDisk) {
			return nil
		}
	}
	return r.save(&r.state)
}

// forget has the state be as it was before this run. On a host that had none, nothing of it stays.
func (r *run) forget(ctx context.Context) error {
	if r.was.Phase != "" {
		return r.save(&r.was)
	}
	return errors.Join(r.tree.RemoveAll(ctx, socketDir), r.tree.RemoveEmpty(auditDir), r.removeState(ctx, r.state.Folders))
}

// write makes a change that this run takes back if it fails.
func (r *run) write(stage string, c files.Change) error {
	if c.Nothing() {
		return nil
	}
	made, err := r.tree.MakeDir(path.Dir(c.Path), folderMode(c.Path))
	r.state.made(made)
	if err != nil {
		return err
	}
	r.undone(c.Path, func(context.Context) error {
		if r.was.Agent.Path != "" && stage != stageKubelet && c.Before == nil && c.BeforeLink == "" {
			return nil // it was lost, and the agent that this run goes back to needs it
		}
		if err := r.tree.Apply(c.Undo()); err != nil {
			return err
		}
		return r.unmake(made)
	})
	if err := r.record(&r.state, stage, c); err != nil {
		return err
	}
	r.say("%s: %s", stage, c.Path)
	return r.tree.Apply(c)
}

// folderMode is that of a folder made for the file at p.
func folderMode(p string) fs.FileMode {
	if under(p, path.Join(configDir, "secrets")) {
		return 0o700
	}
	return 0o755
}

// unmake removes folders that were made, if nothing is in them.
func (r *run) unmake(made []string) error {
	for _, dir := range slices.Backward(made) {
		if err := r.tree.RemoveEmpty(dir); err != nil {
			return err
		}
	}
	return nil
}

// finish writes down what proved itself. The binary before it stays beside it, for the next undoing.
func (r *run) finish(ctx context.Context) error {
	older := r.was.Agent
	r.state.Phase, r.state.Agent, r.state.Kubelet.Restart = Installed, r.plan.Binary, false
	if r.plan.upgrade(r.was) != "" {
		r.state.Refused = nil
	}
	if r.o.Proofs.Healthy(ctx) == nil {
		r.state.Kubelet.Healthy = true
	}
	if err := r.tree.Remove(OffFile); err != nil {
		return err
	}
	if err := r.saveChanged(); err != nil {
		return err
	}
	if err := r.keep(); err != nil {
		r.say("warning: no copy of the settings was kept for a boot that loses /etc: %v", err)
	}
	r.prune(r.plan.Facts.BinDir, r.plan.Binary, older)
	return nil
}

// giveUp puts back what this run did, in reverse. It does not end with ctx: who stops an installation wants a host that works.
func (r *run) giveUp(ctx context.Context, why error) error {
	r.refuse(ctx, why)
	r.say("failed: %v", why)
	r.say("undo: putting back what was changed")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.o.Undo)
	defer cancel()
	var failed []error
	for _, s := range slices.Backward(r.back) {
		if err := s.do(ctx); err != nil {
			r.say("undo: %s: %v", s.what, err)
			failed = append(failed, fmt.Errorf("%s: %w", s.what, err))
		}
	}
	if len(failed) == 0 {
		if err := r.forget(ctx); err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%w; and not all could be put back: %w", why, errors.Join(failed...))
	}
	return fmt.Errorf("%w; everything is as it was before", why)
}
