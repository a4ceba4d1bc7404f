package kubelet

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"go.yaml.in/yaml/v3"
)

// findRancher is for k3s and RKE2. Their own flag for an endpoint takes away the runtime that they bring along, so
// it is kubelet's drop-in folder that is used, which they read since 1.32. A flag that their owner hands through to
// kubelet beats it.
func findRancher(t tree, f Facts, layout string) (Endpoint, error) {
	product := K3s
	if layout == RKE2 || layout != K3s && strings.HasPrefix(f.Unit, RKE2) {
		product = RKE2
	}
	settings, err := readRancher(t, f, product)
	if err != nil {
		return Endpoint{}, err
	}
	dir := path.Join(settings.dataDir, "agent/etc/kubelet.conf.d")
	d, err := readDropins(t, dir, [2]source{})
	if err != nil {
		return Endpoint{}, err
	}
	e := Endpoint{Layout: product, dropin: d, runtime: d.over[0], image: d.over[1]}
	written, err := t.there(path.Join(dir, "00-"+product+"-defaults.conf"))
	if err != nil {
		return Endpoint{}, err
	}
	if !written || d.under[0].value == "" {
		return Endpoint{}, fmt.Errorf("%w: %s has written no endpoint into %s: it has to be version 1.32 or newer and to have run once; "+
			"with an older one set kubelet-arg: container-runtime-endpoint=… in /etc/rancher/%s/config.yaml by hand", ErrByHand, product, dir, product)
	}
	args := settings.kubeletArgs
	if len(f.Args) > 0 && known(f.Args[0]) { // RKE2's kubelet is a process of its own
		args.words = append(args.words, running(f.Args).words...)
	}
	if s, ok := args.source(runtimeFlag); ok {
		e.runtime = s
	}
	if s, ok := args.source(imageFlag); ok {
		e.image = s
	}
	for _, s := range []*source{&e.runtime, &e.image} {
		if !s.config {
			s.hand = "take the flag out of kubelet-arg there, and run this again"
		}
	}
	return e, nil
}

type rancher struct {
	dataDir     string
	kubeletArgs command
}

// readRancher reads what of k3s's or RKE2's own settings bears on kubelet's: from its unit and from its config files.
func readRancher(t tree, f Facts, product string) (rancher, error) {
	r := rancher{dataDir: "/var/lib/rancher/" + product, kubeletArgs: command{origin: "kubelet-arg of " + product}}
	config := "/etc/rancher/" + product + "/config.yaml"
	c := command{}
	if len(f.Exec) > 0 {
		var err error
		if c, err = expand(t, f); err != nil {
			return rancher{}, err
		}
	}
	for _, name := range []string{"config", "c"} {
		if v := c.all(name); len(v) > 0 {
			config = v[len(v)-1]
		}
	}
	for _, variable := range f.Environment {
		if strings.HasPrefix(variable, strings.ToUpper(product)+"_CONFIG_FILE=") {
			_, config, _ = strings.Cut(variable, "=")
		}
	}
	paths := []string{config}
	entries, err := t.List(config + ".d")
	if err != nil {
		return rancher{}, err
	}
	for _, entry := range entries {
		name := entry.Name()
		if ext := path.Ext(name); ext == ".yaml" || ext == ".yml" {
			paths = append(paths, path.Join(config+".d", name))
		}
	}
	for _, p := range paths {
		if err := r.add(t, p); err != nil {
			return rancher{}, err
		}
	}
	for _, name := range []string{"data-dir", "d"} {
		if v := c.all(name); len(v) > 0 {
			r.dataDir = v[len(v)-1]
		}
	}
	for _, a := range c.all("kubelet-arg") {
		r.pass(a)
	}
	if !path.IsAbs(r.dataDir) {
		return rancher{}, fmt.Errorf("%w: %s has its data in %s, which is no absolute path", ErrByHand, product, shown(r.dataDir))
	}
	return r, nil
}

// add reads one config file.
func (r *rancher) add(t tree, p string) error {
	data, err := t.read(p)
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var settings map[string]any
	if err := yaml.NewDecoder(bytes.NewReader(data)).Decode(&settings); err != nil && len(bytes.TrimSpace(data)) > 0 {
		return fmt.Errorf("%w: %s is not YAML: %w", ErrByHand, p, err)
	}
	for key, value := range settings {
		switch strings.TrimSuffix(key, "+") {
		case "data-dir":
			r.dataDir = fmt.Sprint(value)
		case "kubelet-arg":
			list, ok := value.([]any)
			if !ok {
				list = []any{value}
			}
			for _, v := range list {
				r.pass(fmt.Sprint(v))
			}
		}
	}
	return nil
}

// pass notes one argument that is handed through to kubelet: name=value, with or without hyphens before it.
func (r *rancher) pass(argument string) {
	r.kubeletArgs.words = append(r.kubeletArgs.words, literal("--"+strings.TrimLeft(argument, "-")))
}

// all are the values of a flag that may be given several times, with one hyphen or two.
func (c command) all(name string) []string {
	var out []string
	for i, word := range c.words {
		given, value, inline := strings.Cut(text(word), "=")
		if given != "--"+name && given != "-"+name {
			continue
		}
		if !inline && i+1 < len(c.words) {
			value = text(c.words[i+1])
		}
		out = append(out, value)
	}
	return out
}
