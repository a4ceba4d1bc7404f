// Package host puts cosentry on a host and takes it off.
//
// An installation goes by stages, each of which can be done again: look at the host, binary, settings, units, start,
// proof, kubelet's endpoint, proof. It promises:
//
//   - Nothing is written before the host was looked at and everything that is to be done is known. [Plan] is that, as data.
//   - What is as it should be is left alone: nothing is restarted if nothing changed. An upgrade restarts the agent and keeps the
//     socket; kubelet is restarted only if it has to use another socket.
//   - kubelet gets the socket only after an agent on it has answered for the runtime and has met an unsigned image.
//   - If a proof fails, what this run changed is put back in reverse, within a deadline, whatever became of the caller.
//   - What is the owner's is never overwritten: settings, policies, and what he wrote since.
//   - kubelet goes back to the runtime before the agent goes, when cosentry is taken off.
//   - Whatever a run was stopped at, the next one carries on: each file's former text is on disk before the file is changed.
//
// It refuses a host of which it does not know for certain where kubelet takes its endpoint from, and says what to do by
// hand. It runs no process of the host: systemd is asked over its own socket, so that it works from a container that has the
// host's root mounted.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/host/kubelet"
	"github.com/cosentry/cosentry/systemd/manager"
)

// Where things are on a host. Paths are the host's own.
const (
	ConfigFile  = "/etc/cosentry/config.yaml"
	PoliciesDir = "/etc/cosentry/policies"
	InstallDir  = "/var/lib/cosentry/install"

	configDir = "/etc/cosentry"
	stateDir  = "/var/lib/cosentry"
	auditDir  = "/var/log/cosentry"
	socketDir = "/run/cosentry"
	stateFile = InstallDir + "/state.json"
	lockFile  = InstallDir + "/lock"
	backupDir = InstallDir + "/backup"
	keptDir   = InstallDir + "/etc" // the owner's settings, for hosts that lose /etc

	commandLink = "/usr/local/bin/cosentry"
)

// Where the binary may be. On GKE's Container-Optimized OS / is read-only and nothing below /var may be executed. Elsewhere
// /home/kubernetes is the home of a user of that name.
const (
	gkeBinDir = "/home/kubernetes/bin"
	optBinDir = "/opt/cosentry/bin"
)

var binDirs = [...]string{gkeBinDir, optBinDir}

// Systemd is a host's systemd. Errors say which unit and why; a unit that is not there is no error of Unit, Stop and Disable.
type Systemd interface {
	Version(ctx context.Context) (int, error)
	Reload(ctx context.Context) error
	Unit(ctx context.Context, name string) (manager.Unit, error)
	Jobs
}

// Jobs are done when their methods return, or have failed.
type Jobs interface {
	Stop(ctx context.Context, unit string) error
	Restart(ctx context.Context, unit string) error
	Links
}

// Links make units start at boot, or not.
type Links interface {
	Enable(ctx context.Context, units ...string) error
	Disable(ctx context.Context, units ...string) error
}

// Proofs are what only others can find out. Each is asked again until it says yes or time is up.
type Proofs interface {
	// Canary has an unsigned image pulled through the CRI socket at path, as seen from here, and returns nil if the agent refused it, or, in
	// observe mode, recorded it. A node that runs what nobody signed although it should not is an error.
	Canary(ctx context.Context, socket string) error
	// Connected says whether a process of the unit is connected to the socket, a path of the host. What cannot be told is an error.
	Connected(ctx context.Context, socket, unit string) (bool, error)
	// Healthy returns nil if kubelet says that it is well. The error wraps [ErrUntold] if kubelet did not say anything.
	Healthy(ctx context.Context) error
	// Ready returns nil if the agent says that it can judge what it is asked to.
	Ready(ctx context.Context) error
}

// ErrUntold says that kubelet was not heard: nobody answers where it would, or somebody else does. Any user of the host can bring that
// about, and must not have an installation put back by it.
var ErrUntold = errors.New("whether kubelet is well cannot be told")

