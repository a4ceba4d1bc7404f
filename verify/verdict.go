package verify

import (
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/sigstore"
)

// Subject is what is asked about: bytes named by digest, under the name by
// which somebody wants to run them.
type Subject struct {
	// Image is the reference as its user wrote it. Policy globs match it.
	Image string
	// Repository is where signatures are looked for: registry host and path
	// ("docker.io/library/busybox"), neither tag nor digest.
	Repository string
	// Digest is the manifest or index digest of the content itself. A verdict is
	// about these bytes; a tag is never looked up here.
	Digest digest.Digest
	// Credentials are those that came with the request, if any. They are
	// used to fetch signatures and grant nothing.
	Credentials evidence.Credentials
	// WithoutCluster says that the cluster's policies do not hold in the pod's namespace, and are not asked. The node's own
	// hold in any case.
	WithoutCluster bool
	// Pod is the pod that the image is for; nil where it is not known, in which case policies for certain pods apply
	// as well.
	Pod *policy.Pod
}

// subject names s in an error: by its digest, unless that is a stranger's words.
func (s Subject) subject() string {
	if s.Digest.Validate() != nil {
		return "an image without a valid digest"
	}
	return s.Digest.String()
}

// Verdict is the answer for one Subject under one policy revision. It is
// immutable: verdicts are shared by the cache.
type Verdict struct {
	Image      string        `json:"image"`
	Repository string        `json:"repository"`
	Digest     digest.Digest `json:"digest"`
	// Allowed is true if every matching policy passed or only warns, or if no
	// policy matched and the node's noMatch rule lets such images through.
	Allowed bool `json:"allowed"`
	// Warn is true if Allowed rests on a policy in mode warn that failed, or on
	// noMatch: warn.
	Warn bool `json:"warn"`
	// NoMatch is the node's rule that was applied because none of its own policies matched; empty if at least one did.
	// Policies of the cluster may have matched all the same, and say nothing about it.
	NoMatch NoMatch `json:"noMatch,omitempty"`
	// OtherPods counts the node's own policies that name the image and are for other pods, by their labels.
	OtherPods int `json:"otherPods,omitempty"`
	// Policies holds one result for each policy that matched, in the set's order: the node's own, and after them the
	// cluster's, which are asked only about what the node's own let through.
	Policies []PolicyResult `json:"policies"`
	// Revision names the policy set that was asked; with policies of the cluster, both sets, as "node+cluster".
	Revision string `json:"revision"`
	// Cached is true if the verdict was reached for an earlier request.
	Cached bool `json:"cached"`
}

// PolicyResult is one policy's word on a Subject.
type PolicyResult struct {
	Policy string `json:"policy"`
	Layer  Layer  `json:"layer,omitempty"`
	Mode   string `json:"mode"` // enforce or warn
	Passed bool   `json:"passed"`
	// Reason says in one sentence of at most 1 KiB why the policy failed; empty if it passed.
	Reason string `json:"reason,omitempty"`
	// Warning says what of a rule that accepted the image passed less than it seems to demand.
	Warning string `json:"warning,omitempty"`
	// Undecided is true if the policy failed for something that could not be found out. Reference is true if its rule could
	// not be had, which is for the node's owner to mend.
	Undecided   bool              `json:"undecided,omitempty"`
	Reference   bool              `json:"reference,omitempty"`
	Authorities []AuthorityResult `json:"authorities"`
}

// Authority returns the first authority that passed, if any.
func (r PolicyResult) Authority() (AuthorityResult, bool) {
	for _, a := range r.Authorities {
		if a.Passed {
			return a, true
		}
	}
	return AuthorityResult{}, false
}

// AuthorityResult is one authority's word on a Subject.
type AuthorityResult struct {
	Authority string `json:"authority"`
	// Kind is "key", "keyless" or "static".
	Kind   string `json:"kind"`
	Passed bool   `json:"passed"`
	// Reason says in at most 512 bytes why the authority did not pass. It is empty if it passed, and past the first
	// 16 of a policy that did not.
	Reason string `json:"reason,omitempty"`
	// KeyFingerprint names the key that signed, "SHA256:<hex>" of its SPKI DER; empty for a keyless signature.
	KeyFingerprint string `json:"keyFingerprint,omitempty"`
	// Form is "classic" or "bundle": where the accepted signature was found.
	Form string `json:"form,omitempty"`
	// Found counts the signatures, or attestations, that were looked at, of both forms.
	Found int `json:"found"`
	// Signers are those who signed what was accepted, the first 16.
	Signers []sigstore.Signer `json:"signers,omitempty"`
	// Attestations are those that the authority asks for, in place of a signature.
	Attestations []AttestationResult `json:"attestations,omitempty"`
	// Undecided is true if something that could not be found out may have let it pass. Reference is true if it did not
	// pass because of what the policy refers to and does not hold, which is for the node's owner to mend.
	Undecided bool `json:"undecided,omitempty"`
	Reference bool `json:"reference,omitempty"`
}

// AttestationResult is what became of one attestation that an authority asks for.
type AttestationResult struct {
	Name          string `json:"name"`
	PredicateType string `json:"predicateType"`
	Passed        bool   `json:"passed"`
	// Reason says in at most 512 bytes why there is none that is accepted, Warning what of its rule passed less than it
	// seems to demand.
	Reason  string `json:"reason,omitempty"`
	Warning string `json:"warning,omitempty"`
}

// Layer says whose a policy is. A name may be there in both.
type Layer string

// The layers of policies. What is of the cluster only ever adds to what the node's own demand.
const (
	NodeLayer    Layer = ""        // on the node, by its owner
	ClusterLayer Layer = "cluster" // by way of the API server
)

// Named is how messages call a policy of a layer.
func (l Layer) Named(policy string) string {
	if l == ClusterLayer {
		return fmt.Sprintf("cluster policy %q", policy)
	}
	return fmt.Sprintf("policy %q", policy)
}

// NoMatch is what a node does with an image that no policy matches.
type NoMatch string

// The rules of policy-controller's no-match-policy.
const (
	NoMatchDeny  NoMatch = "deny"
	NoMatchWarn  NoMatch = "warn"
	NoMatchAllow NoMatch = "allow"
)
