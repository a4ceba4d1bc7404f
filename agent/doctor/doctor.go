// Package doctor finds what is wrong with cosentry on a node, names it, and says what to do about it.
//
// It promises to work where nothing else does: each check looks for itself at the host, at systemd, at the sockets and at
// the files, and is bounded in time; none needs the agent, or another check, to be well. What could not be looked at is
// said to be so, and never said to be good. It changes nothing; the canary, which is only sent where it is asked for, cleans up
// behind itself.
//
// It refuses to guess: what it says was seen, and where two explanations are left it names both.
package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/agent/host/peers"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/systemd/manager"
	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rescue"

	"github.com/opencontainers/go-digest"
)

// Level is how bad a finding is.
type Level int

// The levels. Fail is for what keeps images from being judged, or lets them run unjudged; Warn is for what may be meant,
// will become a failure, or could not be looked at.
const (
	OK Level = iota
	Warn
	Fail
)

func (l Level) String() string { return [...]string{"ok", "warn", "fail"}[l] }

// MarshalJSON gives the level's name.
func (l Level) MarshalJSON() ([]byte, error) { return json.Marshal(l.String()) }

// Finding is what one check saw.
type Finding struct {
	ID    string `json:"id"`
	Level Level  `json:"level"`
	// Saw is what was seen, on one line.
	Saw string `json:"saw"`
	// Do is what to do about it; empty for what is good.
	Do string `json:"do,omitempty"`
}

func good(format string, args ...any) Finding { return Finding{Saw: fmt.Sprintf(format, args...)} }
func warn(do, format string, args ...any) Finding {
	return Finding{Level: Warn, Do: do, Saw: fmt.Sprintf(format, args...)}
}
func fail(do, format string, args ...any) Finding {
	return Finding{Level: Fail, Do: do, Saw: fmt.Sprintf(format, args...)}
}

// Systemd tells of units. *manager.Manager is one.
type Systemd interface {
	Unit(ctx context.Context, name string) (manager.Unit, error)
}

// Registries are asked whether they answer. *evidence.Fetcher is one.
type Registries interface {
	Resolve(ctx context.Context, repository, tag string, c evidence.Credentials) (digest.Digest, error)
}

// asRoot is to be done about what could not be looked at.
const asRoot = "run this as root on the node, and look at what is named by hand"

// why is the reason of an error about a file, without what the system's call is named and how the path looks from inside the host's
// root: a finding names the file as the host does.
func why(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// Options say what to look at.
type Options struct {
	// Root is where the host's root is mounted; "/" on the host itself.
	Root string
	// Settings is the settings file, a path of the host's.
	Settings string
	// Version is that of the command that asks, Built when the commit was made that it was built from; zero if that is not known.
	Version string
	Built   time.Time
	// Trust finds out what policies refer to, with the network: it is asked if the agent cannot be.
	Trust func(ctx context.Context, c config.Trust, set *policy.Set) ([]sight.Trust, error)
	// Registries makes what registries are asked by.
	Registries func(config.Config) (Registries, error)
	// Canary asks for one to be sent; Namespace is the one that it claims to be for, empty for none.
	Canary    bool
	Namespace string
	// Log gets the stack of a check that panicked; nil discards.
	Log *slog.Logger
}

// node is what the checks look at. What could not be had has its error beside it.
type node struct {
	Options
	tree *files.Tree

	config   config.Config
	faulty   error  // of the settings; config has those of the copy then, or the defaults
	kept     string // the copy, if config has its settings
	status   *sight.Status
	silent   error // why there is no status
	systemd  Systemd
	noUnits  error       // why there is no systemd
	state    *host.State // nil: none was left by an installation
	stateErr error       // why it cannot be read
	now      func() time.Time
	// socket and runtime are who is at the agent's and at the runtime's socket.
	socket, runtime       peers.Socket
	socketErr, runtimeErr error
}

// check is one of them. Its finding gets its name.
type check struct {
	id  string
	run func(ctx context.Context, n *node) Finding
}

// checkTimeout bounds one check, canaryTimeout that with a canary. One that does not heed it is left behind after grace.
const (
	checkTimeout  = 20 * time.Second
	canaryTimeout = 90 * time.Second
	grace         = 5 * time.Second
)

// checks are in the order in which a person would look: what is there, whether it works, whether kubelet comes through it,
// whether it judges by the right things.
func checks(canary bool) []check {
	all := []check{
		{"settings", settings}, {"mode", mode}, {"units", units}, {"drop-in", dropIn}, {"files", installed}, {"permissions", permissions},
		{"agent", agent}, {"runtime", runtimeAnswers}, {"socket", socket},
		{"kubelet-endpoint", kubeletEndpoint}, {"kubelet", kubeletConnected}, {"runtime-clients", runtimeClients},
		{"policies", policies}, {"references", references}, {"cluster-policies", clusterPolicies}, {"namespaces", namespaces}, {"sandbox", sandbox},
		{"registries", registries}, {"clock", clock}, {"audit", auditLog}, {"disk", disk},
	}
	if canary {
		all = append(all, check{"canary", sendCanary})
	}
	return all
}

// Examine makes all checks, and gives a finding for each.
func Examine(ctx context.Context, o Options) ([]Finding, error) {
	n, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	defer n.tree.Close()
	var found []Finding
	for _, c := range checks(o.Canary) {
		found = append(found, n.make(ctx, c))
		if ctx.Err() != nil {
			return found, ctx.Err()
		}
	}
	return found, nil
}

// make makes one check. One that panics, or takes too long, has found nothing out and says so.
func (n *node) make(ctx context.Context, c check) Finding {
	limit := checkTimeout
	if c.id == "canary" {
		limit = canaryTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan Finding, 1)
	go func() {
		var f Finding
		err := rescue.Do(n.Log, "checking "+c.id, func() error {
			f = c.run(ctx, n)
			return nil
		})
		if err != nil {
			f = warn("report this as a fault of cosentry's", "could not be checked: %v", err)
		}
		done <- f
	}()
	var f Finding
	select {
	case f = <-done:
	case <-time.After(limit + grace): // it waits for a disk that hangs, and goes on doing so
		f = warn("look at what it is about by hand", "could not be checked within %v", limit)
	}
	f.ID, f.Saw, f.Do = c.id, line(f.Saw), line(f.Do)
	return f
}

// Worst is the worst level of all findings.
func Worst(found []Finding) (worst Level) {
	for _, f := range found {
		worst = max(worst, f.Level)
	}
	return worst
}

// maxLine bounds a finding's texts, in bytes.
const maxLine = 1500

// line makes a text, parts of which others wrote, fit for one line of a terminal.
func line(s string) string {
	s = gate.Printable(s)
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "") + "…"
	}
	return s
}
