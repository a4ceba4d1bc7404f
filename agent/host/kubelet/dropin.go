package kubelet

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/cosentry/cosentry/agent/host/files"
)

// ownHeader begins the drop-in that this package writes, and tells it from an owner's.
const ownHeader = "# Written by cosentry install, removed by cosentry uninstall.\n"

// ownNames are the names that the drop-in may have: the first that comes after every file that sets an endpoint.
var ownNames = [...]string{"99-cosentry.conf", "zz-cosentry.conf", "zzzz-cosentry.conf"}

// dropin is a --config-dir. What it needs is one more file there, and no edit of anybody else's.
type dropin struct {
	dir  string
	path string // of the file to write
	// own are files of ours that are there.
	own []files.Change
	// under is what holds without them, over what holds with them.
	under, over [2]source
}

// readDropins merges the files of a --config-dir over what the configuration file says, in kubelet's order.
func readDropins(t tree, dir string, base [2]source) (*dropin, error) {
	names, err := t.dropins(dir)
	if err != nil {
		return nil, err
	}
	d := &dropin{dir: path.Clean(dir), under: base, over: base}
	last := ""
	for _, name := range names {
		p := path.Join(d.dir, name)
		data, err := t.read(p)
		if err != nil {
			return nil, err
		}
		own := slices.Contains(ownNames[:], name)
		if own && !bytes.HasPrefix(data, []byte(ownHeader)) {
			return nil, fmt.Errorf("%w: %s has cosentry's name and is not cosentry's; rename it and run this again", ErrByHand, p)
		}
		doc, err := parseDocument(data)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrByHand, p, err)
		}
		for i, field := range []string{runtimeField, imageField} {
			if !doc.has(field) {
				continue
			}
			s, err := (opened{doc, p}).source(field)
			if err != nil {
				return nil, err
			}
			d.over[i] = s
			if !own {
				d.under[i], last = s, name
			}
		}
		if own {
			d.own = append(d.own, files.Change{Path: p, Before: data})
		}
	}
	for i := range d.over {
		d.over[i].config = true // the drop-in sets it, even where nothing else could
	}
	for _, name := range ownNames {
		if top, _, _ := strings.Cut(last, "/"); name > top {
			d.path = path.Join(d.dir, name)
			return d, nil
		}
	}
	return nil, fmt.Errorf("%w: no file of cosentry's could come after %s in %s; rename that and run this again", ErrByHand, last, dir)
}

// changes puts our file there, or takes it away where what is wanted holds without it.
func (d *dropin) changes(out *changes, e Endpoint, want string) error {
	holds := func(s source) bool {
		return normalise(s.value) == want || s.value == "" && want == DefaultEndpoint
	}
	need := e.runtime.config && !holds(d.under[0]) || e.image.config && d.under[1].value != "" && !holds(d.under[1])
	var after []byte
	if need {
		text := ownHeader + "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
		if e.runtime.config {
			text += runtimeField + ": " + want + "\n"
		}
		if e.image.config && d.under[1].value != "" {
			text += imageField + ": " + want + "\n"
		}
		after = []byte(text)
	}
	change := files.Change{Path: d.path, After: after, Mode: 0o644}
	for _, f := range d.own {
		if f.Path == d.path {
			change.Before = f.Before
			continue
		}
		out.list = append(out.list, f)
	}
	if !change.Nothing() {
		out.list = append(out.list, change)
	}
	return nil
}
