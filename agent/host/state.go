package host

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/cosentry/cosentry/agent/host/files"
)

// format is that of the state file. A newer one is not read: what it says cannot be known.
const format = 1

// Phase is how far an installation came.
type Phase string

// The phases. A host whose state says Installing or Uninstalling was left in the middle: a run was killed, or goes on now.
const (
	Installing   Phase = "installing"
	Installed    Phase = "installed"
	Uninstalling Phase = "uninstalling"
)

// State is what is remembered of a host between runs, in /var/lib/cosentry/install/state.json.
type State struct {
	Format    int       `json:"format"`
	MachineID string    `json:"machineID"`
	Phase     Phase     `json:"phase"`
	Changed   time.Time `json:"changed"`

	// Agent is the binary that proved itself last; an upgrade that does not goes back to it.
	Agent Binary `json:"agent,omitzero"`
	// Refused is the upgrade that failed last.
	Refused *Refused `json:"refused,omitempty"`
	// Runtime is what is behind the agent.
	Runtime Runtime `json:"runtime,omitzero"`
	// Socket is the agent's.
	Socket  string  `json:"socket,omitempty"`
	Kubelet Kubelet `json:"kubelet,omitzero"`
	// NotTaken says what of the settings that were offered last would have loosened those in force, which stayed.
	NotTaken []string `json:"notTaken,omitempty"`
	// Offered is the hash of the settings that the last installation was given: nothing but an installation takes others.
	Offered string `json:"offered,omitempty"`
	// Files are those that were written, Folders those that were made.
	Files   []Record `json:"files,omitempty"`
	Folders []string `json:"folders,omitempty"`
}

// Binary is a version of cosentry on the host.
type Binary struct {
	Version string `json:"version"`
	Path    string `json:"path"`
	SHA256  string `json:"sha256"`
}

// Runtime is a container runtime.
type Runtime struct {
	Name    string `json:"name"` // containerd or crio
	Version string `json:"version"`
	Socket  string `json:"socket"`
	Unit    string `json:"unit,omitempty"` // "" if it has none of its own
}

// Kubelet is what is remembered of the kubelet.
type Kubelet struct {
	Unit   string `json:"unit"`
	Layout string `json:"layout"`
	// Restart says that its settings were changed and that it was not restarted since.
	Restart bool `json:"restart,omitempty"`
	// Healthy says that it once answered when asked for its health: it is expected to again.
	Healthy bool `json:"healthy,omitempty"`
}

// Record is a file that was written.
type Record struct {
	Path  string `json:"path"`
	Stage string `json:"stage"`
	// SHA256 is that of what was written, Link where the link that was made leads.
	SHA256 string `json:"sha256,omitempty"`
	Link   string `json:"link,omitempty"`
	// Older is what was written the time before: a run that was killed between the record and the file leaves that there. It counts
	// for nothing once an installation has ended: who puts that text back means it.
	Older string `json:"older,omitempty"`
	// Before is the file as it was; nil: there was none.
	Before *Backup `json:"before,omitempty"`
}

// Backup is a file as it was before, kept in the backup folder.
type Backup struct {
	SHA256 string      `json:"sha256"`
	Name   string      `json:"name"`
	Mode   fs.FileMode `json:"mode"`
}

// load reads the state; an empty one if there is none. One that cannot be read is moved aside: an installation finds out by
// looking at the host, and to refuse for ever would leave a node with no way out.
func (h *Host) load() (State, error) {
	data, err := h.tree.Read(stateFile)
	if err != nil {
		return State{}, fmt.Errorf("reading the state of the installation: %w", err)
	}
	if data == nil {
		return State{}, nil
	}
	var s State
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&s); err != nil {
		return State{}, &brokenState{err}
	}
	if s.Format != format {
		return State{}, fmt.Errorf("%s has format %d and this version of cosentry knows format %d only; use the version that wrote it, which %s leads to, or a newer one",
			stateFile, s.Format, format, commandLink)
	}
	if err := s.check(); err != nil {
		return State{}, &brokenState{err}
	}
	if s.Phase == Installed {
		for i := range s.Files {
			s.Files[i].Older = ""
		}
	}
	return s, nil
}

// proved says that an agent once proved itself on this host: its first installation is over.
func (s State) proved() bool { return s.Agent.Path != "" }

// brokenState says that there is a state file that is none.
type brokenState struct{ err error }

