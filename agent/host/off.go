package host

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/host/kubelet"
	"github.com/cosentry/cosentry/systemd"
)

// OffFile says that a person took cosentry off the host. It is not below the folder that goes with it, and on a disk that a boot does not
// lose: a pod that starts again must not undo what a person did.
const OffFile = "/var/lib/cosentry-uninstalled"

const offText = `A person took cosentry off this node, %s.
While this file is there, no pod installs it again. To have it back, run cosentry install on the node, or remove this file
and have the node's pod of cosentry start again.
`

// ErrTakenOff says that a person took cosentry off the host.
var ErrTakenOff = errors.New("a person took cosentry off this node, as " + OffFile + " says: to have it back, remove that file, or run cosentry install on the node")

// takenOff says whether a person took cosentry off. What cannot be told is no: to leave a host alone needs a reason.
func (h *Host) takenOff() bool {
	there, err := h.tree.Exists(OffFile)
	return err == nil && there
}

// noteOff leaves word that a person took cosentry off.
func (h *Host) noteOff() error {
	text := fmt.Sprintf(offText, time.Now().UTC().Format(time.RFC3339))
	if err := h.tree.Put(OffFile, strings.NewReader(text), 0o644); err != nil {
		return fmt.Errorf("%w; a pod of cosentry's that starts on this node installs it again", err)
	}
	return nil
}

// gone says that there is neither a state nor anything else of cosentry by which an installation could be known.
func (h *Host) gone(s State) bool {
	if s.Phase != "" {
		return false
	}
	places := []string{path.Join(systemd.Dir, systemd.Service), path.Join(systemd.Dir, systemd.Socket)}
	for _, unit := range kubelet.Units() {
		places = append(places, path.Join(systemd.Dir, unit+".d", systemd.DropIn))
	}
	for _, dir := range h.ownDirs() {
		places = append(places, path.Join(dir, "cosentry"))
	}
	for _, p := range places {
		if _, err := h.tree.Lstat(p); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return false
		}
	}
	return true
}

// ownDirs are the folders of binaries in which what is called as ours is ours: a user called kubernetes may have a folder bin in
// /home, and that is his.
func (h *Host) ownDirs() (all []string) {
	for _, dir := range binDirs {
		var open *files.OpenError
		if err := h.tree.RootAlone(dir); dir == gkeBinDir && errors.As(err, &open) {
			continue
		}
		all = append(all, dir)
	}
	return all
}

// sweep removes what runs that were killed left half written. Nobody else writes: this run has the lock.
func (h *Host) sweep(s State) {
	dirs := append(h.ownDirs(), systemd.Dir, configDir, PoliciesDir, InstallDir, backupDir, keptDir)
	for _, r := range s.Files {
		dirs = append(dirs, path.Dir(r.Path))
	}
	seen := map[string]bool{}
	for _, dir := range dirs {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		gone, err := h.tree.Sweep(dir)
		for _, p := range gone {
			h.say("removed %s, which a run that was killed left half written", p)
		}
		if err != nil {
			h.say("warning: %v", err)
		}
	}
}