// Options are what an installation goes by.
type Options struct {
	// Root is where the host's root is mounted: "/" on the host itself.
	Root string
	// Runtime is auto, containerd or crio.
	Runtime string
	// Kubelet is a layout that package kubelet knows, or the path of the file that decides.
	Kubelet string
	// Mode is that of settings that are made new: observe or enforce.
	Mode string
	// Binary is the file to install, here; its Version is in its name.
	Binary, Version string
	// Settings and Policies are a file and a folder, here, from which the host's are made; empty: the built-in ones.
	Settings, Policies string
	// Weaken has Settings take the place of stricter ones of a node that enforces: the word of the node's owner, which no container may give.
	Weaken bool
	// ReplacePolicies has Policies take the place of the node's own: the word of the node's owner as well.
	ReplacePolicies bool
	// Check, where there is one, says what speaks against settings that would be in force: the agent to install may be of another version.
	Check func(settings []byte) error
	// Person says that a person at the node asks, and no container: what that one takes off stays off, and what it installs comes back.
	Person bool
	// Again has an upgrade tried that failed a short time ago.
	Again bool

	Systemd Systemd
	Proofs  Proofs
	// Out is told, a line each, what is done.
	Out io.Writer
	// Undo bounds how long putting back takes; 0 is 3 minutes.
	Undo time.Duration
	// Wait bounds how long each proof is waited for; 0 is 90 seconds.
	Wait time.Duration
	// Reconnect is how long a kubelet may be without a connection before it is held to have gone another way; 0 is 10 seconds. It makes
	// a call every second.
	Reconnect time.Duration
	// LockWait is how long another run is waited for; 0 is 10 seconds. It holds the lock for as long as an installation takes, so waiting
	// for its end would be of no use, but a container that is replaced ends a moment after its successor begins.
	LockWait time.Duration
}

// Host is a host on which cosentry is, or shall be.
type Host struct {
	o      Options
	tree   *files.Tree
	hashes *hashes
	given  given
	// held says that the given settings do not take the place of those in force, see holding.
	held bool
}

// New opens the host.
func New(o Options) (*Host, error) {
	if !path.IsAbs(o.Root) {
		return nil, fmt.Errorf("host root %q is not an absolute path", o.Root)
	}
	if o.Systemd == nil || o.Proofs == nil || o.Out == nil {
		return nil, errors.New("an installation needs a systemd, proofs and somebody to tell")
	}
	if o.Undo == 0 {
		o.Undo = 3 * time.Minute
	}
	if o.Wait == 0 {
		o.Wait = 90 * time.Second
	}
	if o.Reconnect == 0 {
		o.Reconnect = 10 * time.Second
	}
	if o.LockWait == 0 {
		o.LockWait = 10 * time.Second
	}
	tree, err := files.Open(o.Root)
	if err != nil {
		return nil, err
	}
	return &Host{o: o, tree: tree, hashes: &hashes{}, given: readGiven(o)}, nil
}

// remembering is the host with what a former installation was told about kubelet, unless it is told again.
func (h *Host) remembering(s State) *Host {
	if !path.IsAbs(s.Kubelet.Layout) || h.o.Kubelet != kubelet.Auto {
		return h
	}
	other := *h
	other.o.Kubelet = s.Kubelet.Layout
	return &other
}

// Close lets go of the host.
func (h *Host) Close() error { return h.tree.Close() }

func (h *Host) say(format string, args ...any) { fmt.Fprintf(h.o.Out, format+"\n", args...) }

// poll is how often what is waited for is looked at.
const poll = 100 * time.Millisecond

// wait has f tried until it returns nil, ctx ends or limit has passed, and gives the last error that f found by itself: one that the
// end of the time cut off says nothing of why.
func wait(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var last error
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		// A server that was told of the deadline may say so a moment before ctx does.
		cutOff := ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
		if last == nil || !cutOff {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (waited until %w)", last, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
