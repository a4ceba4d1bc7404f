package main

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/breakglass"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/agent/metrics"
	"github.com/cosentry/cosentry/agent/namespaces"
	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/agent/pause"
	"github.com/cosentry/cosentry/agent/reload"
	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/trust"
)

// agent is all that `run` puts together.
type agent struct {
	config   config.Config
	settings runWith // config, and where it is from
	log      *slog.Logger
	socket   string // that is served

	metrics       *metrics.Metrics
	records       *audit.Log
	refusals      *refusals     // goes before records
	lost          atomic.Uint64 // records
	fetcher       *evidence.Fetcher
	stores        []*evidence.Store // of evidence
	verifier      *verify.Verifier
	keeper        *trust.Keeper // of what policies refer to
	policies      *reload.Policies
	cluster       *reload.Cluster // the cluster's policies; nil: it has no say
	clusterKeeper *trust.Keeper   // of what these refer to
	namespaces    *namespaces.Namespaces
	conn          *grpc.ClientConn // for the gate's own look-ups
	images        *node.Node
	proxy         *criproxy.Proxy
	pause         *pause.Watch      // of the image of sandboxes
	glass         *breakglass.Watch // whether it is broken
}

// assemble puts an agent together, from what records and judges to what asks for it. Nothing is served yet.
func assemble(s runWith, log *slog.Logger) (_ *agent, err error) {
	a := &agent{config: s.Config, settings: s, log: log, metrics: newMetrics(s.Config)}
	a.metrics.Settings(s.fault != nil)
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if err := a.openAudit(); err != nil {
		return nil, err
	}
	if err := a.setUpTrust(); err != nil {
		return nil, err
	}
	if err := a.setUpVerifier(); err != nil {
		return nil, err
	}
	if err := a.setUpClusterPolicies(); err != nil {
		return nil, err
	}
	if err := a.setUpNamespaces(); err != nil {
		return nil, err
	}
	return a, a.setUpProxy()
}

func newMetrics(c config.Config) *metrics.Metrics {
	return metrics.New(metrics.Options{
		Version:   buildVersion(),
		Mode:      string(c.Mode),
		Actions:   actions(),
		Decisions: []string{audit.DecisionAllow, audit.DecisionWarn, audit.DecisionDeny, audit.DecisionError},
		Kinds:     trustKinds(),
	})
}

// openAudit opens the log of decisions, or has it opened later: no state of a disk keeps the node
// from its runtime.
func (a *agent) openAudit() (err error) {
	a.records, err = audit.Open(audit.Options{
		Dir:         a.config.Audit.Dir,
		MaxFileSize: int64(a.config.Audit.MaxFileSize),
		MaxFiles:    int(a.config.Audit.MaxFiles),
		Required:    a.config.Audit.Required,
		Log:         a.log,
		Fault:       a.metrics.AuditFault,
		Lost: func(n int) {
			a.lost.Add(uint64(n))
			a.metrics.AuditLost(n)
		},
	})
	if err != nil {
		return err
	}
	a.refusals = &refusals{to: a.records}
	a.metrics.WatchAudit(a.records.Fault, a.records.Queued)
	return nil
}

// setUpVerifier makes what judges: evidence from registries and disk, and the policies as they are now.
func (a *agent) setUpVerifier() (err error) {
	c := a.config
	if a.fetcher, err = newFetcher(c, a.log, a.metrics); err != nil {
		return err
	}
	kept := evidenceKept{own: a.openStore()}
	if c.ClusterPolicies.Dir != "" {
		kept.cluster = a.openStore(clusterFolder)
	}
	if a.verifier, err = newVerifier(c, a.fetcher, newLogs(a.metrics), kept, a.metrics); err != nil {
		return err
	}
	a.policies = reload.New(c.Policies.Dir, a.keeper, a.verifier, a.metrics, a.log)
	a.policies.Load()
	return nil
}

// setUpNamespaces finds out where images are judged.
func (a *agent) setUpNamespaces() (err error) {
	o := namespaceOptions(a.config)
	o.Log = a.log
	if a.namespaces, err = namespaces.New(o); err != nil {
		return err
	}
	a.metrics.WatchNamespaces([]string{namespaces.Unused, namespaces.Good, namespaces.Missing, namespaces.Broken},
		func() string { return a.namespaces.State().File })
	return nil
}

