package host

import (
	"context"
	"errors"
	"path"

	"github.com/cosentry/cosentry/systemd"
)

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

func (r *run) settings(context.Context) error {
	// Without the folder there are no policies, which is an error; with an empty one there are none yet.
	if err := r.folder(PoliciesDir); err != nil {
		return err
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
	return r.proveAgent(ctx, r.plan.Facts, r.plan.Binary, r.ready)
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
