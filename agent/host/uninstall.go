package host

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/host/kubelet"
	"github.com/cosentry/cosentry/systemd"
)

// Uninstall takes cosentry off the host: kubelet goes back to the runtime and proves that it runs there, then the agent goes, then
// the files. The owner's settings and the audit log stay unless purge. It can be done again, after an installation that was stopped
// halfway as well, and without a state as far as the host itself tells what to do.
//
// It is what helps where nothing else does: on a disk that is full, or that is read-only by now. So nothing keeps kubelet from going back
// that it does not need for that, and nothing keeps the rest from going that can.
func (h *Host) Uninstall(ctx context.Context, purge bool) error {
	if err := h.isHost(ctx, &Facts{}); err != nil {
		return err
	}
	unlock, err := h.lockToLeave(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := h.loadOrBegin()
	if err != nil {
		return err
	}
	h = h.remembering(s)
	h.sweep(s)
	noted := h.noteLeaving(&s, purge)
	if err := h.kubeletBack(ctx, &s); err != nil {
		return fmt.Errorf("giving kubelet its runtime back: %w; the agent stays, so that the node keeps working", err)
	}
	failed := errors.Join(h.stopAgent(ctx), h.removeFiles(ctx, s, purge))
	if failed == nil {
		failed = h.removeState(ctx, s.Folders)
	} else if s.Phase != "" {
		failed = errors.Join(failed, h.save(&s)) // what is left is known by it
	}
	if noted != nil { // now there may be room
		failed = errors.Join(failed, h.noteOff())
	}
	if failed != nil {
		return fmt.Errorf("kubelet uses the runtime itself, and not all of cosentry could be removed: %w; mend that, and take it off once more", failed)
	}
	h.say("uninstalled: kubelet uses the runtime itself")
	switch {
	case h.o.Person && purge:
		h.say("nothing on this node says that cosentry was taken off: if it has a pod of cosentry's, that installs it again when it starts anew")
	case h.o.Person:
		h.say("no pod installs it again on this node while %s is there", OffFile)
	}
	return nil
}

// noteLeaving writes down that cosentry is being taken off. Where that cannot be written it is not kept from going, and if nobody would
// know of it afterwards there is an error.
func (h *Host) noteLeaving(s *State, purge bool) (unsaid error) {
	if s.Phase != "" {
		s.Phase = Uninstalling
		if err := h.save(s); err != nil {
			h.say("warning: %v", err)
		}
	}
	if h.o.Person && !purge {
		if unsaid = h.noteOff(); unsaid != nil {
			h.say("warning: %v", unsaid)
		}
	}
	return unsaid
}

// kubeletBack has kubelet use the runtime's own socket, and restarts it if it used the agent's.
func (h *Host) kubeletBack(ctx context.Context, s *State) error {
	var f Facts
	if err := h.lookAtKubelet(ctx, &f); err != nil {
		if s.Phase == "" && errors.Is(err, kubelet.ErrByHand) {
			h.say("warning: %v", err)
			return nil // nothing was installed, so nothing of it was changed
		}
		return err
	}
	restart := s.Kubelet.Restart || h.usesAgent(ctx, f)
	if restart && s.Phase != "" && !s.Kubelet.Restart {
		s.Kubelet.Restart = true // for the run after this one, if this one is killed
		if err := h.save(s); err != nil {
			h.say("warning: %v", err)
		}
	}
	changed, err := h.restoreKubelet(ctx, s, f)
	if err != nil {
		return err
	}
	h.dropInGone(ctx, *s, f, changed)
	if err := h.lookAtKubelet(ctx, &f); err != nil {
		return err
	}
	if ours(f.Endpoint.Runtime) || ours(f.Endpoint.Image) {
		return fmt.Errorf("kubelet's endpoint is still %s (%s)", f.Endpoint.Runtime, f.Endpoint.Source)
	}
	if !restart && !changed {
		return nil
	}
	h.say("kubelet: restarting %s", f.KubeletUnit)
	if err := h.o.Systemd.Restart(ctx, f.KubeletUnit); err != nil {
		return err
	}
	if err := h.proveKubelet(ctx, f.KubeletUnit, s.Kubelet.Healthy, ""); err != nil {
		return err
	}
	s.Kubelet.Restart = false
	return nil
}

// dropInGone removes kubelet's drop-in. Where it cannot be removed kubelet goes back all the same: all it does is to start an agent that
// nobody uses. removeFiles tries again.
func (h *Host) dropInGone(ctx context.Context, s State, f Facts, reload bool) {
	dropin := path.Join(systemd.Dir, f.KubeletUnit+".d", systemd.DropIn)
	there, err := h.tree.Exists(dropin)
	if err == nil && there {
		h.say("kubelet: removing %s", dropin)
		err = h.tree.Remove(dropin)
		if err == nil && s.Phase == "" { // nothing says who made the folder
			err = h.tree.RemoveEmpty(path.Dir(dropin))
		}
	}
	if there || reload {
		err = errors.Join(err, h.o.Systemd.Reload(ctx))
	}
	if err != nil {
		h.say("warning: %v", err)
	}
}

// usesAgent says whether the kubelet that runs is a client of an agent's socket. Where that cannot be told, and there is such a
// socket, it is held to be: a restart is better than a socket that is gone.
func (h *Host) usesAgent(ctx context.Context, f Facts) bool {
	for name := range runtimes {
		err := h.connected(ctx, systemd.SocketPath(name), f.KubeletUnit)
		if err == nil {
			return true
		}
		if there, _ := h.tree.Exists(systemd.SocketPath(name)); there && !errors.Is(err, errBypassed) {
			return true
		}
	}
	return false
}

// restoreKubelet puts kubelet's files back: byte for byte where they are as they were written, and by the inverse edit where somebody
// else changed them since, or nothing is known of how they were.
func (h *Host) restoreKubelet(ctx context.Context, s *State, f Facts) (changed bool, err error) {
	for _, r := range s.Files {
		if r.Stage != stageKubelet {
			continue
		}
		now, err := h.tree.Read(r.Path)
		if err != nil {
			return changed, err
		}
		if !r.wrote(now, "") {
			continue
		}
		before, err := h.before(r)
		if err != nil {
			h.say("warning: %v", err)
			continue
		}
		if before != nil && strings.Contains(string(before), socketDir+"/") {
			continue // the host was one on which cosentry had been before
		}
		c := files.Change{Path: r.Path, Before: now, After: before}
		if r.Before != nil {
			c.Mode = r.Before.Mode
		}
		h.say("kubelet: putting %s back", r.Path)
		if err := h.applyTight(*s, c); err != nil {
			return changed, err
		}
		changed = true
	}
	if changed {
		if err := h.lookAtKubelet(ctx, &f); err != nil {
			return changed, err
		}
	}
	if !ours(f.Endpoint.Runtime) && !ours(f.Endpoint.Image) {
		return changed, nil
	}
	socket, err := h.behind(*s)
	if err != nil {
		return changed, err
	}
	edits, err := f.Endpoint.Changes(socket)
	if err != nil {
		return changed, err
	}
	for _, c := range edits {
		h.say("kubelet: %s names %s again", c.Path, socket)
		if err := h.applyTight(*s, c); err != nil {
			return changed, err
		}
		changed = true
	}
	return changed, nil
}

// behind is the runtime's socket, as the state, the settings or the socket's name tell it.
func (h *Host) behind(s State) (string, error) {
	if s.Runtime.Socket != "" {
		return s.Runtime.Socket, nil
	}
	for _, p := range []string{ConfigFile, path.Join(keptDir, path.Base(ConfigFile))} {
		data, err := h.tree.Read(p)
		if err != nil {
			return "", err
		}
		if data == nil {
			continue
		}
		if c, err := config.Parse(data); err == nil {
			return c.Runtime.Endpoint, nil
		}
	}
	for _, socket := range sockets {
		if there, err := h.tree.Exists(socket); err == nil && there {
			return socket, nil
		}
	}
	return "", errors.New("nothing says which socket the runtime is on: write it where kubelet takes its endpoint from, and try again")
}

// applyTight makes a change of kubelet's on a disk that may be full: binaries that do not run make room, and if that does not do, the
// file is written in its place.
func (h *Host) applyTight(s State, c files.Change) error {
	err := h.tree.Apply(c)
	if err == nil || !files.Full(err) {
		return err
	}
	h.say("warning: %v; making room", err)
	for _, dir := range h.ownDirs() {
		h.prune(dir, s.Agent, Binary{Path: h.active(dir)})
	}
	if err := h.tree.Apply(c); err == nil || !files.Full(err) || c.Before == nil || c.After == nil {
		return err
	}
	return h.tree.Overwrite(c)
}

// active is the binary to which the link in dir leads.
func (h *Host) active(dir string) string {
	to, err := h.tree.Readlink(path.Join(dir, "cosentry"))
	if err != nil || to == "" {
		return ""
	}
	return path.Join(dir, path.Base(to))
}

// stopAgent stops the socket first, so that nothing starts the service again. What is not there is stopped.
func (h *Host) stopAgent(ctx context.Context) error {
	sd := h.o.Systemd
	if err := errors.Join(sd.Stop(ctx, systemd.Socket), sd.Stop(ctx, systemd.Service)); err != nil {
		return fmt.Errorf("stopping the agent: %w", err)
	}
	h.say("agent: stopped")
	return sd.Disable(ctx, systemd.Service, systemd.Socket)
}

// removeFiles removes what is cosentry's but for the state: whatever this is stopped at, it can be done again. What cannot be removed
// keeps nothing else from going.
func (h *Host) removeFiles(ctx context.Context, s State, purge bool) error {
	paths := []string{path.Join(systemd.Dir, systemd.Service), path.Join(systemd.Dir, systemd.Socket)}
	for _, dir := range h.ownDirs() {
		if binaryName.MatchString(path.Base(h.active(dir))) {
			paths = append(paths, path.Join(dir, "cosentry"))
		}
	}
	for _, r := range s.Files {
		if r.Stage == stageUnit || r.Stage == stageLink {
			paths = append(paths, r.Path)
		}
	}
	if to, err := h.tree.Readlink(commandLink); err == nil && h.ownLink(to) {
		paths = append(paths, commandLink)
	}
	var failed []error
	for _, p := range slices.Compact(slices.Sorted(slices.Values(paths))) {
		failed = append(failed, h.tree.Remove(p))
	}
	failed = append(failed, h.o.Systemd.Reload(ctx))
	for _, dir := range h.ownDirs() {
		h.prune(dir)
	}
	failed = append(failed, h.tree.RemoveAll(ctx, socketDir))
	if purge {
		for _, p := range []string{configDir, auditDir, OffFile} {
			h.say("files: removing %s", p)
			failed = append(failed, h.tree.RemoveAll(ctx, p))
		}
	}
	failed = append(failed, h.spareSettings(ctx, purge))
	return errors.Join(failed...)
}

// ownLink says whether a link leads to where an installation has its binary.
func (h *Host) ownLink(to string) bool {
	for _, dir := range binDirs {
		if to == path.Join(dir, "cosentry") {
			return true
		}
	}
	return false
}

// removeState removes what the agent and its installations keep for themselves, but a copy of the owner's settings that was spared, and
// the folders that were made if nothing is in them. Those that are there whether or not a state tells so are tried too. The state itself
// goes last: sync's folder is a stranger's to fill, and if that cannot be removed the host is still known.
func (h *Host) removeState(ctx context.Context, folders []string) error {
	entries, err := h.tree.List(stateDir)
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range entries {
		if p := path.Join(stateDir, e.Name()); p != InstallDir {
			failed = append(failed, h.tree.RemoveAll(ctx, p))
		}
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if err := h.removeBut(ctx, stateDir, keptDir); err != nil {
		return err
	}
	all := append(slices.Clone(folders), "/opt/cosentry", "/opt/cosentry/bin", configDir, PoliciesDir)
	slices.Sort(all)
	for _, dir := range slices.Backward(slices.Compact(all)) {
		if err := h.tree.RemoveEmpty(dir); err != nil {
			return err
		}
	}
	return nil
}
