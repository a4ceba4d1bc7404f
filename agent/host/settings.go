package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host/files"
	"github.com/cosentry/cosentry/verify/limits"
)

// The stages to which a file that was written belongs.
const (
	stageLink     = "link"
	stageSettings = "settings"
	stageUnit     = "unit"
	stageKubelet  = "kubelet"
)

const newSettings = `# Written by cosentry's installation, which leaves this file alone once you changed it.
# docs/settings.md lists all settings; check with: cosentry config check
apiVersion: cosentry.dev/v1alpha1
kind: NodeConfig
# observe: record what would be refused, refuse nothing. enforce: refuse it.
mode: %s
`

// planSettings plans the changes after which the agent has settings. What the owner wrote is left alone, but has to fit; what an
// installation wrote follows what is offered, unless that is weaker.
func (h *Host) planSettings(s State, p *Plan) error {
	now, kept, err := h.inForce()
	if err != nil {
		return err
	}
	wanted, err := h.wantedSettings(p.Facts)
	if now != nil {
		p.NotTaken, err = h.refuse(s, now, wanted, err)
		if h.held {
			err = nil // what nobody takes keeps nothing from being mended
		}
	}
	if err != nil {
		return err
	}
	p.Settings = kept
	after := now
	switch {
	case now == nil:
		after = wanted
		p.Settings = append(p.Settings, files.Change{Path: ConfigFile, After: wanted, Mode: 0o600})
	case h.o.Settings != "" && !h.held && len(p.NotTaken) == 0 && s.ownsSettings(now) && !bytes.Equal(now, wanted):
		after = wanted
		c := files.Change{Path: ConfigFile, Before: now, After: wanted, Mode: 0o600}
		p.Settings = slices.DeleteFunc(p.Settings, func(k files.Change) bool {
			if k.Path == ConfigFile {
				c.Before = nil
			}
			return k.Path == ConfigFile
		})
		p.Settings = append(p.Settings, c)
	default:
		if err := fits(now, p.Facts); err != nil {
			return fmt.Errorf("settings %s: %w", ConfigFile, err)
		}
	}
	if h.o.Check != nil {
		if err := h.o.Check(after); err != nil {
			return fmt.Errorf("settings %s, as they would be in force: %w", ConfigFile, err)
		}
	}
	return h.planPolicies(s, now, p)
}

// inForce are the node's settings: those that are there, or, where they were lost, those that were kept of them. all puts back what was
// lost. Without any, now is nil.
func (h *Host) inForce() (now []byte, all []files.Change, err error) {
	if now, err = h.tree.Read(ConfigFile); now != nil || err != nil {
		return now, nil, err
	}
	if all, err = h.planKept(); err != nil {
		return nil, nil, err
	}
	for _, c := range all {
		if c.Path == ConfigFile {
			now = c.After
		}
	}
	return now, all, nil
}

// ownsSettings says whether the settings are as an installation wrote them.
func (s State) ownsSettings(now []byte) bool {
	for _, r := range s.Files {
		if r.Path == ConfigFile {
			return r.wrote(now, "")
		}
	}
	return false
}

