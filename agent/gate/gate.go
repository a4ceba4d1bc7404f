// Package gate decides on the two CRI calls by which bytes become a process or a
// mounted image: PullImage and CreateContainer. The image that the runtime itself makes pods' sandboxes of is
// judged too, and RunPodSandbox is refused for it where the node's owner asked for that.
//
// What it promises:
//   - A pull is judged by digest and forwarded by that digest. A tag is looked up once.
//   - A container, and every image mounted into it, is judged by the manifests that
//     are on this node for the very content the runtime would take, and the
//     request is forwarded with that content's ID in place of a name.
//   - It is judged under the name its user wrote, which must be one of the content's own
//     repositories on this node: no image runs by the rules for another.
//   - Whatever cannot be judged is refused: paths, names that do not parse, names and
//     digests that are not on this node, checkpoints.
//   - Each decision is one audit record, written before an allowed call goes on.
//
// In observe mode, and while a break-glass is open, it decides and records alike, and forwards every request as it came.
//
// Nothing that a pod's author can write is a permission. Labels and annotations go to the policies, which may select
// pods by label, as they do in policy-controller, or read the pod's metadata in a rule of their own.
//
// In a namespace that is not enforced nothing is judged, and each call is one record all the same. What such a
// namespace may do to others is as bounded as ever: see exemptPull and exemptCreate.
package gate

import (
	"context"
	"errors"
	"log/slog"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
)

// Verifier reaches verdicts. Errors mean that none could be reached.
type Verifier interface {
	Verify(ctx context.Context, s verify.Subject) (verify.Verdict, error)
	Revision() string
}

// Resolver finds the digest a tag stands for at the registry. Its errors say what was resolved, and
// wrap evidence.ErrNotFound, ErrUnauthorized or ErrUnavailable where that is the cause.
type Resolver interface {
	Resolve(ctx context.Context, repository, tag string, c evidence.Credentials) (digest.Digest, error)
}

// Images knows what is on this node. *node.Node is one.
type Images interface {
	Lookup(ctx context.Context, spec *runtimeapi.ImageSpec, repository string, fresh bool) (img node.Image, cached bool, err error)
	Creating() (done func())
	CanAlias(ctx context.Context) (bool, error)
	Alias(ctx context.Context, tagged, pinned string) error
	Remove(ctx context.Context, name string) error
}

// Recorder keeps decisions. An error means that the record could not be written and that the
// node's owner wants no call to go on without.
type Recorder interface {
	Append(audit.Record) error
}

// Options configure a Gate. All but Namespaces, Observe, BreakGlass, Sandboxes, RefuseSandboxes, Node, Decided and LetThrough
// are required.
type Options struct {
	Verifier Verifier
	Resolver Resolver
	Images   Images
	Recorder Recorder
	// Namespaces says where images are judged; nil: everywhere.
	Namespaces Namespaces
	// Observe lets everything through and records what would have been refused.
	Observe bool
	// BreakGlass says whether the node's owner has everything let through for now; nil: never.
	BreakGlass func() bool
	// Sandboxes knows the image of sandboxes. It is needed by JudgeSandbox, and with RefuseSandboxes.
	Sandboxes Sandboxes
	// RefuseSandboxes refuses RunPodSandbox where that image is not accepted.
	RefuseSandboxes bool
	// Node is this node's name, for the records.
	Node string
	// CreateTimeout and PullTimeout bound the time for a decision, apart from the
	// time that the runtime takes for the call itself.
	CreateTimeout, PullTimeout time.Duration
	Log                        *slog.Logger
	// Decided is told of each decision: its action and decision as in audit, and how long it took.
	Decided func(action, decision string, took time.Duration)
	// LetThrough is told of each call that would have been refused and went on because of a break-glass.
	LetThrough func(action, decision string)
}

// Gate implements criproxy.Gate.
type Gate struct {
	o Options
	// parsed remembers references that were understood: the same pods come again and again, and
	// two libraries' regular expressions would be a third of a warm decision.
	parsed *lru.Cache[string, Reference]
}

// maxParsed bounds the references remembered, each of at most maxReference bytes.
const maxParsed = 1024

var _ criproxy.Gate = (*Gate)(nil)

