package doctor

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/systemd"
	"github.com/cosentry/cosentry/systemd/manager"
)

// installAgain mends what an installation wrote and somebody, or a reboot, took away.
const installAgain = "cosentry install, which writes again what is missing"

func settings(_ context.Context, n *node) Finding {
	mend := "mend the file, check it (cosentry config check " + n.Settings + "), and systemctl restart " + systemd.Service
	var broken *sight.SettingsBroken
	if n.status != nil {
		broken = n.status.SettingsBroken
	}
	switch {
	case n.faulty != nil && broken != nil:
		return fail(mend, "%s is NOT IN FORCE: %v; the agent goes on with a copy of older settings, mode %s, kept at %s in %s: what was changed since then does not hold",
			n.Settings, n.faulty, n.status.Mode, broken.Kept.Format(time.RFC3339), broken.Copy)
	case broken != nil:
		return warn("systemctl restart "+systemd.Service, "%s is good, and is not in force yet: the agent found it faulty when it started (%s), and goes on with a copy kept at %s",
			n.Settings, broken.Fault, broken.Kept.Format(time.RFC3339))
	case n.faulty != nil && n.kept != "":
		return fail(mend, "%s: %v; an agent that starts now goes on with a copy of older settings, mode %s, in %s: what was changed since then does not hold",
			n.Settings, n.faulty, n.config.Mode, n.kept)
	case errors.Is(n.faulty, fs.ErrNotExist):
		return fail(installAgain, "%v: the service does not start without it, and nothing that it could go by instead is kept", n.faulty)
	case n.faulty != nil:
		return fail("mend the file and check it: cosentry config check "+n.Settings, "%s: an agent does not start with these settings: %v", n.Settings, n.faulty)
	}
	if n.state != nil && len(n.state.NotTaken) > 0 {
		return warn("if nobody meant to loosen it, look who changed the settings that are offered, as in the DaemonSet's ConfigMap; otherwise "+host.HowToWeaken,
			"%s is good, and stays in force: other settings were offered and not taken, because this node enforces: %s", n.Settings, strings.Join(n.state.NotTaken, "; "))
	}
	return good("%s is good", n.Settings)
}

func mode(_ context.Context, n *node) Finding {
	m := string(n.config.Mode)
	if n.status != nil && n.status.BreakGlass != nil {
		b := n.status.BreakGlass
		return warn("end it once it is not needed any more: cosentry break-glass --end", "THE GLASS IS BROKEN: nothing is refused until %s; by %s, because: %s", b.Until.Format(time.RFC3339), b.By, b.Reason)
	}
	if n.status != nil {
		if m = n.status.Mode; m != string(n.config.Mode) {
			return warn("systemctl restart "+systemd.Service, "the agent is in mode %s and the settings say %s", m, n.config.Mode)
		}
	}
	if m == string(config.Observe) {
		return warn("once nothing is recorded that should run (cosentry report): mode: enforce in "+n.Settings+", and systemctl restart "+systemd.Service,
			"mode observe: nothing is refused")
	}
	return good("mode %s", m)
}

func units(ctx context.Context, n *node) Finding {
	if n.systemd == nil {
		return warn("run this as root on a node with systemd", "systemd cannot be asked: %v", n.noUnits)
	}
	for _, want := range []struct{ name, down string }{
		{systemd.Socket, "kubelet cannot connect"},
		{systemd.Service, "kubelet's calls wait"},
	} {
		u, err := n.unit(ctx, want.name)
		switch {
		case err != nil:
			return warn("run this as root on a node with systemd", "systemd cannot be asked: %v", err)
		case u.Load == "not-found":
			return fail(installAgain, "systemd has no %s, so %s", want.name, want.down)
		case u.Load != "loaded":
			return fail("systemctl cat "+want.name+"; then "+installAgain, "%s is %s, so %s", want.name, u.Load, want.down)
		case u.Active != "active":
			return fail("systemctl start "+want.name+"; journalctl -u "+want.name+" says why", "%s is %s (%s), so %s", want.name, u.Active, u.Result, want.down)
		case u.NeedDaemonReload:
			return warn("systemctl daemon-reload; systemctl restart "+want.name, "the files of %s have changed since systemd read them", want.name)
		case u.Enabled != "enabled":
			return fail("systemctl enable "+want.name, "%s is %s: it will not start at the next boot", want.name, u.Enabled)
		case u.NRestarts > maxRestarts:
			return warn("journalctl -u "+want.name+" says why", "%s was started again %d times since boot", want.name, u.NRestarts)
		}
	}
	return good("%s and %s are active, and will be after a boot", systemd.Socket, systemd.Service)
}

