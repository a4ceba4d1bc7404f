package host

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/systemd"
)

// rewritten are folders whose kubelet settings the host writes anew at every boot, wherever they are. On GKE that is done from the
// instance's metadata, before kubelet starts.
var rewritten = [...]string{"/home/kubernetes/"}

// staysAfterBoot refuses to have kubelet's settings outlive the units that they need: where /etc is lost at a reboot and they are
// not, kubelet would wait for ever for a socket that no unit makes, and the node with it.
func (h *Host) staysAfterBoot(kubelet []files.Change) error {
	lost, err := h.volatile(systemd.Dir)
	if err != nil || !lost {
		return err
	}
	for _, c := range kubelet {
		again := false
		for _, dir := range rewritten {
			again = again || strings.HasPrefix(c.Path, dir)
		}
		if again {
			continue
		}
		lost, err := h.volatile(c.Path)
		if err != nil {
			return err
		}
		if !lost {
			return fmt.Errorf("%s is lost when this host boots and %s is not: kubelet would wait for a socket whose unit is gone; "+
				"have kubelet take its endpoint from a file below /etc, such as /etc/default/kubelet, and name that with --kubelet", systemd.Dir, c.Path)
		}
	}
	return nil
}

// volatile says whether what is written to p is lost at a reboot: it is in memory, or its folder is. Of an overlay it is told where
// that keeps what is written.
func (h *Host) volatile(p string) (bool, error) {
	mounts, err := h.tree.Read("/proc/1/mounts")
	if err != nil {
		return false, fmt.Errorf("finding out what this host keeps: %w", err)
	}
	m, ok := mountOf(string(mounts), p)
	if !ok {
		return false, nil
	}
	switch m.kind {
	case "tmpfs", "ramfs":
		return true, nil
	case "overlay":
		upper, ok := option(m.options, "upperdir")
		if !ok {
			return false, nil
		}
		over, ok := mountOf(string(mounts), upper)
		return ok && (over.kind == "tmpfs" || over.kind == "ramfs"), nil
	}
	return false, nil
}

// mount is a line of /proc/<pid>/mounts, see fstab(5).
type mount struct{ dir, kind, options string }

// mountOf is what is mounted where p is. The last of those with the longest folder hides the others.
func mountOf(mounts, p string) (found mount, ok bool) {
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			continue
		}
		m := mount{dir: unescape(fields[1]), kind: fields[2], options: fields[3]}
		if under(p, m.dir) && len(m.dir) >= len(found.dir) {
			found, ok = m, true
		}
	}
	return found, ok
}

func under(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// unescape turns the octal escapes of a mount's folder back.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func option(options, name string) (string, bool) {
	for one := range strings.SplitSeq(options, ",") {
		if value, ok := strings.CutPrefix(one, name+"="); ok {
			return unescape(value), true
		}
	}
	return "", false
}

// spareSettings has what stays of the owner's settings outlive a boot: where /etc is lost with it, the copy stays, as they are now.
// Elsewhere it goes, and so it does with purge.
func (h *Host) spareSettings(ctx context.Context, purge bool) error {
	lost, err := h.volatile(configDir)
	if purge || err == nil && !lost {
		return h.tree.RemoveAll(ctx, keptDir)
	}
	if err := h.keep(); err != nil {
		h.say("warning: the copy of the settings, for a boot that loses /etc, is not up to date: %v", err)
	}
	h.say("files: %s stays, because this host loses %s when it boots", keptDir, configDir)
	return nil
}

// removeBut removes what is in dir, but what is spared.
func (h *Host) removeBut(ctx context.Context, dir, spared string) error {
	there, err := h.tree.Exists(spared)
	switch {
	case err != nil:
		return err
	case !there || !under(spared, dir):
		return h.tree.RemoveAll(ctx, dir)
	case dir == spared:
		return nil
	}
	entries, err := h.tree.List(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := h.removeBut(ctx, path.Join(dir, e.Name()), spared); err != nil {
			return err
		}
	}
	return nil
}