// New returns a Gate.
func New(o Options) (*Gate, error) {
	switch {
	case o.Verifier == nil, o.Resolver == nil, o.Images == nil, o.Recorder == nil, o.Log == nil:
		return nil, errors.New("gate needs a verifier, a resolver, images, a recorder and a log")
	case o.CreateTimeout <= 0, o.PullTimeout <= 0:
		return nil, errors.New("gate needs positive time limits")
	case o.RefuseSandboxes && o.Sandboxes == nil:
		return nil, errors.New("gate needs to know the image of sandboxes to refuse them")
	}
	if o.BreakGlass == nil {
		o.BreakGlass = func() bool { return false }
	}
	if o.LetThrough == nil {
		o.LetThrough = func(string, string) {}
	}
	if o.Decided == nil {
		o.Decided = func(string, string, time.Duration) {}
	}
	if o.Namespaces == nil {
		o.Namespaces = everywhere{}
	}
	parsed, err := lru.New[string, Reference](maxParsed)
	if err != nil {
		return nil, err
	}
	return &Gate{o, parsed}, nil
}

// parse is ParseReference with a memory.
func (g *Gate) parse(s string) (Reference, error) {
	if ref, ok := g.parsed.Get(s); ok {
		return ref, nil
	}
	ref, err := ParseReference(s)
	if err == nil {
		g.parsed.Add(s, ref)
	}
	return ref, err
}

// request is one image in one call, on its way to a decision.
type request struct {
	action    string
	sandbox   *runtimeapi.PodSandboxMetadata
	pod       *policy.Pod // nil: not known
	container string
	exempt    bool // nothing is judged
	// mode is the one that held when the call came: it must not change in the middle of one.
	mode string
	// image is the reference as its user wrote it, for words and records.
	image string
	start time.Time
}

// settle records the decision on r and returns the error that refuses the call, or nil if the
// call goes on. In observe mode the record says what enforce mode would do, and the call goes on.
func (g *Gate) settle(r request, v verify.Verdict, err error) error {
	decision, refusal := decide(r, v, err)
	if r.lenient() {
		if refusal != nil && r.mode == audit.ModeBreakGlass {
			g.o.LetThrough(r.action, decision)
		}
		refusal = nil
	}
	if aerr := g.o.Recorder.Append(g.record(r, v, err, decision)); aerr != nil {
		// The log has told its own trouble.
		if refusal == nil && !r.lenient() {
			refusal, decision = unrecorded(r, aerr), audit.DecisionError
		}
	}
	g.o.Decided(r.action, decision, time.Since(r.start))
	return refusal
}

// decide says what enforce mode does with r: the decision, and the error that refuses it, or nil.
func decide(r request, v verify.Verdict, err error) (decision string, refusal error) {
	refusal = explain(r, v, err)
	switch {
	case refusal == nil && v.Warn:
		return audit.DecisionWarn, nil
	case refusal == nil:
		return audit.DecisionAllow, nil
	case err != nil && !IsRefusal(err):
		return audit.DecisionError, refusal
	}
	return audit.DecisionDeny, refusal
}

func (g *Gate) record(r request, v verify.Verdict, err error, decision string) audit.Record {
	rec := audit.Record{
		Node:      g.o.Node,
		Action:    r.action,
		Decision:  decision,
		Pod:       audit.Pod{Namespace: r.sandbox.GetNamespace(), Name: r.sandbox.GetName(), UID: r.sandbox.GetUid()},
		Container: r.container,
		Image:     r.image,
		Digest:    v.Digest.String(),
		Reason:    reason(r, v, err),
		Mode:      r.mode,
		CacheHit:  v.Cached,
		Duration:  time.Since(r.start),
		Revision:  v.Revision,
	}
	if rec.Revision == "" {
		rec.Revision = g.o.Verifier.Revision()
	}
	for _, p := range v.Policies {
		result := audit.PolicyResult{Policy: p.Policy, Layer: string(p.Layer), Mode: p.Mode, Result: "fail", Reason: p.Reason}
		// An authority may pass and the policy's own rule fail.
		if a, ok := p.Authority(); ok && p.Passed {
			result.Result, result.Authority, result.KeyFingerprint = "pass", a.Authority, a.KeyFingerprint
			if len(a.Signers) > 0 {
				result.Issuer, result.Subject = a.Signers[0].Issuer, a.Signers[0].Subject
			}
		}
		rec.Policies = append(rec.Policies, result)
	}
	return rec
}
