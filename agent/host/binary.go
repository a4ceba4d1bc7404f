package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"

	"github.com/cosentry/cosentry/agent/host/files"
)

// binaryName is what versioned binaries are called: cosentry-<version>-<first 12 digits of their hash>.
var binaryName = regexp.MustCompile(`^cosentry-[A-Za-z0-9][A-Za-z0-9._+]*(-[A-Za-z0-9._+]+)*-[0-9a-f]{12}$`)

// maxBinary bounds the binary, in bytes.
const maxBinary = 1 << 30

func sizeOf(file string) (int64, error) {
	fi, err := os.Stat(file)
	switch {
	case err != nil:
		return 0, fmt.Errorf("looking at the binary to install: %w", err)
	case !fi.Mode().IsRegular() || fi.Size() > maxBinary:
		return 0, fmt.Errorf("%s is not a binary to install", file)
	}
	return fi.Size(), nil
}

func hashOf(r io.Reader) (string, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(r, maxBinary)); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// planBinary names the binary by what it holds, and finds out whether it is there and in force.
func (h *Host) planBinary(p *Plan) error {
	f, err := os.Open(h.o.Binary)
	if err != nil {
		return fmt.Errorf("reading the binary to install: %w", err)
	}
	defer f.Close()
	sum, err := h.hashes.of(f)
	if err != nil {
		return fmt.Errorf("reading the binary to install: %w", err)
	}
	name := fmt.Sprintf("cosentry-%s-%s", h.o.Version, sum[:12])
	if !binaryName.MatchString(name) || len(name) > 200 {
		return fmt.Errorf("version %q cannot be part of a file's name", h.o.Version)
	}
	p.Binary = Binary{Version: h.o.Version, Path: path.Join(p.Facts.BinDir, name), SHA256: sum}
	if p.Copy, err = h.differs(p.Binary); err != nil {
		return err
	}
	p.Links, err = h.links(p.Facts, p.Binary)
	return err
}

// differs says whether the binary is not on the host, or is another than its name says.
func (h *Host) differs(b Binary) (bool, error) {
	there, err := h.tree.Exists(b.Path)
	if err != nil || !there {
		return true, err
	}
	f, err := h.tree.Open(b.Path)
	if err != nil {
		return true, err
	}
	defer f.Close()
	sum, err := h.hashes.of(f)
	if err != nil {
		return true, fmt.Errorf("reading %s: %w", b.Path, err)
	}
	fi, err := f.Stat()
	return sum != b.SHA256 || err == nil && fi.Mode().Perm() != binaryMode, err
}

const binaryMode = 0o755

// binaryType is what SELinux's reference policy, and with it Fedora's and RHEL's, has for programs in any folder bin below /opt, so that
// restorecon leaves it: systemd starts those as unconfined services. A file that a container writes there has its folder's type, usr_t,
// which is for data. To copy the label of another program would be wrong: systemd's and the runtime's are those of their own
// domains, which a program that has them enters.
const binaryType = "bin_t"

// links are the changes after which cosentry in the binary's folder leads to b, and the command on everybody's path to that.
func (h *Host) links(f Facts, b Binary) (all []files.Change, err error) {
	add := func(at, to string) error {
		now, err := h.tree.Readlink(at)
		if err == nil && now != to {
			all = append(all, files.Change{Path: at, BeforeLink: now, AfterLink: to})
		}
		return err
	}
	active := path.Join(f.BinDir, "cosentry")
	if err := h.linkable(active); err != nil {
		return nil, err
	}
	if err := add(active, path.Base(b.Path)); err != nil {
		return nil, err
	}
	if f.Command && h.linkable(commandLink) == nil {
		// A link of somebody else's is left alone: the name is not free.
		now, err := h.tree.Readlink(commandLink)
		if err != nil || now != "" && now != active {
			return all, err
		}
		err = add(commandLink, active)
		return all, err
	}
	return all, nil
}

// linkable says why there cannot be a link at p: because something else is there.
func (h *Host) linkable(p string) error {
	fi, err := h.tree.Lstat(p)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case fi.Mode().Type() != os.ModeSymlink:
		return fmt.Errorf("%s is there and is no link: move it away", p)
	}
	return nil
}

// copyBinary writes the binary to its place, and reads it again: a disk that is full or lies must not come out when kubelet waits.
func (h *Host) copyBinary(b Binary) error {
	from, err := os.Open(h.o.Binary)
	if err != nil {
		return err
	}
	defer from.Close()
	if err := h.tree.Put(b.Path, from, binaryMode); err != nil {
		return err
	}
	if err := h.tree.Type(b.Path, binaryType); err != nil {
		h.say("warning: %v; if systemd may not start the agent: restorecon -v %s", err, b.Path)
	}
	differs, err := h.differs(b)
	if err != nil {
		return err
	}
	if differs {
		return fmt.Errorf("%s is not what was written to it", b.Path)
	}
	return nil
}

// prune removes binaries that are neither of those to keep: the one that runs and the one before it, to which an upgrade goes back.
func (h *Host) prune(dir string, keep ...Binary) {
	all, err := h.tree.List(dir)
	if err != nil {
		return
	}
	for _, e := range all {
		kept := !binaryName.MatchString(e.Name()) || !e.Type().IsRegular()
		for _, b := range keep {
			kept = kept || path.Base(b.Path) == e.Name()
		}
		if kept {
			continue
		}
		if err := h.tree.Remove(path.Join(dir, e.Name())); err != nil {
			h.say("warning: %v", err)
		}
	}
}
