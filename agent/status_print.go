package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/agent/namespaces"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/verify/trust"
)

func printStatus(w io.Writer, s sight.Status, output string) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, gate.Printable(fmt.Sprintf(format, args...)))
	}
	row("version", "%s", s.Version)
	row("node", "%s", s.Node)
	row("mode", "%s", s.Mode)
	settingsRow(s.SettingsBroken, row)
	breakGlassRow(s.BreakGlass, time.Now(), row)
	if s.NotReady != "" {
		row("NOT READY", "%s", s.NotReady)
	}
	row("socket", "%s", s.Listen)
	row("runtime", "%s (%s)", s.Runtime, s.RuntimeState)
	peerRows(s.Peers, time.Now(), row)
	row("up", "%s", time.Since(s.Started).Round(time.Second))
	if s.Policies.Revision == "" {
		row("policies", "NONE IN FORCE: gated calls are refused")
	} else {
		row("policies", "%d, revision %s, loaded %s (%s ago)", s.Policies.Count, s.Policies.Revision, s.Policies.Loaded.Format(time.RFC3339), inDays(time.Since(s.Policies.Loaded)))
	}
	if s.Policies.Warnings > 0 {
		row("warnings", "%d about the policies; see: cosentry policy check", s.Policies.Warnings)
	}
	if s.Policies.Broken != "" {
		row("BROKEN", "the files on disk are not in force: %s", s.Policies.Broken)
	}
	row("no match", "%s", s.NoMatch)
	sandboxRows(s.Sandbox, row)
	clusterRows(s.ClusterPolicies, time.Now(), row)
	namespaceRows(s.Namespaces, row)
	trustRows(s.Trust, time.Now(), row)
	row("cache", "%d verdicts", s.CachedVerdicts)
	for _, action := range slices.Sorted(maps.Keys(s.Decisions)) {
		for _, decision := range slices.Sorted(maps.Keys(s.Decisions[action])) {
			row(action+" "+decision, "%d", s.Decisions[action][decision])
		}
	}
	refusalRow(s.LastRefusal, row)
	row("audit", "%s, %d records, head %s", s.Audit.Dir, s.Audit.Sequence, s.Audit.Hash)
	if s.Audit.Fault != "" {
		row("AUDIT", "records are NOT BEING WRITTEN, %d wait: %s", s.Audit.Queued, s.Audit.Fault)
	}
	if s.Audit.Lost > 0 {
		row("AUDIT LOST", "%d records are in no file; the log of the agent has them", s.Audit.Lost)
	}
	return t.Flush()
}

// rower writes a row of the status.
type rower func(name, format string, args ...any)

func namespaceRows(n sight.Namespaces, row rower) {
	if n.ForCluster {
		row("namespaces", "all; what follows is where the cluster's policies hold too")
	}
	switch n.State {
	case "":
		row("namespaces", "%s", n.Enforce)
	case namespaces.Missing:
		row("NAMESPACES", "judged in ALL: there is no file %s", n.File)
	case namespaces.Broken:
		if n.Loaded.IsZero() {
			row("NAMESPACES", "judged in ALL: the file cannot be read: %s", n.Fault)
			break
		}
		row("NAMESPACES", "as the file said at %s, %d of %d labelled; since then it cannot be read: %s", n.Loaded.Format(time.RFC3339), n.Labelled, n.Count, n.Fault)
	default:
		row("namespaces", "%s, %d of %d, %s read at %s", n.Enforce, n.Labelled, n.Count, n.File, n.Loaded.Format(time.RFC3339))
	}
	if len(n.Exempt) > 0 {
		row("exempt", "%s", strings.Join(n.Exempt, ", "))
	}
}

const (
	// expirySoon is how long before its end a trust root is warned of.
	expirySoon = 7 * 24 * time.Hour
	// maxTrustRows bounds the rows of what policies refer to; -o json has them all.
	maxTrustRows = 40
)

// trustRows tells of every trust root and KMS key, and of all else that cannot be used or renewed. What somebody has to do
// something about comes first: what is fine must not push it out.
func trustRows(all []sight.Trust, now time.Time, row rower) {
	var urgent, fine []sight.Trust
	counted := 0
	for _, t := range all {
		switch {
		case t.Error != "" || t.Disk != "" || !t.OK || soon(t.Expires, now) || soon(t.Ends, now):
			urgent = append(urgent, t)
		case t.Kind == trust.KindRoot || t.Kind == trust.KindKMS:
			fine = append(fine, t)
		default:
			counted++
		}
	}
	shown := append(urgent, fine...)
	for _, t := range shown[:min(len(shown), maxTrustRows)] {
		trustRow(t, now, row)
	}
	if more := len(shown) - maxTrustRows; more > 0 {
		row("", "and %d more; see: cosentry status -o json", more)
	}
	if counted > 0 {
		row("references", "%d others can be used", counted)
	}
}

func soon(end, now time.Time) bool { return !end.IsZero() && end.Sub(now) < expirySoon }

// trustRow is one of them. Expires and Ends are told apart: after the one nothing is accepted any more, after the other
// what was signed before still is.
func trustRow(t sight.Trust, now time.Time, row rower) {
	if t.Layer != "" {
		t.Kind = t.Layer + " " + t.Kind
	}
	words := t.Name
	if !t.Expires.IsZero() {
		words += ", until " + t.Expires.Format(time.RFC3339)
	}
	if t.From != "" {
		words += ", from " + t.From
	}
	if !t.Fetched.IsZero() {
		words += ", fetched " + t.Fetched.Format(time.RFC3339)
		if age := now.Sub(t.Fetched); age >= 0 {
			words += " (" + inDays(age) + " ago)"
		}
	}
	switch left := t.Expires.Sub(now); {
	case soon(t.Expires, now) && left <= 0:
		row("EXPIRED", "%s %s", t.Kind, words)
	case soon(t.Expires, now):
		row("EXPIRES SOON", "%s %s: %s left", t.Kind, words, inDays(left))
	case !t.OK:
		row("NOT USABLE", "%s %s", t.Kind, words)
	default:
		row(t.Kind, "%s", words)
	}
	if soon(t.Ends, now) {
		const what = "%s %s: no authority of some kind in it signs after %s"
		if left := t.Ends.Sub(now); left > 0 {
			row("SIGNS UNTIL", what+", %s left: what is signed afterwards will not be accepted, what was signed before will", t.Kind, t.Name, t.Ends.Format(time.RFC3339), inDays(left))
		} else {
			row("SIGNS NO MORE", what+": what is signed since is not accepted, what was signed before is", t.Kind, t.Name, t.Ends.Format(time.RFC3339))
		}
	}
	if t.Error != "" {
		row("", "%s", t.Error)
	}
	if t.Disk != "" {
		row("", "%s", t.Disk)
	}
}

func inDays(d time.Duration) string {
	switch days := int(d / (24 * time.Hour)); {
	case days == 1:
		return "1 day"
	case days > 1:
		return fmt.Sprintf("%d days", days)
	}
	return d.Round(time.Minute).String()
}
