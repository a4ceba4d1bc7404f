// Package kubelet finds out where a kubelet is told which socket its container runtime is on, and says which file
// to change so that it uses another one.
//
// It promises that the change takes effect: what decides is looked for as kubelet and systemd look for it. A flag beats
// the drop-ins of --config-dir, these beat the file of --config, and of two flags the later one wins. Both endpoints are
// changed, that of the runtime and, where one is set, that of the images: a kubelet that pulls past cosentry would be
// a hole. It promises that nothing else changes: comments, order and quoting stay, and each edit is read again before it
// is handed out.
//
// It refuses, with what to do by hand, what it cannot be sure of: a flag written into a unit, a kubelet that is started
// by a script which adds flags of its own, a file that it cannot read as kubelet would. It reads a host's files and runs
// nothing; package files writes what it proposes.
//
// It leaves the Node object's annotation kubeadm.alpha.kubernetes.io/cri-socket alone, because an installation has no
// right to write to the API server. kubeadm goes by it, or by instance-config.yaml where it is missing, when it pulls its
// own images at an upgrade, and writes it into none of kubelet's settings: an upgrade keeps the endpoint that is set here.
// Who wants these pulls judged too sets it with kubectl annotate.
//
// Formats: KubeletConfiguration is kubelet.config.k8s.io/v1beta1; environment files are those of systemd.exec(5),
// EnvironmentFile=; command lines are those of systemd.service(5), COMMAND LINES.
package kubelet

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/cosentry/cosentry/agent/host/files"
)

// The layouts that Find knows. Auto looks which one the host has.
const (
	Auto      = "auto"
	Kubeadm   = "kubeadm"
	Kind      = "kind"
	GKE       = "gke"
	K3s       = "k3s"
	RKE2      = "rke2"
	EKS       = "eks"
	ConfigDir = "config-dir"
	// ConfigFile is a kubelet with a KubeletConfiguration that none of the above set up, Flags one that has none.
	ConfigFile = "config"
	Flags      = "flags"
)

// DefaultEndpoint is what kubelet uses where nothing is set.
const DefaultEndpoint = "unix:///run/containerd/containerd.sock"

// ErrByHand is in every refusal to edit what this package does not know for certain. The error's text says what its
// reader has to do.
var ErrByHand = errors.New("not changed automatically")

// Units are the names of the units that may run a kubelet, in the order in which to look for them.
func Units() []string {
	return []string{"kubelet.service", "k3s.service", "k3s-agent.service", "rke2-server.service", "rke2-agent.service"}
}

// SharesUnit says whether the unit runs kubelet and the container runtime both, as those of k3s and RKE2 do. Nothing that
// waits for such a runtime may be ordered before such a kubelet.
func SharesUnit(unit string) bool {
	return strings.HasPrefix(unit, "k3s") || strings.HasPrefix(unit, "rke2")
}

// Facts is what is known of a host's kubelet from outside its files.
type Facts struct {
	// Root is the folder of the host's file system; empty is /.
	Root string
	// Unit is the name of kubelet's systemd unit.
	Unit string
	// Exec is the command line of the unit's ExecStart, the program first, its variables not yet replaced.
	Exec []string
	// Environment is the unit's Environment=, as NAME=value.
	Environment []string
	// EnvironmentFiles are the paths of the unit's EnvironmentFile=, in their order, with or without the leading "-".
	EnvironmentFiles []string
	// Args is the command line of the kubelet that is running, its program first. Nil where none is.
	Args []string
}

// Endpoint is where a kubelet is told which socket to use, and what it is told now.
type Endpoint struct {
	// Layout is one of the layouts above, or the path that was given instead.
	Layout string
	// Runtime is the endpoint in force for the runtime, Image that for images. They are equal where none is set for
	// images. Both have a scheme: unix:///run/containerd/containerd.sock.
	Runtime, Image string
	// Source says in words where Runtime comes from, for plans and messages.
	Source string

	root           string
	runtime, image source
	// also are files that do not decide today, and from which tools write those that do.
	also   []source
	dropin *dropin
}

// source is one place where an endpoint is set, or could be.
type source struct {
	// value is what is written there; empty where nothing is.
	value string
	// words name the place.
	words string
	// config says that it is a KubeletConfiguration, which a drop-in of --config-dir beats.
	config bool
	// path and set change it. Without them hand says what a person has to do.
	path string
	set  func(data []byte, to string) ([]byte, error)
	hand string
}

