package monitoring

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
)

const folder = "../../deploy/monitoring/"

// rules are those of the file, which Prometheus' own reader takes.
func rules(t *testing.T) (all []rulefmt.RuleNode) {
	t.Helper()
	groups, errs := rulefmt.ParseFile(folder + "rules.yaml")
	for _, err := range errs {
		t.Fatal(err)
	}
	for _, g := range groups.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// metricsExist: an alert on a metric, a label or a value that no node has never fires.
func (n *node) metricsExist(t *testing.T) {
	exprs := map[string]string{}
	for _, r := range rules(t) {
		exprs[r.Alert.Value] = r.Expr.Value
	}
	for title, list := range panels(t) {
		for _, expr := range list {
			exprs["panel "+title+": "+expr] = expr
		}
	}
	used := map[string]bool{}
	for where, expr := range exprs {
		for _, s := range selectors(t, expr) {
			used[s.Name] = true
			if !slices.ContainsFunc(n.shown, func(shown series) bool { return matches(shown.labels, s.LabelMatchers) }) {
				t.Errorf("%s: a node shows no %s", where, s)
			}
		}
	}
	for _, s := range n.shown {
		name := s.labels.Get("__name__")
		if strings.HasPrefix(name, "cosentry_") && !used[name] && !used[strings.TrimSuffix(strings.TrimSuffix(name, "_count"), "_sum")+"_bucket"] {
			t.Errorf("%s is on no panel and in no alert", name)
			used[name] = true
		}
	}
}

// healthy is the node as it was, only that what tells a time tells a good one, for as long as the history is.
func (n *node) healthy(l labels.Labels, last float64, ago time.Duration) (float64, bool) {
	at := float64(n.at.Add(-ago).Unix())
	switch l.Get("__name__") {
	case "cosentry_cluster_heartbeat_timestamp_seconds", "cosentry_host_looked_timestamp_seconds", "cosentry_sync_up_to_date_timestamp_seconds", "cosentry_policy_last_success_timestamp_seconds":
		return at - 30, true
	case "cosentry_trust_root_expiry_timestamp_seconds", "cosentry_trust_root_signing_end_timestamp_seconds":
		return at + 30*86400, true
	case "kube_node_info":
		return last, l.Get("node") != "new"
	}
	return last, true
}

// fault is one thing that goes wrong, and the alerts that tell of it.
type fault struct {
	name  string
	to    func(ago time.Duration, last float64) (float64, bool) // what the selected series become
	which string                                                // selector
	fires []string
}

func set1(time.Duration, float64) (float64, bool) { return 1, true }
func set0(time.Duration, float64) (float64, bool) { return 0, true }
func gone(time.Duration, float64) (float64, bool) { return 0, false }
func grows(ago time.Duration, last float64) (float64, bool) {
	return last + max(0, (past-ago).Minutes()), true
}

// faults are all that the alerts are about. Those that are not named stay silent.
func (n *node) faults() []fault {
	stopped := func(time.Duration, float64) (float64, bool) { return float64(n.at.Add(-past).Unix()), true }
	soon := func(time.Duration, float64) (float64, bool) { return float64(n.at.Unix() + 86400), true }
	lately := func(ago time.Duration, _ float64) (float64, bool) { return 1, ago <= 20*time.Minute }
	return []fault{
		// Without kube-state-metrics nobody knows of nodes.
		{"nothing is scraped", gone, `{instance=~".+"}`, []string{"CosentryNowhere"}},
		{"a pod that was deleted, on the only node", gone, `{job=~".*cosentry"}`, []string{"CosentryNowhere", "CosentryNodeUnwatched"}},
		{"a node to which no pod came", set1, `kube_node_info{node="new"}`, []string{"CosentryNodeUnwatched"}},
		{"a node that was added lately", lately, `kube_node_info{node="new"}`, nil},
		{"a node without a pod and without the label of those that are taken off", gone, `kube_node_labels{node="off"}`, []string{"CosentryNodeUnwatched"}},
		{"a pod that does not run", set0, `up{namespace="cosentry-system"}`, []string{"CosentryNotScraped"}},
		{"a node that cannot be reached", set0, `up{job="cosentry"}`, []string{"CosentryNotScraped"}},
		{"an agent that died", set0, `cosentry_host_agent_up`, []string{"CosentryAgentDown"}},
		{"kubelet bypasses the agent", set1, `cosentry_host_fault{what="kubelet"}`, []string{"CosentryHostFault"}},
		{"kubelet's connections cannot be seen", set1, `cosentry_host_fault{what="untold"}`, []string{"CosentryHostFault"}},
		{"a host with no room", set1, `cosentry_host_fault{what="room"}`, []string{"CosentryHostUnfit"}},
		{"settings that are faulty or gone", set1, `cosentry_settings_broken`, []string{"CosentrySettingsBroken"}},
		{"settings that would loosen the node", set1, `cosentry_host_fault{what="offered"}`, []string{"CosentrySettingsNotTaken"}},
		{"policies that are not the node's", set1, `cosentry_host_fault{what="policies"}`, []string{"CosentryPoliciesNotTaken"}},
		{"repairs that fail", grows, `cosentry_host_repairs_total{result="failure"}`, []string{"CosentryRepairsFail"}},
		{"repairs without end", grows, `cosentry_host_repairs_total{result="success"}`, []string{"CosentryRepairedAgainAndAgain"}},
		{"supervise hangs", stopped, `cosentry_host_looked_timestamp_seconds`, []string{"CosentryNotLookedAt"}},
		{"no runtime", set0, `cosentry_runtime_up`, []string{"CosentryRuntimeDown"}},
		{"another pause image", set0, `cosentry_sandbox_image_allowed`, []string{"CosentrySandboxImageRefused"}},
		{"break-glass", set1, `cosentry_break_glass_active`, []string{"CosentryBreakGlass"}},
		{"an image is refused", grows, `cosentry_decisions_total{action="pull",decision="deny"}`, []string{"CosentryImagesRefused"}},
		{"a registry is away", grows, `cosentry_decisions_total{action="create",decision="error"}`, []string{"CosentryImagesUndecided"}},
		{"slow decisions", grows, `cosentry_decision_duration_seconds_bucket{le=~"30.*|60.*|.Inf"}`, []string{"CosentryDecisionsSlow"}},
		{"a full disk", set0, `cosentry_audit_writable`, []string{"CosentryAuditNotWritten"}},
		{"lost records", grows, `cosentry_audit_records_lost_total`, []string{"CosentryAuditLost"}},
		{"an audit file that was altered", grows, `cosentry_audit_faults_total`, []string{"CosentryAuditAltered"}},
		{"a typo in a policy", set1, `cosentry_policy_broken`, []string{"CosentryPolicyBroken"}},
		{"a broken set of the cluster", set1, `cosentry_cluster_policies_state{state="broken"}`, []string{"CosentryClusterPoliciesBroken"}},
		{"no set of the cluster", set1, `cosentry_cluster_policies_state{state="none"}`, []string{"CosentryClusterPoliciesMissing"}},
		{"no API server", stopped, `cosentry_cluster_heartbeat_timestamp_seconds`, []string{"CosentryClusterPoliciesOld"}},
		{"unsigned documents", set1, `cosentry_cluster_documents_skipped`, []string{"CosentryDocumentsSkipped"}},
		{"a sync that died", set0, `cosentry_host_sync_up`, []string{"CosentrySyncSilent"}},
		{"a typo in the cluster", set1, `cosentry_sync_broken`, []string{"CosentrySyncBroken"}},
		{"a definition was removed", set1, `cosentry_sync_documents_held{resource="clusterimagepolicies"}`, []string{"CosentrySyncHoldsOn"}},
		{"a role was taken away", set1, `cosentry_sync_source{resource="trustroots",state="refused"}`, []string{"CosentrySyncRefused"}},
		{"a secret that may not be read", set1, `cosentry_sync_references{state="refused"}`, []string{"CosentrySyncRefused"}},
		{"no file of namespaces", set1, `cosentry_namespaces_file{state="missing"}`, []string{"CosentryNamespacesUnknown"}},
		{"a file of namespaces that is cut off", set1, `cosentry_namespaces_file{state="broken"}`, []string{"CosentryNamespacesUnknown"}},
		{"a key that is not there", set1, `cosentry_trust_unusable{kind="secret"}`, []string{"CosentryTrustUnusable"}},
		{"an old trust root", soon, `cosentry_trust_root_expiry_timestamp_seconds`, []string{"CosentryTrustRootExpires"}},
		{"a log that ends", soon, `cosentry_trust_root_signing_end_timestamp_seconds`, []string{"CosentryTrustRootSigningEnds"}},
		{"a cache that cannot be written", set1, `cosentry_trust_unkept{kind="kms key"}`, []string{"CosentryTrustNotKept"}},
		{"a key management service is away", grows, `cosentry_trust_fetch_failures_total{kind="kms key"}`, []string{"CosentryTrustNotFetched"}},
		{"cosentry was taken off on purpose", func(_ time.Duration, last float64) (float64, bool) { return 1 - last, true }, `{__name__=~"cosentry_host_(agent_up|removed|installed)"}`, []string{"CosentryTakenOff"}},
	}
}

// alerts: each fault has its alert, a node that is well has none, and there is no alert without a fault.
func (n *node) alerts(t *testing.T) {
	silent := map[string]bool{}
	for _, r := range rules(t) {
		silent[r.Alert.Value] = true
		severity := r.Labels["severity"]
		if !slices.Contains([]string{"critical", "warning", "info"}, severity) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s: severity %q, annotations %v", r.Alert.Value, severity, r.Annotations)
		}
	}
	if got := n.firing(t, n.healthy); len(got) > 0 {
		t.Errorf("a node that is well: %v\n%s", got, n.text())
	}
	for _, f := range n.faults() {
		matchers := selectors(t, f.which)[0].LabelMatchers
		selected := 0
		got := n.firing(t, func(l labels.Labels, last float64, ago time.Duration) (float64, bool) {
			if !matches(l, matchers) {
				return n.healthy(l, last, ago)
			}
			selected++
			return f.to(ago, last)
		})
		if selected == 0 {
			t.Errorf("%s: a node shows no %s", f.name, f.which)
		}
		if diff := cmp.Diff(f.fires, got); diff != "" {
			t.Errorf("%s: %s", f.name, diff)
		}
		for _, name := range got {
			delete(silent, name)
		}
	}
	for name := range silent {
		t.Errorf("%s never fires", name)
	}
}