func (e *brokenState) Error() string { return fmt.Sprintf("%s cannot be read: %v", stateFile, e.err) }

// check refuses paths that nothing here wrote: what is in the state is removed and overwritten as root.
func (s State) check() error {
	for _, r := range s.Files {
		if !path.IsAbs(r.Path) || path.Clean(r.Path) != r.Path {
			return fmt.Errorf("%q is not the path of a file", r.Path)
		}
		if r.Before != nil && r.Before.Name != path.Base(r.Before.Name) {
			return fmt.Errorf("%q is not the name of a backup", r.Before.Name)
		}
	}
	for _, d := range s.Folders {
		if !path.IsAbs(d) || path.Clean(d) != d {
			return fmt.Errorf("%q is not the path of a folder", d)
		}
	}
	return nil
}

// loadOrBegin is load, with a state that cannot be read put aside.
func (h *Host) loadOrBegin() (State, error) {
	s, err := h.load()
	var broken *brokenState
	if !errors.As(err, &broken) {
		return s, err
	}
	h.say("warning: %v; going by what is on the host", err)
	return State{}, nil
}

// save writes the state. It stands before what it tells of is done.
func (h *Host) save(s *State) error {
	s.Format, s.Changed = format, time.Now().UTC().Truncate(time.Second)
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := h.tree.Put(stateFile, bytes.NewReader(append(data, '\n')), 0o600); err != nil {
		return fmt.Errorf("keeping the state of the installation: %w", err)
	}
	return nil
}

// record has the state know of a change before it is made, with what was there kept. A file that was written before keeps
// what was there before the first time, unless somebody else wrote it since.
func (h *Host) record(s *State, stage string, c files.Change) error {
	r := Record{Path: c.Path, Stage: stage, Link: c.AfterLink}
	if c.After != nil {
		r.SHA256 = files.Hash(c.After)
	}
	i := slices.IndexFunc(s.Files, func(r Record) bool { return r.Path == c.Path })
	if i >= 0 && (s.Files[i].wrote(c.Before, c.BeforeLink) || c.Before == nil && c.BeforeLink == "") {
		r.Before, r.Older = s.Files[i].Before, s.Files[i].SHA256
		if c.Before != nil {
			r.Older = files.Hash(c.Before)
		}
	} else if c.Before != nil {
		b, err := h.backUp(c)
		if err != nil {
			return err
		}
		r.Before = b
	}
	if i >= 0 {
		s.Files[i] = r
	} else {
		s.Files = append(s.Files, r)
	}
	return h.save(s)
}

// wrote says whether the file is as it was written, now or the time before.
func (r Record) wrote(data []byte, link string) bool {
	if r.Link != "" || link != "" {
		return r.Link == link
	}
	if data == nil {
		return false
	}
	sum := files.Hash(data)
	return sum == r.SHA256 || sum == r.Older
}

func (h *Host) backUp(c files.Change) (*Backup, error) {
	fi, err := h.tree.Stat(c.Path)
	if err != nil {
		return nil, err
	}
	if _, err := h.tree.MakeDir(backupDir, 0o700); err != nil {
		return nil, err
	}
	sum := files.Hash(c.Before)
	b := &Backup{SHA256: sum, Name: sum[:12] + "-" + path.Base(c.Path), Mode: fi.Mode().Perm()}
	if err := h.tree.Put(path.Join(backupDir, b.Name), bytes.NewReader(c.Before), 0o600); err != nil {
		return nil, fmt.Errorf("keeping %s as it was: %w", c.Path, err)
	}
	return b, nil
}

// before gives what was in the file's place before it was written; nil: nothing.
func (h *Host) before(r Record) ([]byte, error) {
	if r.Before == nil {
		return nil, nil
	}
	data, err := h.tree.Read(path.Join(backupDir, r.Before.Name))
	if err != nil {
		return nil, err
	}
	if data == nil || files.Hash(data) != r.Before.SHA256 {
		return nil, fmt.Errorf("the copy of %s as it was is lost or was changed: %s", r.Path, path.Join(backupDir, r.Before.Name))
	}
	return data, nil
}

// clone shares nothing with s.
func (s State) clone() State {
	s.Files, s.Folders = slices.Clone(s.Files), slices.Clone(s.Folders)
	return s
}

// made remembers folders.
func (s *State) made(folders []string) {
	for _, f := range folders {
		if !slices.Contains(s.Folders, f) {
			s.Folders = append(s.Folders, f)
		}
	}
}
