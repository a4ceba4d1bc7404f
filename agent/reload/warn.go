package reload

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust"
)

const (
	// maxWarnings bounds the log lines of one load.
	maxWarnings = 20
	// maxNamed bounds the policies that one line names.
	maxNamed = 5
)

// thing is what is referred to, however often.
type thing struct{ kind, name string }

// referred is how things stood with what policies refer to when it was last looked at.
type referred struct {
	usable map[thing]bool // and false: there, and not usable
	lost   map[thing]bool // was usable once and is not now
}

// follow tells of what could be used before and cannot any more, which refuses images that ran until now, and of its return.
func (f *referred) follow(references []trust.Reference, log *slog.Logger) {
	now := referred{usable: map[thing]bool{}, lost: map[thing]bool{}}
	var things []thing
	why, who := map[thing]string{}, map[thing][]string{}
	for _, r := range references {
		t := thing{r.Kind, r.Name}
		before, seen := now.usable[t]
		if !seen {
			things = append(things, t)
		}
		now.usable[t] = r.Err == nil && (before || !seen)
		if r.Err == nil {
			continue
		}
		if why[t] == "" {
			why[t] = r.Text
		}
		if r.Policy != "" && !slices.Contains(who[t], r.Policy) {
			who[t] = append(who[t], r.Policy)
		}
	}
	told := 0
	for _, t := range things {
		switch {
		case now.usable[t] && f.lost[t]:
			log.Info("what policies refer to is usable again", "kind", t.kind, "name", t.name)
		case now.usable[t]:
		case f.lost[t]:
			now.lost[t] = true
		case f.usable[t]:
			now.lost[t] = true
			if told++; told <= maxWarnings {
				log.Error("what policies refer to is no longer usable: what needs it is refused", "kind", t.kind, "name", t.name, "policies", some(who[t]), "error", why[t])
			}
		}
	}
	if told > maxWarnings {
		log.Error("more of what policies refer to is no longer usable; see: cosentry status", "references", told-maxWarnings)
	}
	*f = now
}

func some(names []string) string {
	if more := len(names) - maxNamed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), more)
	}
	return strings.Join(names, ", ")
}

// teller logs what there is to be said of the policies in force, once.
type teller struct {
	log      *slog.Logger
	see, dir string // which command says more, and where the policies are

	told  map[string]bool
	refer referred
}

// anew forgets what was said of another set.
func (p *teller) anew() { p.told = nil }

// warnings is how many there are.
func warnings(written []policy.Warning, references []trust.Reference) int {
	n := len(written)
	for _, r := range references {
		if r.Text != "" {
			n++
		}
	}
	return n
}

// all logs the warnings that were not logged since the set was put in force: references come and go by themselves. What
// is written in a policy and what is not there are told apart: somebody else has to mend each.
func (p *teller) all(written []policy.Warning, references []trust.Reference) {
	p.refer.follow(references, p.log)
	told, logged := make(map[string]bool, len(written)+len(references)), 0
	tell := func(message, attribute, owner string, w policy.Warning) {
		text := w.String()
		told[text] = true
		if p.told[text] {
			return
		}
		if logged++; logged <= maxWarnings {
			p.log.Warn(message, attribute, owner, "warning", text)
		}
	}
	for _, w := range written {
		tell("a policy is legal and probably not what is meant", "policy", w.Policy, w)
	}
	for _, r := range references {
		switch {
		case r.Text == "":
		case p.refer.lost[thing{r.Kind, r.Name}]:
			told[r.String()] = true // as an error, by follow
		case r.Policy == "":
			tell("a trust root cannot be used", "trustRoot", r.Name, r.Warning)
		case r.Err == nil:
			tell("what a policy refers to soon ends, or has authorities that do", "policy", r.Policy, r.Warning)
		default:
			tell("a policy refers to what cannot be used now", "policy", r.Policy, r.Warning)
		}
	}
	if logged > maxWarnings {
		p.log.Warn("there are more warnings about policies; see: "+p.see, "dir", p.dir, "warnings", logged-maxWarnings)
	}
	p.told = told
}
