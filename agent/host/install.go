package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
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
func (h *Host) Install(ctx context.Context) error {
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
	h = h.remembering(s)
	p, err := h.plan(ctx, s)
	if err != nil {
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
		if err := stage.do(ctx); err != nil {
			return fmt.Errorf("stage %s: %w", stage.name, err)
		}
	}
	return nil
}

// begin writes down what this run goes by, and has the agent that ran before run again if it fails.
func (r *run) begin(ctx context.Context) error {
	f := r.plan.Facts
	r.state.MachineID, r.state.Phase = f.MachineID, Installing
	r.state.Runtime, r.state.Socket = f.Runtime, f.Socket
	r.state.Kubelet.Unit, r.state.Kubelet.Layout = f.KubeletUnit, f.Endpoint.Layout
	if f.KubeletPID != 0 && r.o.Proofs.Healthy(ctx) == nil {
		r.state.Kubelet.Healthy = true
	}
	if err := r.save(&r.state); err != nil {
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
	return r.proveAgent(ctx, r.plan.Facts, before)
}

// forget has the state be as it was before this run. On a host that had none, nothing of it stays.
func (r *run) forget() error {
	if r.was.Phase != "" {
		return r.save(&r.was)
	}
	return errors.Join(r.tree.RemoveAll(socketDir), r.removeState(r.state.Folders))
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

func (r *run) binary(ctx context.Context) error {
	b := r.plan.Binary
	if r.plan.Copy {
		made, err := r.tree.MakeDir(r.plan.Facts.BinDir, 0o755)
		r.state.made(made)
		if err != nil {
			return err
		}
		r.undone(b.Path, func(context.Context) error {
			if b.Path == r.was.Agent.Path {
				return nil // it was broken, and is mended
			}
			if err := r.tree.Remove(b.Path); err != nil {
				return err
			}
			return r.unmake(made)
		})
		r.say("binary: %s", b.Path)
		if err := r.copyBinary(b); err != nil {
			return err
		}
	}
	for _, c := range r.plan.Links {
		if err := r.write(stageLink, c); err != nil {
			return err
		}
	}
	return nil
}

// folder makes a folder that goes again if this run fails.
func (r *run) folder(p string) error {
	made, err := r.tree.MakeDir(p, 0o755)
	r.state.made(made)
	r.undone(p, func(context.Context) error { return r.unmake(made) })
	return err
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

func (r *run) settings(context.Context) error {
	if r.was.MachineID == "" {
		// Without the folder there are no policies, which is an error; with an empty one there are none yet.
		if err := r.folder(PoliciesDir); err != nil {
			return err
		}
	}
	for _, c := range r.plan.Settings {
		if err := r.write(stageSettings, c); err != nil {
			return err
		}
	}
	return nil
}

// units writes the units and has systemd read them. kubelet's drop-in is not among them: it comes with kubelet's endpoint.
func (r *run) units(ctx context.Context) error {
	if len(r.plan.Units) > 0 {
		r.undone("systemd", r.o.Systemd.Reload)
	}
	for _, c := range r.plan.Units {
		if err := r.write(stageUnit, c); err != nil {
			return err
		}
	}
	if len(r.plan.Units) > 0 || r.plan.Start != "" {
		return r.o.Systemd.Reload(ctx)
	}
	return nil
}

// start has the units started at boot and now. The socket of an agent that runs stays, with all connections that wait in it.
func (r *run) start(ctx context.Context) error {
	sd := r.o.Systemd
	service, err := sd.Unit(ctx, systemd.Service)
	if err != nil {
		return err
	}
	socket, err := sd.Unit(ctx, systemd.Socket)
	if err != nil {
		return err
	}
	if service.Enabled != "enabled" || socket.Enabled != "enabled" {
		r.undone("enabling", func(ctx context.Context) error {
			if r.was.Phase != "" {
				return nil
			}
			return sd.Disable(ctx, systemd.Service, systemd.Socket)
		})
		if err := r.noteWants(); err != nil {
			return err
		}
		if err := sd.Enable(ctx, systemd.Socket, systemd.Service); err != nil {
			return err
		}
	}
	if r.plan.Start == "" && r.plan.Socket == "" {
		return nil
	}
	if r.was.Phase == "" {
		r.undone("agent", func(ctx context.Context) error {
			return errors.Join(sd.Stop(ctx, systemd.Socket), sd.Stop(ctx, systemd.Service))
		})
	}
	r.restarted = true
	if r.plan.Socket != "" {
		r.say("start: %s, because %s", systemd.Socket, r.plan.Socket)
		return r.freshSocket(ctx)
	}
	r.say("start: %s, because %s", systemd.Service, r.plan.Start)
	if err = sd.Restart(ctx, systemd.Service); err != nil && r.plan.Binary == r.was.Agent {
		return r.secondTry(ctx, err)
	}
	return err
}

// freshSocket makes the socket anew. A socket does not start beside a service that runs already.
func (r *run) freshSocket(ctx context.Context) error {
	sd := r.o.Systemd
	return errors.Join(sd.Stop(ctx, systemd.Service), sd.Restart(ctx, systemd.Socket), sd.Restart(ctx, systemd.Service))
}

// secondTry starts an agent that once proved itself and does not start now. systemd may have let go of its socket without a word,
// as it does when it reads units of which one is missing for a moment. A binary that is new has no second try: its predecessor's
// socket, in which kubelet waits, would be lost for nothing.
func (r *run) secondTry(ctx context.Context, why error) error {
	r.say("start: %v; once more, with a new socket", why)
	return r.freshSocket(ctx)
}

// noteWants remembers folders that systemd is about to make for the links of units that start at boot.
func (r *run) noteWants() error {
	for _, target := range []string{"sockets.target.wants", "multi-user.target.wants"} {
		dir := path.Join(systemd.Dir, target)
		there, err := r.tree.Exists(dir)
		if err != nil {
			return err
		}
		if !there {
			r.state.made([]string{dir})
		}
	}
	return r.save(&r.state)
}

func (r *run) agentProof(ctx context.Context) error {
	return r.proveAgent(ctx, r.plan.Facts, r.plan.Binary)
}

// kubelet has kubelet use the socket. It is restarted if it does not.
func (r *run) kubelet(ctx context.Context) error {
	p := r.plan
	if len(p.Kubelet)+len(p.DropIn) > 0 || p.Restart != "" {
		r.undone("kubelet", r.kubeletAgain)
	}
	for _, c := range p.DropIn {
		if err := r.write(stageUnit, c); err != nil {
			return err
		}
	}
	if len(p.Kubelet) > 0 {
		r.state.Kubelet.Restart = true // said before, so that a run that is killed here is made good by the next
	}
	for _, c := range p.Kubelet {
		if err := r.write(stageKubelet, c); err != nil {
			return err
		}
		r.moved = true
	}
	if len(p.DropIn)+len(p.Kubelet) > 0 {
		if err := r.o.Systemd.Reload(ctx); err != nil {
			return err
		}
	}
	if p.Restart == "" {
		return nil
	}
	r.say("kubelet: restarting %s, because %s", p.Facts.KubeletUnit, p.Restart)
	return r.o.Systemd.Restart(ctx, p.Facts.KubeletUnit)
}

// kubeletAgain is called when kubelet's files are as they were before this run.
func (r *run) kubeletAgain(ctx context.Context) error {
	if err := r.o.Systemd.Reload(ctx); err != nil || !r.moved {
		return err
	}
	unit := r.plan.Facts.KubeletUnit
	r.say("undo: restarting %s", unit)
	if err := r.o.Systemd.Restart(ctx, unit); err != nil {
		return err
	}
	return r.proveKubelet(ctx, unit, r.state.Kubelet.Healthy, "")
}

func (r *run) kubeletProof(ctx context.Context) error {
	return r.proveKubelet(ctx, r.plan.Facts.KubeletUnit, r.state.Kubelet.Healthy, r.plan.Facts.Socket)
}

// finish writes down what proved itself. The binary before it stays beside it, for the next undoing.
func (r *run) finish(ctx context.Context) error {
	older := r.was.Agent
	r.state.Phase, r.state.Agent, r.state.Kubelet.Restart = Installed, r.plan.Binary, false
	if r.o.Proofs.Healthy(ctx) == nil {
		r.state.Kubelet.Healthy = true
	}
	if err := r.save(&r.state); err != nil {
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
		if err := r.forget(); err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%w; and not all could be put back: %w", why, errors.Join(failed...))
	}
	return fmt.Errorf("%w; everything is as it was before", why)
}
