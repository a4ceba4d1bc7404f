package host

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/cosentry/cosentry/agent/config"
)

// refuse says why the settings that are offered may not take the place of those in force; nothing, if they may or never would. They
// come from the cluster, and what comes from there can only add restrictions: whoever may edit a ConfigMap may not have a node that
// enforces let more through. That the offer is faulty is such a reason as well, and no error: a node that cannot be
// installed again, as after a boot that lost /etc, is one that lets everything through.
func (h *Host) refuse(s State, now, wanted []byte, faulty error) ([]string, error) {
	if h.o.Settings == "" || h.o.Weaken || !enforces(now) {
		return nil, faulty
	}
	if faulty != nil {
		return []string{"they are faulty: " + line(faulty)}, nil
	}
	if bytes.Equal(now, wanted) || !s.ownsSettings(now) {
		return nil, nil
	}
	have, err := config.Parse(now)
	if err != nil {
		return []string{"those in force cannot be read by this version, so that nobody can tell what would be loosened"}, nil
	}
	want, err := config.Parse(wanted)
	if err != nil {
		return nil, err
	}
	var why []string
	for _, d := range config.Weaker(have, want) {
		why = append(why, d.String())
	}
	return why, nil
}

// maxFaulty bounds what is said of settings that are faulty, in bytes. A stranger may have written them.
const maxFaulty = 1000

func line(err error) string {
	text := strings.Map(func(r rune) rune {
		if r == '\n' || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, err.Error())
	if len(text) > maxFaulty {
		text = strings.ToValidUTF8(text[:maxFaulty], "") + "…"
	}
	return text
}

// enforces says whether a node with these settings may refuse anything. Of those that another version wrote, and this one cannot read, the
// mode alone is read.
func enforces(text []byte) bool {
	c, err := config.Parse(text)
	if err == nil {
		return c.Mode != config.Observe
	}
	var only struct {
		Mode config.Mode `yaml:"mode"`
	}
	return yaml.Unmarshal(text, &only) != nil || only.Mode != config.Observe
}

// HowToWeaken says what the owner of a node does who wants settings that are weaker.
const HowToWeaken = "on the node, as root, its owner edits " + ConfigFile + " and restarts cosentry.service, or runs cosentry install --settings FILE --weaken; " +
	"for some hours there is cosentry break-glass"

// notTaken is the warning about settings that are not taken.
func (h *Host) notTaken(why []string) string {
	return fmt.Sprintf("the settings of %s are NOT TAKEN and %s stays in force, because this node enforces and they would loosen that: %s. To have it so, %s",
		h.o.Settings, ConfigFile, strings.Join(why, "; "), HowToWeaken)
}

// noteOffer has the state say what is offered and not taken: cosentry doctor sees the node, and not what is offered.
func (h *Host) noteOffer(ctx context.Context) error {
	if _, noted, err := h.offerNoted(); noted || err != nil {
		return err
	}
	unlock, err := h.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s, noted, err := h.offerNoted() // again: another run may have ended meanwhile
	if noted || err != nil {
		return err
	}
	return h.save(&s)
}

// offerNoted says whether the state tells of what is offered, and gives the state that does.
func (h *Host) offerNoted() (s State, noted bool, err error) {
	if s, err = h.load(); err != nil || s.Phase != Installed {
		return s, true, err
	}
	now, _, err := h.inForce()
	if err != nil || now == nil {
		return s, true, err
	}
	wanted, err := h.wantedSettings(Facts{Socket: s.Socket, Runtime: s.Runtime})
	why, err := h.refuse(s, now, wanted, err)
	if err != nil || slices.Equal(why, s.NotTaken) {
		return s, true, err
	}
	s.NotTaken = why
	return s, false, nil
}
