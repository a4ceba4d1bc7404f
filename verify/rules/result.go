package rules

import (
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Result is what the rule of a policy is given: which of its authorities passed, by whose signatures or attestations. Its
// JSON is that of policy-controller's PolicyResult, as its pkg/webhook/validator_result.go has it.
type Result struct {
	// AuthorityMatches has one entry for each authority that passed, by its name.
	AuthorityMatches map[string]AuthorityMatch `json:"authorityMatches,omitempty"`
	// Config holds the image's config files where the policy says fetchConfigFile, by platform: os/architecture[/variant], and the version
	// of the operating system after a colon where the file has one.
	Config map[string]*v1.ConfigFile `json:"config,omitempty"`
	// Metadata is set where the policy says includeObjectMeta, and Type where it says includeTypeMeta.
	Metadata *ObjectMeta `json:"metadata,omitempty"`
	Type     *TypeMeta   `json:"typemeta,omitempty"`
}

// JSON is what [Evaluate] takes.
func (r *Result) JSON() ([]byte, error) {
	out, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("writing what the policy's rule is given: %w", err)
	}
	return out, nil
}

// AuthorityMatch says by what an authority passed: by signatures, by attestations, or because it is static.
type AuthorityMatch struct {
	Signatures []Signature `json:"signatures,omitempty"`
	// Attestations are those that passed, by the name that the policy gives to what they had to be.
	Attestations map[string][]Attestation `json:"attestations,omitempty"`
	Static       bool                     `json:"static,omitempty"`
}

// Signature is one that was verified. Of a signature by a key there is only the ID.
type Signature struct {
	// ID is the hex digest of the layer that the signature was in.
	ID      string `json:"id,omitempty"`
	Subject string `json:"subject,omitempty"`
	Issuer  string `json:"issuer,omitempty"`
	GitHub
}

// GitHub are the extensions of a certificate for a GitHub workflow,
// https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md, 1.3.6.1.4.1.57264.1.2 to 6.
type GitHub struct {
	WorkflowTrigger string `json:"githubWorkflowTrigger,omitempty"`
	WorkflowSHA     string `json:"githubWorkflowSha,omitempty"`
	WorkflowName    string `json:"githubWorkflowName,omitempty"`
	WorkflowRepo    string `json:"githubWorkflowRepo,omitempty"`
	WorkflowRef     string `json:"githubWorkflowRef,omitempty"`
}

// Attestation is one that was verified, and that its rule accepted.
type Attestation struct {
	Signature
	// PredicateType is written as the policy writes it, which may be a short name.
	PredicateType string `json:"predicateType,omitempty"`
}

// ObjectMeta is what a node knows of a pod's metadata.
type ObjectMeta struct {
	Name        string            `json:"name,omitempty"`
	Namespace   string            `json:"namespace,omitempty"`
	UID         string            `json:"uid,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// TypeMeta is what kind of object a rule is asked about. On a node it is always a [Pod].
type TypeMeta struct {
	Kind       string `json:"kind,omitempty"`
	APIVersion string `json:"apiVersion,omitempty"`
}

// Pod is the TypeMeta of all that a node creates.
func Pod() *TypeMeta { return &TypeMeta{Kind: "Pod", APIVersion: "v1"} }
