package gate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust"
)

// The prefixes by which kubelet tells why an image is not there. It looks for
// them at the start of the message, and its CRI client leaves the message
// bare only for code Unknown: any other code would bury the prefix.
const (
	refusedPrefix     = "SignatureValidationFailed: "
	unavailablePrefix = "RegistryUnavailable: "
)

// maxMessage bounds a message in bytes: it is stored in the pod's status, for each container.
const maxMessage = 1024

// maxForeign bounds what a message repeats of an image name. Twice this, maxReasons and our own
// words are less than maxMessage, so that the advice at a message's end stays.
const maxForeign = 192

// maxReasons bounds what a message repeats of policies' reasons.
const maxReasons = 448

// refusal is a refusal that needs no policy: the request cannot be judged at all.
type refusal struct{ why string }

func (r *refusal) Error() string { return r.why }

func refuse(why string) error { return &refusal{why} }

// resolveError marks an error of the Resolver, which says itself what it was resolving.
type resolveError struct{ err error }

func (e *resolveError) Error() string { return e.err.Error() }
func (e *resolveError) Unwrap() error { return e.err }

// IsRefusal reports whether err is an answer and not a failure to find one.
func IsRefusal(err error) bool {
	var r *refusal
	return errors.As(err, &r) || errors.Is(err, node.ErrNotPresent) || errors.Is(err, node.ErrMoved) || errors.Is(err, policy.ErrImageName)
}

// explain maps the outcome for r to the error that its client reads; nil if r is let through.
// It is the only place where verdicts and failures become gRPC codes.
func explain(r request, v verify.Verdict, err error) error {
	what := called(r)
	if v.Digest != "" && v.Repository != "" {
		what = r.kind() + clip(v.Repository, maxForeign) + "@" + short(v.Digest)
	}
	see := "see: cosentry verify " + clip(r.image, maxForeign)
	var resolve *resolveError
	var undecided *verify.UndecidedError
	switch {
	case err == nil && v.Allowed:
		return nil
	case err == nil:
		return refused("%s is refused%s. %s, or %s", what, byPolicies(v), remedy(v), see)
	case errors.Is(err, node.ErrNotPresent):
		return refused("%s is refused: %v, so there is nothing to judge. Let it be pulled through cosentry first", what, cause(err))
	case errors.Is(err, node.ErrMoved):
		return refused("%s is refused: %v. kubelet will retry; if it stays, remove the image from the node and let it be pulled again", what, cause(err))
	case IsRefusal(err):
		return refused("%s is refused: %v", what, cause(err))
	case errors.Is(err, verify.ErrNoPolicy):
		return refused("%s is refused: this node cannot judge any image, %v. Tell the node's owner: cosentry status", what, cause(err))
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, bounded("the request was canceled while its image was judged"))
	case errors.Is(err, evidence.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.Unknown, bounded(unavailablePrefix+"%s could not be "+r.asked()+": %v. kubelet will retry; to look closer, %s", what, cause(err), see))
	case errors.As(err, &resolve) && (errors.Is(err, evidence.ErrNotFound) || errors.Is(err, evidence.ErrUnauthorized)):
		// The pull itself would have failed, signatures aside: say so, and not that something is unsigned.
		return status.Error(codes.NotFound, bounded("%s: %v. Check the name and the pull secret", what, cause(err)))
	case errors.Is(err, evidence.ErrUnauthorized):
		return refused("%s could not be verified: %v. Give the pod or the node credentials that may read the signatures, or %s", what, cause(err), see)
	case errors.Is(err, trust.ErrUnavailable):
		return refused("%s could not be "+r.asked()+": %v. kubelet will retry; if it stays, tell the node's owner: cosentry status", what, cause(err))
	case errors.As(err, &undecided), errors.As(err, &resolve):
		return refused("%s could not be "+r.asked()+": %v. %s%s", what, cause(err), strings.ToUpper(see[:1]), see[1:])
	default:
		return runtimeError(r, err)
	}
}

func refused(format string, args ...any) error {
	return status.Error(codes.Unknown, bounded(refusedPrefix+format, args...))
}

// runtimeError passes on that the runtime could not be asked, with its own code.
func runtimeError(r request, err error) error {
	code := status.Code(err)
	if code == codes.OK {
		code = codes.Unknown
	}
	return status.Error(code, bounded("%s could not be judged: %v", called(r), err))
}

func unrecorded(r request, err error) error {
	return status.Error(codes.Unknown, bounded("%s is not started: this node requires an audit record of each decision, and it could not be written: %v. Tell the node's owner: cosentry status", called(r), cause(err)))
}

