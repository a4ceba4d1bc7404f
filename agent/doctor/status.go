package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/cosentry/cosentry/agent/reload"
	"github.com/cosentry/cosentry/agent/sight"
)

// sandbox tells of the image that each pod's sandbox is made of. The runtime pulls it by itself, past every gate.
func sandbox(_ context.Context, n *node) Finding {
	if n.status == nil {
		return warn("see the finding about the agent", "whether policy accepts the image of sandboxes is known to the agent alone, which does not answer")
	}
	const mend = "have policy accept it, or the runtime use one that is signed (docs/operations.md)"
	s := n.status.Sandbox
	switch {
	case s.Fault != "":
		return warn("see the finding about the runtime", "the image of sandboxes is not known: %s", s.Fault)
	case s.Looked.IsZero():
		return warn("look again in a minute", "the image of sandboxes was not judged yet")
	}
	var names []string
	for _, i := range s.Images {
		switch {
		case i.Absent:
			continue
		case !i.Allowed && s.Refuse:
			return fail(mend, "the image of sandboxes %s is refused by policy, and sandbox.refuse is set: no pod starts: %s", i.Name, i.Reason)
		case !i.Allowed:
			return warn(mend+"; or refuse it: sandbox.refuse", "the image of sandboxes %s is refused by policy, and pods start with it: %s", i.Name, i.Reason)
		}
		names = append(names, i.Name)
	}
	if len(names) == 0 {
		return good("no image of sandboxes is on the node yet")
	}
	return good("policy accepts %s", strings.Join(names, ", "))
}

// clusterPolicies tells of the policies that cosentry sync brings.
func clusterPolicies(_ context.Context, n *node) Finding {
	if n.status == nil {
		return warn("see the finding about the agent", "which policies of the cluster hold is known to the agent alone, which does not answer")
	}
	c := n.status.ClusterPolicies
	if c == nil {
		return good("the cluster has no say on this node (clusterPolicies.dir is empty)")
	}
	const mend = "see the log of the sync container: kubectl -n cosentry-system logs -l app.kubernetes.io/name=cosentry -c sync"
	switch {
	case c.State == reload.ClusterBroken && c.Revision == "":
		return fail(mend, "the cluster's policies in %s cannot be loaded and none are in force, so every image is refused: %s", c.Dir, c.Broken)
	case c.State == reload.ClusterBroken:
		return fail(mend, "the cluster's policies in %s cannot be loaded, those of revision %s stay in force: %s", c.Dir, c.Revision, c.Broken)
	case c.State == reload.ClusterNone:
		return warn(mend, "no policies of the cluster have come to %s yet: the node's own hold alone", c.Dir)
	case c.SkippedCount > 0:
		first := ""
		if len(c.Skipped) > 0 {
			first = fmt.Sprintf(", of which the first: %s: %s", c.Skipped[0].File, c.Skipped[0].Why)
		}
		return warn("sign them: cosentry policy signed", "%d documents of the cluster are not taken, as their signatures are missing or wrong%s", c.SkippedCount, first)
	case c.HeartbeatFault != "":
		return warn(mend, "how old the cluster's policies are cannot be told: %s", c.HeartbeatFault)
	}
	if age := n.now().Sub(c.Heartbeat); c.Heartbeat.IsZero() || age > sight.StaleAfter {
		return warn(mend+"; is the API server up?", "the cluster's policies were last known to be up to date at %s; the last ones stay in force", c.Heartbeat.Format(time.RFC3339))
	}
	return good("%d policies of the cluster, revision %s", c.Count, c.Revision)
}