// firing are the alerts that fire at the end, as Prometheus decides it: what an expression gave at every evaluation of
// a while, with the same labels.
func (n *node) firing(t *testing.T, was course) (names []string) {
	t.Helper()
	h := n.history(was)
	for _, r := range rules(t) {
		while := time.Duration(r.For)
		for _, s := range h.ask(t, r.Expr.Value, while) {
			if len(s.Floats) == int(while/every)+1 {
				names = append(names, r.Alert.Value)
				break
			}
		}
	}
	return slices.Compact(names)
}

// documentedAlerts: there is one list of alerts, docs/metrics.md leads to it, and explains all metrics that are in it.
func documentedAlerts(t *testing.T) {
	data, err := os.ReadFile("../../docs/metrics.md")
	must(t, err)
	docs := string(data)
	if !strings.Contains(docs, "(../deploy/monitoring/rules.yaml)") {
		t.Error("docs/metrics.md does not lead to the alerts")
	}
	for _, r := range rules(t) {
		for _, s := range selectors(t, r.Expr.Value) {
			name := strings.TrimSuffix(s.Name, "_bucket")
			row := "| `" + name + "` |"
			if !strings.HasPrefix(name, "cosentry_") {
				row = "`" + name + "`" // another's, which is named where the alerts are
			}
			if !strings.Contains(docs, row) {
				t.Errorf("%s is about %s, of which docs/metrics.md does not tell", r.Alert.Value, name)
			}
		}
	}
	if strings.Contains(docs, "| `increase(") || strings.Contains(docs, " == 1` |") {
		t.Error("docs/metrics.md has alerts of its own, which nobody compares with rules.yaml")
	}
}
