// Package report sums up what cosentry decided, so that the owner of a node in observe mode can read what would break
// before anything does.
//
// It counts records of the audit log and invents nothing: what was let through and would have been refused, what was
// refused, what could not be judged and what was only warned of. Records that say the same of the same image are one row.
// Canaries are counted for themselves: they are refused because cosentry works.
package report

import (
	"cmp"
	"slices"
	"time"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/canary"
)

// MaxRows bounds the rows that are kept. A pod's author can name any number of images; those beyond the bound are counted.
const MaxRows = 1000

// maxPods bounds the pods that a row names.
const maxPods = 3

// Row is what was decided, for one reason, about one image.
type Row struct {
	Decision string    `json:"decision"` // deny, error or warn, as in the audit log
	Image    string    `json:"image"`
	Digest   string    `json:"digest,omitempty"` // the last
	Reason   string    `json:"reason"`
	Count    int       `json:"count"`
	Observed int       `json:"observed"` // of Count, how many went on because the node was in observe mode
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Pods     []string  `json:"pods"` // namespace/name of some of them
	MorePods bool      `json:"morePods,omitempty"`
}

// Report is the sum of many records.
type Report struct {
	Since time.Time `json:"since,omitzero"` // of the first record
	Until time.Time `json:"until,omitzero"`
	// Decisions counts all records of decisions.
	Decisions map[string]int `json:"decisions"`
	// Rows are in order: what would be refused first, what was decided most often first.
	Rows []Row `json:"rows"`
	// Omitted is how many records are in no row, because there were more than MaxRows different ones.
	Omitted int `json:"omitted,omitempty"`
	// Canaries are in nothing else of the report; nil: none was sent.
	Canaries *Canaries `json:"canaries,omitempty"`

	index map[key]int
}

// Canaries are the pulls by which cosentry proved that it judges.
type Canaries struct {
	Count     int            `json:"count"`
	Decisions map[string]int `json:"decisions"`
	Last      time.Time      `json:"last"`
}

type key struct{ decision, image, reason string }

// Add takes a record up. Those that allow are only counted; notices of the log itself and of the agent are passed over.
func (r *Report) Add(rec audit.Record) {
	switch rec.Action {
	case audit.ActionPull, audit.ActionCreate, audit.ActionMount:
	default:
		return
	}
	if canary.Is(rec) {
		r.canary(rec)
		return
	}
	if r.Decisions == nil {
		r.Decisions, r.index = map[string]int{}, map[key]int{}
	}
	r.Decisions[rec.Decision]++
	if r.Since.IsZero() || rec.Time.Before(r.Since) {
		r.Since = rec.Time
	}
	if rec.Time.After(r.Until) {
		r.Until = rec.Time
	}
	if rec.Decision == audit.DecisionAllow {
		return
	}
	k := key{rec.Decision, rec.Image, why(rec)}
	i, ok := r.index[k]
	if !ok {
		if len(r.Rows) == MaxRows {
			r.Omitted++
			return
		}
		i = len(r.Rows)
		r.index[k] = i
		r.Rows = append(r.Rows, Row{Decision: rec.Decision, Image: rec.Image, Reason: k.reason, First: rec.Time})
	}
	r.Rows[i].add(rec)
}

func (r *Report) canary(rec audit.Record) {
	if r.Canaries == nil {
		r.Canaries = &Canaries{Decisions: map[string]int{}}
	}
	c := r.Canaries
	c.Count++
	c.Decisions[rec.Decision]++
	if rec.Time.After(c.Last) {
		c.Last = rec.Time
	}
}

func (row *Row) add(rec audit.Record) {
	row.Count++
	if rec.Mode != "enforce" {
		row.Observed++
	}
	row.Digest, row.Last = rec.Digest, rec.Time
	pod := rec.Pod.Namespace + "/" + rec.Pod.Name
	switch {
	case rec.Pod.Name == "" || slices.Contains(row.Pods, pod):
	case len(row.Pods) == maxPods:
		row.MorePods = true
	default:
		row.Pods = append(row.Pods, pod)
	}
}

// why is the record's reason, or that of the policies that failed: a warning has none of its own.
func why(rec audit.Record) string {
	if rec.Reason != "" {
		return rec.Reason
	}
	for _, p := range rec.Policies {
		if p.Result != "pass" {
			whose := ""
			if p.Layer != "" {
				whose = p.Layer + " "
			}
			return whose + "policy " + p.Policy + ": " + p.Reason
		}
	}
	return ""
}

// order of decisions in a report.
var order = map[string]int{audit.DecisionDeny: 0, audit.DecisionError: 1, audit.DecisionWarn: 2}

// Sort puts the rows in order.
func (r *Report) Sort() {
	slices.SortStableFunc(r.Rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(order[a.Decision], order[b.Decision]), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Image, b.Image))
	})
	r.index = nil
}

// Refusals is how many records say that something was, or in enforce mode would have been, refused.
func (r *Report) Refusals() int {
	return r.Decisions[audit.DecisionDeny] + r.Decisions[audit.DecisionError]
}