// namespaceOptions are those of the settings, still without a log.
func namespaceOptions(settings config.Config) namespaces.Options {
	c := settings.Namespaces
	o := namespaces.Options{Exempt: c.Exempt, ForCluster: settings.LabelsFromCluster(), ClusterDir: settings.ClusterPolicies.Dir}
	switch c.Enforce.Mode {
	case config.ScopeAll:
	case config.ScopeLabelled:
		o.File = c.File
	default:
		o.Enforce = append([]string{}, c.Enforce.Globs...) // not nil, which would mean all
	}
	return o
}

// setUpProxy makes the way to the runtime, with the gate on it.
func (a *agent) setUpProxy() (err error) {
	c := a.config
	if a.conn, err = criproxy.Dial(c.Runtime.Endpoint); err != nil {
		return err
	}
	if a.images, err = node.New(a.conn, node.Type(c.Runtime.Type), c.Runtime.Namespace); err != nil {
		return err
	}
	of := sandboxes{a.images, c.Sandbox.Image}
	letThrough := a.setUpBreakGlass(c.Listen)
	g, err := gate.New(gate.Options{
		Verifier:        a.verifier,
		Resolver:        a.fetcher,
		Images:          a.images,
		Recorder:        a.refusals,
		Namespaces:      a.namespaces,
		Observe:         c.Mode == config.Observe,
		BreakGlass:      a.glass.Open,
		Sandboxes:       of,
		RefuseSandboxes: c.Sandbox.Refuse,
		Node:            c.Node,
		CreateTimeout:   time.Duration(c.Verification.CreateTimeout),
		PullTimeout:     time.Duration(c.Verification.PullTimeout),
		Log:             a.log,
		Decided:         a.metrics.Decided,
		LetThrough:      letThrough,
	})
	if err != nil {
		return err
	}
	a.watchSandboxes(g, of)
	a.proxy, err = criproxy.New(criproxy.Options{
		Endpoint:              c.Runtime.Endpoint,
		Gate:                  g,
		GateSandboxes:         c.Sandbox.Refuse,
		ForwardUnknownMethods: c.Runtime.UnknownMethods == "forward",
		Log:                   a.log,
		Forwarded: func(call criproxy.Call) {
			a.metrics.Forwarded(call.Method, call.Stream, call.Code, call.Duration)
		},
	})
	if err != nil {
		return err
	}
	a.metrics.WatchRuntime(func() bool { return a.proxy.RuntimeState() == connectivity.Ready })
	return nil
}

// close ends the audit log last of all, so that what is still in flight is recorded.
func (a *agent) close() {
	if a.conn != nil {
		a.conn.Close()
	}
	a.closeStores()
	if a.records == nil {
		return
	}
	if err := a.records.Close(); err != nil {
		a.log.Error("closing the audit log", "error", err)
	}
}

func newFetcher(c config.Config, log *slog.Logger, m *metrics.Metrics) (*evidence.Fetcher, error) {
	o := evidence.Options{
		HostsDir:     c.Registry.HostsDir,
		DockerConfig: c.Registry.DockerConfig,
		UserAgent:    "cosentry/" + buildVersion(),
		Log:          log,
	}
	if m != nil {
		o.Observe = m.Registry
	}
	f, err := evidence.New(o)
	if err != nil {
		return nil, fmt.Errorf("setting up registry access: %w", err)
	}
	return f, nil
}

// newLogs makes what asks transparency logs, where a policy wants it.
func newLogs(m *metrics.Metrics) *evidence.Logs {
	o := evidence.LogsOptions{UserAgent: "cosentry/" + buildVersion()}
	if m != nil {
		o.Observe = m.Registry
	}
	return evidence.NewLogs(o)
}

// evidenceKept is where evidence is kept for the policies of either layer; each may be nil.
type evidenceKept struct{ own, cluster verify.Keeper }

func newVerifier(c config.Config, source verify.Source, prover verify.Prover, kept evidenceKept, m *metrics.Metrics) (*verify.Verifier, error) {
	o := verify.Options{
		Source:        source,
		Prover:        prover,
		Keeper:        kept.own,
		ClusterKeeper: kept.cluster,
		NoMatch:       verify.NoMatch(c.Policies.NoMatch),
		CacheSize:     int(c.Cache.Size),
		AllowTTL:      time.Duration(c.Cache.AllowTTL),
		DenyTTL:       time.Duration(c.Cache.DenyTTL),
		FetchTimeout:  time.Duration(max(c.Verification.CreateTimeout, c.Verification.PullTimeout)),
	}
	if m != nil {
		o.Cache, o.Judged = m.Cache, m.Judged
	}
	return verify.New(o)
}
