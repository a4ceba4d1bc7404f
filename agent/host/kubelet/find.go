package kubelet

import (
	"fmt"
	"path"
)

// instanceConfig is the file from which kubeadm, at an upgrade, puts a node's own endpoint back into config.yaml.
const instanceConfig = "instance-config.yaml"

// findKubelet is for a kubelet that is a process of its own.
func findKubelet(t tree, f Facts, layout string) (Endpoint, error) {
	c, err := commandLine(t, f)
	if err != nil {
		return Endpoint{}, err
	}
	found, err := layoutOf(t, f, c)
	if err != nil {
		return Endpoint{}, err
	}
	e := Endpoint{Layout: found}
	if layout != "" && layout != Auto && layout != e.Layout && (layout != ConfigDir || !has(c, configDirFlag)) {
		return Endpoint{}, fmt.Errorf("%w: this host's kubelet is set up as %s, not as %s; leave --kubelet away, or name the file that decides with --kubelet /path", ErrByHand, e.Layout, layout)
	}
	if err := e.fill(t, c); err != nil {
		return Endpoint{}, err
	}
	return e, nil
}

// commandLine is how kubelet will be started the next time. Where the running kubelet has a flag of which the unit knows
// nothing, something else adds flags, and an edit of any file might change nothing.
func commandLine(t tree, f Facts) (command, error) {
	const hand = "name the KubeletConfiguration file that decides with --kubelet /path, or set the endpoint by hand"
	switch {
	case len(f.Exec) > 0 && known(f.Exec[0]):
		c, err := expand(t, f)
		if err != nil || len(f.Args) == 0 {
			return c, err
		}
		live := running(f.Args)
		for _, name := range []string{runtimeFlag, imageFlag, configFlag, configDirFlag} {
			if has(live, name) && !has(c, name) {
				return command{}, fmt.Errorf("%w: the running kubelet has a flag --%s that comes neither from unit %s nor from its environment files; %s", ErrByHand, name, f.Unit, hand)
			}
		}
		return c, nil
	case len(f.Args) > 0 && known(f.Args[0]):
		return running(f.Args), nil
	case len(f.Exec) > 0:
		return command{}, fmt.Errorf("%w: unit %s starts %s, and no kubelet is running that would show its flags; start it, or %s", ErrByHand, f.Unit, shown(f.Exec[0]), hand)
	}
	return command{}, fmt.Errorf("%w: neither a unit that starts kubelet nor a running kubelet is known; %s", ErrByHand, hand)
}

func has(c command, name string) bool {
	_, ok := c.flag(name)
	return ok
}

// layoutOf names the layout by what no other has.
func layoutOf(t tree, f Facts, c command) (string, error) {
	if kind, err := t.there("/kind/version"); kind || err != nil {
		return Kind, err
	}
	uses := func(p string) bool {
		for _, e := range f.EnvironmentFiles {
			if e == p || e == "-"+p {
				return true
			}
		}
		return false
	}
	config, _ := c.flag(configFlag)
	switch {
	case len(f.Exec) > 0 && path.Dir(f.Exec[0]) == "/home/kubernetes/bin":
		return GKE, nil
	case uses("/etc/eks/kubelet/environment"), path.Dir(text(config)) == "/etc/kubernetes/kubelet" && path.Ext(text(config)) == ".json":
		return EKS, nil
	case uses("/var/lib/kubelet/kubeadm-flags.env"):
		return Kubeadm, nil
	case has(c, configDirFlag):
		return ConfigDir, nil
	case has(c, configFlag):
		return ConfigFile, nil
	}
	return Flags, nil
}

// fill reads what decides, from a command line down.
func (e *Endpoint) fill(t tree, c command) error {
	config, _ := c.flag(configFlag)
	dir, _ := c.flag(configDirFlag)
	var below [2]source
	if len(config) > 0 {
		doc, err := readDocument(t, text(config))
		if err != nil {
			return err
		}
		for i, field := range []string{runtimeField, imageField} {
			if below[i], err = doc.source(field); err != nil {
				return err
			}
		}
		if err := e.instance(t, path.Join(path.Dir(text(config)), instanceConfig)); err != nil {
			return err
		}
	} else {
		below[0] = source{words: c.origin, hand: "give kubelet a file with --config, or the flag --" + runtimeFlag + "={to}, and run this again"}
	}
	if len(dir) > 0 {
		d, err := readDropins(t, text(dir), below)
		if err != nil {
			return err
		}
		e.dropin = d
		below = d.over
	}
	e.runtime, e.image = below[0], below[1]
	if s, ok := c.source(runtimeFlag); ok {
		e.runtime = s
	}
	if s, ok := c.source(imageFlag); ok {
		e.image = s
	}
	if !e.runtime.config && !e.image.config {
		e.dropin = nil // flags decide both, or nothing is set for images
	}
	return nil
}

// instance adds kubeadm's own note of the endpoint, where there is one. It decides nothing today, but the next kubeadm
// upgrade would write the runtime's own socket from it into config.yaml.
func (e *Endpoint) instance(t tree, p string) error {
	data, err := t.read(p)
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	d, err := parseFields(data)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrByHand, p, err)
	}
	for _, field := range []string{runtimeField, imageField} {
		s, err := (opened{d, p}).source(field)
		if err != nil {
			return err
		}
		if s.value != "" {
			e.also = append(e.also, s)
		}
	}
	return nil
}

// opened is a KubeletConfiguration and its real path.
type opened struct {
	document
	path string
}

func readDocument(t tree, p string) (opened, error) {
	data, err := t.read(p)
	if err != nil {
		return opened{}, fmt.Errorf("%w: kubelet's configuration: %w", ErrByHand, err)
	}
	d, err := parseDocument(data)
	if err != nil {
		return opened{}, fmt.Errorf("%w: kubelet's configuration %s: %w", ErrByHand, p, err)
	}
	return opened{document: d, path: p}, nil
}

// source is a field of the document, set or not.
func (o opened) source(field string) (source, error) {
	value, err := o.get(field)
	if err != nil {
		return source{}, fmt.Errorf("%w: kubelet's configuration %s: %w", ErrByHand, o.path, err)
	}
	return source{
		value: value, words: field + " in " + o.path, config: true, path: o.path,
		set: func(data []byte, to string) ([]byte, error) {
			after, err := setField(data, field, to)
			if err != nil {
				return nil, fmt.Errorf("%w: %s: %w; set %s: %s there by hand and run this again", ErrByHand, o.path, err, field, to)
			}
			return after, nil
		},
	}, nil
}
