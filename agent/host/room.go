package host

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/host/kubelet"
)

// How much room there must be, in bytes: beside a binary; for state, backups and what the agent keeps, of a host that is new; for
// the state of one that is not; and beside each file that is written.
const (
	spareRoom = 32 << 20
	newRoom   = 64 << 20
	stateRoom = 256 << 10
	fileRoom  = 64 << 10
)

// chooseFolders finds out where the binary goes, and whether everybody's path can have a link to it.
func (h *Host) chooseFolders(f *Facts) error {
	f.BinDir = optBinDir
	if f.Endpoint.Layout == kubelet.GKE || strings.HasPrefix(f.Endpoint.Layout, "/home/kubernetes/") {
		there, err := h.tree.Exists(gkeBinDir)
		if err != nil {
			return err
		}
		if there {
			f.BinDir = gkeBinDir
		}
	}
	f.Command = h.room(path.Dir(commandLink), 0, false) == nil
	return nil
}

// allowed says why the changes of a plan cannot be made: there is no room for them, or others than root could make them too. What is
// not changed needs neither: a host without room is looked at like any other.
func (h *Host) allowed(s State, p *Plan) *problem {
	if p.Nothing() {
		return nil
	}
	if err := h.roomFor(s, *p); err != nil {
		return &problem{FaultRoom, err}
	}
	places := []string{configDir, stateDir}
	if p.Copy {
		places = append(places, p.Facts.BinDir)
	}
	for _, place := range places {
		err := h.tree.RootAlone(place)
		var open *files.OpenError
		switch {
		case err == nil:
		case s.proved() && place != p.Facts.BinDir && errors.As(err, &open):
			// To leave kubelet on another way for this would be worse.
			p.Warnings = append(p.Warnings, err.Error())
		default:
			return &problem{FaultUnsafe, err}
		}
	}
	return nil
}

// roomFor says why what is planned cannot be written.
func (h *Host) roomFor(s State, p Plan) error {
	if p.Copy {
		size, err := sizeOf(h.o.Binary)
		if err != nil {
			return err
		}
		if err := h.room(p.Facts.BinDir, size+spareRoom, true); err != nil {
			return err
		}
	}
	need, dirs := map[string]int64{}, []string{InstallDir}
	need[InstallDir] = stateRoom
	if !s.proved() {
		need[InstallDir] = newRoom
	}
	for _, changes := range [][]files.Change{p.Links, p.Settings, p.Units, p.DropIn, p.Kubelet} {
		for _, c := range changes {
			if c.Path == commandLink {
				continue
			}
			dir := path.Dir(c.Path)
			if _, ok := need[dir]; !ok {
				dirs = append(dirs, dir)
			}
			need[dir] += fileRoom + int64(len(c.After))
			need[InstallDir] += int64(len(c.Before)) // the copy of it
		}
	}
	for _, dir := range dirs {
		if err := h.room(dir, need[dir], false); err != nil {
			return err
		}
	}
	return nil
}

// room says why not so many bytes can be written below dir, or why what is there cannot be executed.
func (h *Host) room(dir string, bytes int64, execute bool) error {
	at := dir
	for ; at != "/"; at = path.Dir(at) {
		there, err := h.tree.Exists(at)
		if err != nil {
			return err
		}
		if there {
			break
		}
	}
	here, err := h.tree.Path(at)
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(here, &st); err != nil {
		return fmt.Errorf("looking for room in %s: %w", dir, err)
	}
	switch free := int64(st.Bavail) * st.Bsize; {
	case st.Flags&unix.ST_RDONLY != 0:
		return fmt.Errorf("%s is on a file system that is mounted read-only", dir)
	case execute && st.Flags&unix.ST_NOEXEC != 0:
		return fmt.Errorf("%s is on a file system from which nothing may be executed (noexec)", dir)
	case free < bytes:
		return fmt.Errorf("%s has %d KiB left, and %d KiB are needed", dir, free>>10, bytes>>10)
	}
	return nil
}

// foldersLost says which folder of the agent's is gone. systemd makes them when it starts the agent, and gives it no way into others
// that are made later.
func (h *Host) foldersLost(s State) (string, error) {
	for _, dir := range []string{stateDir, auditDir} {
		there, err := h.tree.Exists(dir)
		if err != nil || !there {
			return dir, err
		}
	}
	if s.Phase == "" { // by now a lock is in the folder, which whoever took that made
		return InstallDir, nil
	}
	return "", nil
}