// Find says where the kubelet of a host takes its endpoints from. layout is one of the layouts above, or the absolute
// path of the file that decides: a KubeletConfiguration, an environment file or, in kubelet's --config-dir, a drop-in.
// Errors about what is on the host wrap ErrByHand.
func Find(f Facts, layout string) (Endpoint, error) {
	t, err := openTree(f.Root)
	if err != nil {
		return Endpoint{}, err
	}
	defer t.Close()
	var e Endpoint
	switch {
	case path.IsAbs(layout):
		e, err = findFile(t, f, path.Clean(layout))
	case layout == K3s || layout == RKE2 || (layout == Auto || layout == "") && SharesUnit(f.Unit):
		e, err = findRancher(t, f, layout)
	case slices.Contains([]string{"", Auto, Kubeadm, Kind, GKE, EKS, ConfigDir, ConfigFile, Flags}, layout):
		e, err = findKubelet(t, f, layout)
	default:
		return Endpoint{}, fmt.Errorf("kubelet layout %q is unknown: use auto, kubeadm, kind, gke, k3s, rke2, eks, config-dir or the absolute path of a file", layout)
	}
	if err != nil {
		return Endpoint{}, fmt.Errorf("finding where kubelet's endpoint is set: %w", err)
	}
	e.root = f.Root
	e.Runtime, e.Source = DefaultEndpoint, "kubelet's default, as "+e.runtime.words+" does not say"
	if e.runtime.value != "" {
		e.Runtime, e.Source = normalise(e.runtime.value), e.runtime.words
	}
	e.Image = e.Runtime
	if e.image.value != "" {
		e.Image = normalise(e.image.value)
	}
	return e, nil
}

// Uses says whether both endpoints are the given one, a path or a URL.
func (e Endpoint) Uses(endpoint string) bool {
	want := normalise(endpoint)
	return e.Runtime == want && e.Image == want
}

// Changes is the least edit after which the kubelet uses the endpoint to, a path or a URL, for its runtime and its images.
// It is empty where the kubelet is told so already. Where a person has to make it, the error wraps ErrByHand. Asked for
// what would hold without cosentry's own drop-in, it removes that.
func (e Endpoint) Changes(to string) ([]files.Change, error) {
	want := normalise(to)
	if !plainSocket(want) {
		return nil, fmt.Errorf("changing kubelet's endpoint to %q: not the path of a unix socket in letters, digits and . _ - /", to)
	}
	t, err := openTree(e.root)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	var out changes
	sources := []source{e.runtime}
	if e.image.value != "" {
		sources = append(sources, e.image)
	}
	for _, s := range sources {
		if s.config && e.dropin != nil || s.value != "" && normalise(s.value) == want {
			continue
		}
		if s.value == "" && normalise(to) == DefaultEndpoint {
			continue
		}
		if err := out.set(t, s, want); err != nil {
			return nil, err
		}
	}
	for _, s := range e.also {
		if normalise(s.value) == want {
			continue
		}
		if err := out.set(t, s, want); err != nil {
			return nil, err
		}
	}
	if e.dropin != nil {
		if err := e.dropin.changes(&out, e, want); err != nil {
			return nil, err
		}
	}
	return out.list, nil
}

// changes collects edits, those of one file in one change.
type changes struct{ list []files.Change }

func (c *changes) set(t tree, s source, to string) error {
	if s.set == nil {
		return fmt.Errorf("%w: %s says %s; %s", ErrByHand, s.words, shown(s.value), strings.ReplaceAll(s.hand, "{to}", to))
	}
	for i := range c.list {
		if c.list[i].Path == s.path {
			after, err := s.set(c.list[i].After, to)
			if err != nil {
				return err
			}
			c.list[i].After = after
			return nil
		}
	}
	before, err := t.read(s.path)
	if err != nil {
		return err
	}
	after, err := s.set(before, to)
	if err != nil {
		return err
	}
	c.list = append(c.list, files.Change{Path: s.path, Before: before, After: after})
	return nil
}

// normalise gives an endpoint the form that kubelet's settings should have: with its scheme, and the path clean.
func normalise(endpoint string) string {
	p := strings.TrimPrefix(strings.TrimPrefix(endpoint, "unix:"), "//")
	if !path.IsAbs(p) {
		return endpoint
	}
	return "unix://" + path.Clean(p)
}

// plainSocket says whether an endpoint may be written into YAML, JSON and environment files as it is, without quotes.
func plainSocket(endpoint string) bool {
	p, ok := strings.CutPrefix(endpoint, "unix:///")
	if !ok || p == "" || len(endpoint) > 200 {
		return false
	}
	return strings.IndexFunc(p, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/._-", r)
	}) < 0
}

// shown quotes and cuts text from the host for a message.
func shown(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most] + "…"
	}
	return fmt.Sprintf("%q", s)
}
