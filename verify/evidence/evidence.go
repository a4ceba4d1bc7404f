// Package evidence answers one question: what signature material is there about this digest?
//
// It promises to look in every place where cosign puts signatures, without being told which: the tag
// sha256-<hex>.sig (classic form), the referrers API, and the referrers fallback tag sha256-<hex> (bundles). It
// asks the hosts that containerd would ask for the same repository, with the settings that containerd would use,
// and gives back only bytes that hash to the digest under which they were named.
//
// It decides nothing. Material is not evidence of anything until it is judged, and it may have been written by
// whoever can write to the registry; no key is known here and no policy. Whoever judges must also look at
// [Evidence.Incomplete]: no material and no answer are different things, and neither of them is a permission.
//
// It refuses to go beyond the bounds of package limits, to follow a redirect to another scheme or to a link-local
// address, to let a credential travel to a host for which it was not meant, and to use any digest but sha256.
//
// The formats: OCI distribution and image specification 1.1, cosign's
// https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md and
// https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md, and containerd's hosts.toml.
package evidence

import (
	"errors"

	"github.com/opencontainers/go-digest"
)

// Errors of this package are found with errors.Is; a bound that was met is found as a *limits.Exceeded with
// errors.As. Several may be joined in one error.
var (
	// ErrUnavailable says that a registry could not be asked or gave no answer: unreachable, TLS, timeout,
	// 429, 5xx. Asking again later may help.
	ErrUnavailable = errors.New("registry unavailable")
	// ErrUnauthorized says that a registry answered 401 or 403 to every credential there was.
	ErrUnauthorized = errors.New("registry refused the credentials")
	// ErrNotFound says that something that should be there is not.
	ErrNotFound = errors.New("not found in the registry")
	// ErrMismatch says that a registry gave other bytes than were asked for, or bytes that cannot be read as
	// what they should be.
	ErrMismatch = errors.New("registry answered with something else")
)

// Question is what is asked about one digest, and where.
type Question struct {
	// Repository is registry and path, in their canonical form.
	Repository string
	Digest     digest.Digest
	// Credentials are tried first: those of the request, or those that a policy names for the repository.
	Credentials []Credentials
	// TagPrefix is put before cosign's tags.
	TagPrefix string
	// Attestations asks for attestations of the classic form (tag sha256-<hex>.att) as well. Those in bundles are always
	// among Bundles.
	Attestations bool
	// Config asks for the image's config files as well.
	Config bool
}

// Evidence is the signature material about one digest.
type Evidence struct {
	// What was asked, but for the credentials.
	Repository string
	Digest     digest.Digest
	TagPrefix  string
	// Signatures are of the classic form, in the order of their manifest.
	Signatures []Signature
	// Bundles are of the new form, in the order in which they are listed. Attestations that are no signatures
	// are among them: to tell them apart is to judge.
	Bundles []Bundle
	// Attestations are of the classic form: Payload is a DSSE envelope, Base64Signature is empty.
	Attestations []Signature
	// Configs are the image's config files (JSON) by platform, as "linux/amd64" or "linux/arm/v7".
	Configs map[string][]byte
	// Incomplete is nil when every question was answered. Otherwise it says what could not be learnt; the
	// material found beside it is as good as ever. It reads as one line, in which Digest is shortened.
	Incomplete error
}

// Signature is one signature of the classic form: a simple-signing payload, and the signature over it.
type Signature struct {
	Payload         []byte
	Base64Signature string
	// Annotations are all of the layer's: certificates and log proofs are among them.
	Annotations map[string]string
	// Source is the digest of the layer, that is of Payload.
	Source digest.Digest
}

// Bundle is one sigstore bundle, as JSON.
type Bundle struct {
	Raw []byte
	// Source is the digest of the manifest that refers to the image.
	Source digest.Digest
}