// maxRestarts is how often the service may have been started again before it is worth a word.
const maxRestarts = 5

func dropIn(ctx context.Context, n *node) Finding {
	u, err := n.kubeletUnit(ctx)
	if err != nil {
		return warn("run this as root on the node", "kubelet's unit cannot be looked at: %v", err)
	}
	want := path.Join(systemd.Dir, u.Name+".d", systemd.DropIn)
	there, err := n.tree.Exists(want)
	switch {
	case err != nil:
		return warn(asRoot, "%s cannot be looked at: %v", want, why(err))
	case !there:
		return fail(installAgain, "%s is gone, as on a node that loses /etc at reboot: kubelet may start before the socket is there", want)
	case !slices.Contains(u.DropInPaths, want):
		return fail("systemctl daemon-reload", "%s is there, and systemd does not know it", want)
	}
	return good("%s is in force", want)
}

// installed compares what an installation wrote with what is there. What is below /etc/cosentry is the owner's.
func installed(_ context.Context, n *node) Finding {
	switch {
	case n.stateErr != nil:
		return warn(installAgain, "%v", n.stateErr)
	case n.state == nil:
		return warn(installAgain+"; where it was put there by hand, that is known to who did it", "nothing tells of an installation by cosentry install, so it cannot be told whether its files are whole")
	case n.state.Phase != host.Installed:
		return fail("cosentry install, or cosentry uninstall, which carry on where it stopped", "the state says %s since %s: a run was stopped in the middle, or goes on now", n.state.Phase, n.state.Changed)
	}
	var gone, changed []string
	for _, r := range n.state.Files {
		if strings.HasPrefix(r.Path, path.Dir(host.ConfigFile)+"/") {
			continue
		}
		link, err := n.tree.Readlink(r.Path)
		if err != nil {
			return warn(asRoot, "%s cannot be looked at: %v", r.Path, why(err))
		}
		if r.Link != "" {
			if there, _ := n.tree.Exists(r.Path); !there {
				gone = append(gone, r.Path)
			} else if link != r.Link {
				changed = append(changed, r.Path)
			}
			continue
		}
		data, err := n.tree.Read(r.Path)
		switch {
		case err != nil:
			return warn(asRoot, "%s cannot be looked at: %v", r.Path, why(err))
		case data == nil:
			gone = append(gone, r.Path)
		case files.Hash(data) != r.SHA256:
			changed = append(changed, r.Path)
		}
	}
	switch {
	case len(gone) > 0:
		return fail(installAgain, "gone since the installation: %s", strings.Join(gone, ", "))
	case len(changed) > 0:
		return warn("if nobody meant that: "+installAgain, "not as the installation wrote them: %s", strings.Join(changed, ", "))
	}
	return good("all %d files of the installation of %s are as they were written", len(n.state.Files), n.state.Agent.Version)
}

// runningBinary says how the program of the agent's process differs from the one that is installed; "" if it does not.
func (n *node) runningBinary(u manager.Unit) string {
	if n.state == nil || n.state.Agent.Path == "" || u.MainPID == 0 {
		return ""
	}
	for _, p := range n.socket.Listeners {
		if p.PID == u.MainPID && p.Exe != "" && p.Exe != n.state.Agent.Path {
			return p.Exe
		}
	}
	return ""
}
