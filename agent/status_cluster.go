package main

import (
	"time"

	"github.com/cosentry/cosentry/agent/reload"
	"github.com/cosentry/cosentry/agent/sight"
)

// maxSkippedRows bounds the rows of documents that are not taken; -o json has more.
const maxSkippedRows = 10

// clusterRows tells of the cluster's policies. Nothing is said where the cluster has no say.
func clusterRows(c *sight.ClusterPolicies, now time.Time, row rower) {
	if c == nil {
		return
	}
	signed := ""
	if c.Signed {
		signed = ", signed ones alone"
	}
	switch {
	case c.State == reload.ClusterNone:
		row("CLUSTER", "no policies have come yet to %s: the node's own hold alone", c.Dir)
	case c.Revision == "":
		row("CLUSTER", "its policies cannot be loaded: gated calls are refused")
	default:
		row("cluster", "%d policies%s, revision %s, set %s, loaded %s", c.Count, signed, c.Revision, c.Set, c.Loaded.Format(time.RFC3339))
	}
	if c.Broken != "" {
		row("CLUSTER BROKEN", "what came last is not in force: %s", c.Broken)
	}
	if c.Warnings > 0 {
		row("cluster warnings", "%d about its policies; see: cosentry policy check --cluster", c.Warnings)
	}
	for i, s := range c.Skipped {
		if i == maxSkippedRows {
			break
		}
		row("NOT TAKEN", "%s: %s", s.File, s.Why)
	}
	if more := c.SkippedCount - min(len(c.Skipped), maxSkippedRows); more > 0 {
		row("NOT TAKEN", "and %d more; see: cosentry status -o json", more)
	}
	switch age := now.Sub(c.Heartbeat); {
	case c.HeartbeatFault != "":
		row("SYNC", "%s", c.HeartbeatFault)
	case c.Heartbeat.IsZero():
		row("SYNC", "has never said that it is up to date")
	case age > sight.StaleAfter:
		row("SYNC", "last up to date at %s, %s ago: what has changed in the cluster since then is not known here", c.Heartbeat.Format(time.RFC3339), inDays(age))
	default:
		row("sync", "up to date at %s", c.Heartbeat.Format(time.RFC3339))
	}
}
