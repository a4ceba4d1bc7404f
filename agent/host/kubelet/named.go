package kubelet

import (
	"fmt"
	"path"
	"strings"
)

// findFile is for an owner who knows which file decides. What can be seen to beat it is refused: an edit
// without effect would leave kubelet on the runtime's own socket and look done.
func findFile(t tree, f Facts, p string) (Endpoint, error) {
	c := command{origin: "unit " + f.Unit}
	var err error
	switch {
	case len(f.Exec) > 0 && known(f.Exec[0]):
		c, err = expand(t, f)
	case len(f.Args) > 0 && known(f.Args[0]):
		c = running(f.Args)
	}
	if err != nil {
		return Endpoint{}, err
	}
	if dir, ok := c.flag(configDirFlag); ok && path.Dir(p) == path.Clean(text(dir)) {
		e := Endpoint{Layout: p}
		if err := e.fill(t, c); err != nil {
			return Endpoint{}, err
		}
		if e.dropin == nil || e.dropin.path != p {
			return Endpoint{}, fmt.Errorf("%w: %s is not what decides, a flag or a later file is; leave --kubelet away to see which", ErrByHand, p)
		}
		return e, nil
	}
	read, err := t.read(p)
	if err != nil {
		return Endpoint{}, fmt.Errorf("%w: %w", ErrByHand, err)
	}
	doc, notDocument := parseDocument(read)
	if notDocument != nil {
		return findEnv(c, p, read, notDocument)
	}
	e := Endpoint{Layout: p}
	for i, target := range []*source{&e.runtime, &e.image} {
		field, flag := runtimeField, runtimeFlag
		if i == 1 {
			field, flag = imageField, imageFlag
		}
		if has(c, flag) {
			return Endpoint{}, fmt.Errorf("%w: flag --%s is on kubelet's command line and beats %s; leave --kubelet away to see where it is set", ErrByHand, flag, p)
		}
		if *target, err = (opened{doc, p}).source(field); err != nil {
			return Endpoint{}, err
		}
	}
	if has(c, configDirFlag) {
		return Endpoint{}, fmt.Errorf("%w: kubelet has a --config-dir, whose files beat %s; leave --kubelet away", ErrByHand, p)
	}
	return e, nil
}

// findEnv takes the file for an environment file, in which the endpoint must be a flag.
func findEnv(c command, p string, data []byte, notDocument error) (Endpoint, error) {
	env, err := parseEnv(p, data)
	if err != nil {
		return Endpoint{}, fmt.Errorf("%w: %s is neither a KubeletConfiguration (%w) nor an environment file (%w)", ErrByHand, p, notDocument, err)
	}
	own := command{origin: p}
	for _, value := range env.vars {
		split, err := words(value)
		if err == nil && strings.Contains(text(value), "--"+runtimeFlag) {
			own.words = append(own.words, split...)
		}
	}
	e := Endpoint{Layout: p}
	var ok bool
	if e.runtime, ok = own.source(runtimeFlag); !ok {
		return Endpoint{}, fmt.Errorf("%w: %s is no KubeletConfiguration (%w) and has no flag --%s either", ErrByHand, p, notDocument, runtimeFlag)
	}
	e.image, _ = own.source(imageFlag)
	for _, flag := range []string{runtimeFlag, imageFlag} {
		if in, ok := c.source(flag); ok && in.path != p {
			return Endpoint{}, fmt.Errorf("%w: %s decides, not %s; leave --kubelet away", ErrByHand, in.words, p)
		}
	}
	return e, nil
}
