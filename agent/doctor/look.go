package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/host/peers"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/systemd"
	"github.com/cosentry/cosentry/systemd/manager"
)

// open gathers what more than one check looks at. Nothing of it has to be there.
func open(ctx context.Context, o Options) (*node, error) {
	tree, err := files.Open(o.Root)
	if err != nil {
		return nil, err
	}
	n := &node{Options: o, tree: tree, now: time.Now}
	n.readSettings()
	n.readState()
	n.askAgent(ctx)
	if m, err := manager.Dial(ctx, o.Root); err != nil {
		n.noUnits = err
	} else {
		n.systemd = m
	}
	// Before anything here connects to one of them.
	n.socket, n.socketErr = n.inspect(ctx, n.listen())
	n.runtime, n.runtimeErr = n.inspect(ctx, n.config.Runtime.Endpoint)
	return n, nil
}

// askAgent asks the agent where root asks it, as anybody may sit where all others do.
func (n *node) askAgent(ctx context.Context) {
	here, err := n.tree.Path(n.config.AgentSocket())
	if err != nil {
		n.silent = err
		return
	}
	s, err := sight.Agent{Socket: here}.Status(ctx)
	if err != nil {
		n.silent = err
		return
	}
	n.status = &s
}

// readSettings reads them as the agent would. Where they are faulty the other checks go by the copy that an agent goes by, or else by
// the defaults.
func (n *node) readSettings() {
	data, err := n.tree.Read(n.Settings)
	switch {
	case err != nil:
		n.faulty = err
	case data == nil:
		n.faulty = fmt.Errorf("there is no settings file %s: %w", n.Settings, fs.ErrNotExist)
	default:
		n.config, n.faulty = config.Parse(data)
	}
	if n.faulty == nil {
		return
	}
	n.config = config.Default()
	if c, ok := n.readKept(); ok {
		n.config, n.kept = c, config.KeptFile(config.StateDir, n.Settings)
	}
}

// readKept reads the copy of the settings with which an agent last started well. One that is not root's alone counts for nothing.
func (n *node) readKept() (config.Config, bool) {
	file := config.KeptFile(config.StateDir, n.Settings)
	fi, err := n.tree.Lstat(file)
	if err != nil || !fi.Mode().IsRegular() || fi.Mode().Perm()&0o077 != 0 || n.tree.RootAlone(file) != nil {
		return config.Config{}, false
	}
	data, err := n.tree.Read(file)
	if err != nil || data == nil {
		return config.Config{}, false
	}
	c, err := config.Parse(data)
	return c, err == nil
}

// readState reads what an installation left.
func (n *node) readState() {
	data, err := n.tree.Read(host.InstallDir + "/state.json")
	if err != nil {
		n.stateErr = err
		return
	}
	if data == nil {
		return
	}
	var s host.State
	if err := json.Unmarshal(data, &s); err != nil {
		n.stateErr = fmt.Errorf("reading the state of the installation: %w", err)
		return
	}
	n.state = &s
}

// listen is the agent's socket: the one that it serves, if it tells, or else that of the settings.
func (n *node) listen() string {
	if n.status != nil && n.status.Listen != "" {
		return n.status.Listen
	}
	if n.state != nil && n.state.Socket != "" {
		return n.state.Socket
	}
	return n.config.Listen
}

// inspect finds who is at a socket, without this very process.
func (n *node) inspect(ctx context.Context, path string) (peers.Socket, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	s, err := peers.Inspect(ctx, n.Root, path)
	s.Clients = slices.DeleteFunc(s.Clients, func(c peers.Client) bool { return c.PID == os.Getpid() })
	return s, err
}

// errNoSystemd is said by all checks but the one about units, which says why.
var errNoSystemd = errors.New("systemd cannot be asked, see the finding about units")

// unit asks systemd for a unit.
func (n *node) unit(ctx context.Context, name string) (manager.Unit, error) {
	if n.systemd == nil {
		return manager.Unit{}, errNoSystemd
	}
	return n.systemd.Unit(ctx, name)
}

// kubeletUnit is the unit that runs this node's kubelet: what the installation found, or the first that there is.
func (n *node) kubeletUnit(ctx context.Context) (manager.Unit, error) {
	names := kubeletUnits()
	if n.state != nil && n.state.Kubelet.Unit != "" {
		names = []string{n.state.Kubelet.Unit}
	}
	for _, name := range names {
		u, err := n.unit(ctx, name)
		if err != nil {
			return u, err
		}
		if u.Load != "not-found" {
			return u, nil
		}
	}
	return manager.Unit{}, fmt.Errorf("systemd has none of the units %v", names)
}

// isAgent reports whether a process is cosentry's.
func (n *node) isAgent(p peers.Process) bool { return p.Unit == systemd.Service }
