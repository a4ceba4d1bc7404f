// Package sigstore answers one question about evidence: is it true what it says?
//
// It promises that whatever [Material.Signatures] or [Material.Attestations] returns was signed by a key or an
// identity that the [Demand] names, over the digest the evidence is about, as the thing that was asked for, and with
// every proof that was demanded beside it: a transparency log's, a timestamp authority's, a certificate transparency
// log's. The cryptography is that of github.com/sigstore/cosign and github.com/sigstore/sigstore-go; nothing is
// accepted that they refuse.
//
// It is a pure function of evidence, demand and the demand's time. It asks no network, reads no file, no environment
// variable and no clock: cosign's own defaults (SIGSTORE_* variables, a TUF root) are reached only through functions
// that are not called here, and every call is given its trusted material.
//
// It refuses to believe what is not signed. A hint which key it was, a certificate beside a signature by a key, a
// timestamp or log entry that nobody demanded: none of them is looked at, and so none of them can help or harm. A
// panic in a parser of a stranger's bytes makes that one piece unreadable and nothing else.
//
// How the time of signing is established for a certificate, which is valid for minutes: by every source that is
// demanded, and all of them must fall into its validity. With Demand.Logs it is the time that the log signed, with
// Demand.Timestamps that of the timestamp authority. With neither, as in cosign without log, the certificate must
// be valid at Demand.Now. With Demand.Logs alone a log entry that carries no signed time (Rekor version 2) does not
// suffice, because nothing then says when.
//
// The formats: cosign's https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md and ATTESTATION_SPEC.md,
// sigstore's https://github.com/sigstore/protobuf-specs (bundle 0.1 to 0.3), DSSE, in-toto statements, RFC 3161,
// RFC 6962 and https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md.
package sigstore

import (
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/cosentry/cosentry/verify/policy"
)

// Demand is what one authority demands, with all references resolved. One that makes no sense accepts nothing.
type Demand struct {
	// Keys: signed by any one of them. Exactly one of Keys and Identities is set.
	Keys []policy.PublicKey
	// Identities: signed with a certificate for any one of them.
	Identities []policy.Identity
	// CAs are the certificate authorities, and the certificate transparency logs, for Identities.
	CAs root.TrustedMaterial
	// IgnoreSCT does without proof that a certificate transparency log holds the certificate.
	IgnoreSCT bool
	// Logs are the transparency logs of which one must hold the signature; nil: no proof is asked for.
	Logs root.TrustedMaterial
	// Timestamps are the timestamp authorities of which one must have signed the time; nil: no timestamp is looked at.
	Timestamps root.TrustedMaterial
	// Format restricts the form that counts.
	Format policy.Format
	// Now is the time at which a certificate must be valid where neither Logs nor Timestamps is set.
	Now time.Time
}

// The forms of a signature, as Signer.Form has them.
const (
	Classic = "classic"
	Bundle  = "bundle"
)

// Signer is who signed, as it was proved.
type Signer struct {
	// ID is the hex of the digest of the layer, or of the bundle's manifest.
	ID   string `json:"id"`
	Form string `json:"form"`
	// KeyFingerprint is that of the policy's key; empty where a certificate was asked for.
	KeyFingerprint string `json:"keyFingerprint,omitempty"`
	// Issuer and Subject are the certificate's.
	Issuer  string `json:"issuer,omitempty"`
	Subject string `json:"subject,omitempty"`
	GitHub
	// LogIndex is that of the log entry that was proved, LogTime the time that the log signed with it.
	LogIndex *int64     `json:"logIndex,omitempty"`
	LogTime  *time.Time `json:"logTime,omitempty"`
	// Timestamp is that of a timestamp authority.
	Timestamp *time.Time `json:"timestamp,omitempty"`
}

// GitHub is what a certificate says about the GitHub workflow that asked for it. The names are policy-controller's.
type GitHub struct {
	WorkflowTrigger string `json:"githubWorkflowTrigger,omitempty"`
	WorkflowSHA     string `json:"githubWorkflowSha,omitempty"`
	WorkflowName    string `json:"githubWorkflowName,omitempty"`
	WorkflowRepo    string `json:"githubWorkflowRepo,omitempty"`
	WorkflowRef     string `json:"githubWorkflowRef,omitempty"`
}

// Attestation is one that was verified.
type Attestation struct {
	Signer
	// PredicateType is the statement's own.
	PredicateType string `json:"predicateType"`
	// Envelope is the DSSE envelope, as JSON written here: its payload is the statement that was verified, whichever way
	// a reader treats fields that are there twice or in capitals.
	Envelope []byte `json:"-"`
}