// wantedSettings are those of --settings, or new ones in --mode, with what this host needs where they say nothing of it.
func (h *Host) wantedSettings(f Facts) ([]byte, error) {
	text := fmt.Appendf(nil, newSettings, h.o.Mode)
	from := "built-in settings"
	if h.o.Settings != "" {
		if h.given.faulty != nil {
			return nil, h.given.faulty
		}
		text, from = h.given.settings, h.o.Settings
	}
	text, err := fill(text, f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	if err := fits(text, f); err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return text, nil
}

// read reads a file of this side: one that the caller named.
func read(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := limits.HostFile.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}

// fill adds where the sockets are, if the settings leave it out and the default is another. One ConfigMap is for nodes with either
// runtime.
func fill(text []byte, f Facts) ([]byte, error) {
	d := config.Default()
	if f.Socket == d.Listen && f.Runtime.Socket == d.Runtime.Endpoint {
		return text, nil
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("is not one YAML document with settings")
	}
	top := doc.Content[0]
	set(top, "listen", f.Socket)
	runtime := lookup(top, "runtime")
	if runtime == nil {
		runtime = &yaml.Node{Kind: yaml.MappingNode}
		top.Content = append(top.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: "runtime"}, runtime)
	}
	if runtime.Kind != yaml.MappingNode {
		return nil, errors.New("runtime is not a mapping")
	}
	set(runtime, "endpoint", f.Runtime.Socket)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func lookup(m *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

// set sets key where it is not set.
func set(m *yaml.Node, key, value string) {
	if lookup(m, key) == nil {
		m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, &yaml.Node{Kind: yaml.ScalarNode, Value: value})
	}
}

// fits says why no agent could serve this host with these settings.
func fits(text []byte, f Facts) error {
	c, err := config.Parse(text)
	switch {
	case err != nil:
		return err
	case path.Clean(c.Listen) != f.Socket:
		return fmt.Errorf("listen is %s and this host's socket is %s: write that, or leave listen out", c.Listen, f.Socket)
	case path.Clean(c.Runtime.Endpoint) != path.Clean(f.Runtime.Socket):
		return fmt.Errorf("runtime.endpoint is %s and kubelet's runtime is on %s: write that", c.Runtime.Endpoint, f.Runtime.Socket)
	}
	return nil
}

// maxKept is how many files of the owner's settings are kept.
const maxKept = 4096

// planKept are the changes that put back the owner's settings as they were kept, where /etc was lost. What is there stays.
func (h *Host) planKept() (all []files.Change, err error) {
	kept, err := h.walk(keptDir)
	if err != nil {
		return nil, err
	}
	var last []files.Change
	for _, rel := range kept {
		to := path.Join(configDir, rel)
		there, err := h.tree.Exists(to)
		if err != nil {
			return nil, err
		}
		if there {
			continue
		}
		from := path.Join(keptDir, rel)
		data, err := h.tree.Read(from)
		if err != nil {
			return nil, err
		}
		fi, err := h.tree.Stat(from)
		if err != nil {
			return nil, err
		}
		c := files.Change{Path: to, After: data, Mode: fi.Mode().Perm(), Secret: strings.HasPrefix(rel, "secrets/")}
		if to == ConfigFile { // last: while they are missing, the next run comes here again
			last = append(last, c)
			continue
		}
		all = append(all, c)
	}
	return append(all, last...), nil
}

// walk gives the regular files below dir, relative to it; links are followed to files and not to folders.
func (h *Host) walk(dir string) (all []string, err error) {
	entries, err := h.tree.List(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		fi, err := h.tree.Stat(path.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a link to nothing
		}
		if err != nil {
			return nil, err
		}
		switch {
		case fi.Mode().IsRegular():
			all = append(all, e.Name())
		case e.IsDir():
			below, err := h.walk(path.Join(dir, e.Name()))
			if err != nil {
				return nil, err
			}
			for _, rel := range below {
				all = append(all, path.Join(e.Name(), rel))
			}
		}
		if len(all) > maxKept {
			return nil, fmt.Errorf("%s has more than %d files", dir, maxKept)
		}
	}
	return all, nil
}

// keep has the copy of the owner's settings be as they are, so that a boot that loses /etc loses no restriction. Settings that the
// agent could not start with are not kept.
func (h *Host) keep() error {
	now, err := h.tree.Read(ConfigFile)
	if err != nil || now == nil {
		return err
	}
	if _, err := config.Parse(now); err != nil {
		return fmt.Errorf("settings %s: %w", ConfigFile, err)
	}
	if _, err := h.tree.MakeDir(keptDir, 0o700); err != nil {
		return err
	}
	wanted, err := h.walk(configDir)
	if err != nil {
		return err
	}
	for _, rel := range wanted {
		if err := h.keepFile(rel); err != nil {
			return err
		}
	}
	kept, err := h.walk(keptDir)
	if err != nil {
		return err
	}
	for _, rel := range kept {
		if slices.Contains(wanted, rel) {
			continue
		}
		if err := h.tree.Remove(path.Join(keptDir, rel)); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) keepFile(rel string) error {
	from, to := path.Join(configDir, rel), path.Join(keptDir, rel)
	data, err := h.tree.Read(from)
	if err != nil || data == nil {
		return err
	}
	fi, err := h.tree.Stat(from)
	if err != nil {
		return err
	}
	old, err := h.tree.Read(to)
	if err != nil {
		return err
	}
	if old != nil && bytes.Equal(old, data) {
		if was, err := h.tree.Stat(to); err == nil && was.Mode() == fi.Mode() {
			return nil
		}
	}
	if _, err := h.tree.MakeDir(path.Dir(to), 0o700); err != nil {
		return err
	}
	return h.tree.Put(to, bytes.NewReader(data), fi.Mode().Perm())
}