// asked is what was to be done with the image.
func (r request) asked() string {
	if r.exempt {
		return "resolved" // nothing else is asked about it
	}
	return "verified"
}

// called is what a message calls the image of r.
func called(r request) string {
	if r.image == "" {
		if r.action == audit.ActionSandbox {
			return "this node's image for sandboxes"
		}
		return "an image without a name"
	}
	return r.kind() + clip(r.image, maxForeign)
}

// kind comes before the name of an image that is not the pod's own: its author did not write it.
func (r request) kind() string {
	if r.action == audit.ActionSandbox {
		return "this node's image for sandboxes, "
	}
	return ""
}

// cause is err, cut so that what follows it in a message stays.
func cause(err error) string { return clip(err.Error(), maxReasons) }

// byPolicies says which policies refused, and why.
func byPolicies(v verify.Verdict) string {
	if v.NoMatch == verify.NoMatchDeny {
		pod := ""
		if v.OtherPods > 0 {
			pod = " in a pod with these labels"
		}
		return fmt.Sprintf(": no policy matches %s%s, and this node runs nothing that no policy matches", clip(v.Image, maxForeign), pod)
	}
	var parts []string
	for _, p := range v.Policies {
		if !p.Passed && p.Mode == policy.Enforce.String() {
			parts = append(parts, fmt.Sprintf(" by %s: %s", p.Layer.Named(p.Policy), p.Reason))
		}
	}
	// Cut here, so that the advice that follows is never what is cut.
	return clip(strings.Join(parts, "; and"), maxReasons)
}

// remedy is what would help: a signature only where some policy that refused asks for one.
func remedy(v verify.Verdict) string {
	if v.NoMatch == verify.NoMatchDeny {
		return "Ask the node's owner for a policy that matches it"
	}
	static := func(a verify.AuthorityResult) bool { return a.Kind == "static" }
	attested := func(a verify.AuthorityResult) bool { return len(a.Attestations) > 0 }
	for _, p := range v.Policies {
		if p.Passed || p.Mode != policy.Enforce.String() {
			continue
		}
		_, good := p.Authority()
		owner := "the node's owner"
		if p.Layer == verify.ClusterLayer {
			owner = "the cluster's administrator"
		}
		switch {
		case p.Reference || slices.ContainsFunc(p.Authorities, func(a verify.AuthorityResult) bool { return a.Reference }):
			return "Tell " + owner + " what is missing: cosentry status"
		case good:
			return "It is signed; see to what the policy's own rule asks for"
		case every(p.Authorities, static):
			return "Ask " + owner + " for a policy that accepts it"
		case every(p.Authorities, attested):
			return "Attach the attestations that are asked for"
		}
	}
	return "Sign it"
}

func every(all []verify.AuthorityResult, is func(verify.AuthorityResult) bool) bool {
	return len(all) > 0 && !slices.ContainsFunc(all, func(a verify.AuthorityResult) bool { return !is(a) })
}

// reason is what the record says: the same, without the advice.
func reason(r request, v verify.Verdict, err error) string {
	switch {
	case err != nil:
		return Printable(err.Error())
	case r.exempt && v.Allowed:
		return Printable(r.letThrough())
	case v.NoMatch == verify.NoMatchDeny:
		return "no policy matches"
	}
	var parts []string
	if v.NoMatch != "" {
		parts = append(parts, "no policy matches")
	}
	for _, p := range v.Policies {
		if !p.Passed {
			parts = append(parts, fmt.Sprintf("%s: %s", p.Layer.Named(p.Policy), p.Reason))
		}
	}
	return Printable(strings.Join(parts, "; "))
}

// bounded formats a message, escaped and cut to maxMessage.
func bounded(format string, args ...any) string {
	return clip(fmt.Sprintf(format, args...), maxMessage)
}

// clip makes s printable on one line and at most n bytes long.
func clip(s string, n int) string {
	s = Printable(s)
	if len(s) <= n {
		return s
	}
	const mark = "…"
	cut := n - len(mark)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + mark
}

// Printable escapes what could forge a second line or steer a terminal: the text comes
// from pod authors and registries.
func Printable(s string) string {
	clean := func(r rune) bool { return r != utf8.RuneError && unicode.IsPrint(r) }
	if !strings.ContainsFunc(s, func(r rune) bool { return !clean(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if clean(r) {
			b.WriteRune(r)
		} else {
			q := fmt.Sprintf("%+q", r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}
