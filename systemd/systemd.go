// Package systemd holds the units by which a node's systemd runs cosentry.
//
// It promises: the socket is systemd's and outlives the agent, so that a restart, a crash or an upgrade makes kubelet's
// connections wait and refuses none; the agent starts after the runtime and before kubelet, and is started again however
// often it ends; kubelet is not started before the socket is there, and is stopped by nothing that happens to the agent.
//
// It refuses what cannot be written into a unit as it is: a path or a name with a space, a quote, a line's end, or one of
// the characters that systemd expands. Whatever it writes is a whole file of its own, so that taking it away leaves the
// node as it was.
//
// The formats are those of systemd.unit(5), systemd.socket(5), systemd.service(5) and systemd.exec(5). What an older systemd
// does not know is left out where it would only print a warning. `systemd-analyze security cosentry.service` says 2.1 (OK)
// on systemd 252, where 10 is no protection at all.
package systemd

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"text/template"
)

// The names of the units, and of the drop-in for kubelet's.
const (
	Socket  = "cosentry.socket"
	Service = "cosentry.service"
	DropIn  = "10-cosentry.conf"
)

// Dir is where a node's own units are. It goes before what packages install.
const Dir = "/etc/systemd/system"

// MinVersion is the oldest systemd that the units work with: an older one does not make the folders that the agent writes to.
const MinVersion = 239

// The runtimes that a socket can be named after. kubelet chooses how it collects stats by the suffix crio.sock.
const (
	Containerd = "containerd"
	CRIO       = "crio"
)

// SocketPath is where the socket for a runtime is.
func SocketPath(runtime string) string { return path.Join(socketDir, runtime+".sock") }

// socketDir is the folder of the socket.
const socketDir = "/run/cosentry"

// Node is what the units have to say of a node.
type Node struct {
	// Runtime is Containerd or CRIO.
	Runtime string
	// RuntimeUnit is the runtime's unit, which the agent starts after. It is empty, or the same as KubeletUnit, where one
	// unit is both, as with k3s and RKE2.
	RuntimeUnit string
	// KubeletUnit is kubelet's unit, as a rule kubelet.service.
	KubeletUnit string
	// Binary and Config are absolute paths on the node: of the command, a symbolic link as a rule, and of its settings.
	Binary, Config string
	// Version is that of the node's systemd.
	Version int
	// ReadWrite are folders that the agent writes to beside /var/lib/cosentry and /var/log/cosentry. They may be missing.
	ReadWrite []string
}

// File is one file below Dir.
type File struct {
	Path string // relative to Dir
	Text []byte
	Mode fs.FileMode
}

//go:embed cosentry.socket cosentry.service kubelet.conf
var sources embed.FS

// Files returns the units and kubelet's drop-in for n.
func Files(n Node) ([]File, error) {
	if err := n.check(); err != nil {
		return nil, fmt.Errorf("writing units: %w", err)
	}
	all, err := template.ParseFS(sources, "*")
	if err != nil {
		return nil, fmt.Errorf("reading the built-in units: %w", err)
	}
	var files []File
	for _, f := range []struct{ path, source string }{
		{Socket, "cosentry.socket"},
		{Service, "cosentry.service"},
		{n.KubeletUnit + ".d/" + DropIn, "kubelet.conf"},
	} {
		var text bytes.Buffer
		if err := all.ExecuteTemplate(&text, f.source, data{n}); err != nil {
			return nil, fmt.Errorf("writing %s: %w", f.path, err)
		}
		files = append(files, File{Path: f.path, Text: text.Bytes(), Mode: 0o644})
	}
	return files, nil
}

// data is what the sources are filled with.
type data struct{ Node }

// Head tells whoever opens the file where it comes from.
func (data) Head() string {
	return "Written by `cosentry install`, which writes it anew. Put changes into a drop-in: systemctl edit."
}

// Socket is the socket's path.
func (d data) Socket() string { return SocketPath(d.Node.Runtime) }

// SocketDir is the socket's folder.
func (data) SocketDir() string { return socketDir }

// Runtime reports whether the runtime has a unit of its own.
func (d data) Runtime() bool { return d.RuntimeUnit != "" && d.RuntimeUnit != d.KubeletUnit }

// ConfigDir is the folder of the settings.
func (d data) ConfigDir() string { return path.Dir(d.Config) }

// Names are those of the units.
func (data) Names() struct{ Socket, Service string } {
	return struct{ Socket, Service string }{Socket, Service}
}

var (
	plainPath = regexp.MustCompile(`^(/[A-Za-z0-9_.+@-]+)+$`)
	plainUnit = regexp.MustCompile(`^[A-Za-z0-9:_.@-]+\.service$`)
)

func (n Node) check() error {
	if n.Runtime != Containerd && n.Runtime != CRIO {
		return fmt.Errorf("%q is no runtime that kubelet knows a socket of; it must be %s or %s", n.Runtime, Containerd, CRIO)
	}
	if n.Version < MinVersion {
		return fmt.Errorf("systemd %d is older than %d, which is the oldest that these units work with", n.Version, MinVersion)
	}
	for _, u := range []string{n.KubeletUnit, n.RuntimeUnit} {
		if u == "" && n.KubeletUnit != "" {
			continue
		}
		if !plainUnit.MatchString(u) || len(u) > 255 {
			return fmt.Errorf("%q is not the name of a service", u)
		}
	}
	for _, p := range slices.Concat([]string{n.Binary, n.Config}, n.ReadWrite) {
		if !plainPath.MatchString(p) || path.Clean(p) != p {
			return fmt.Errorf("%q cannot stand in a unit: a path must be absolute, clean and of the characters A-Z a-z 0-9 _ . + @ - only", p)
		}
	}
	return nil
}
