// Package evidence answers one question: what signature material is there about this digest?
//
// It promises to look in every place where cosign puts signatures, without being told which: the tag
// sha256-<hex>.sig (classic form), the referrers API, and the referrers fallback tag sha256-<hex> (bundles); and if it
// is asked to, attestations at the tag sha256-<hex>.att and the config files of the image itself. It
// asks the hosts that containerd would ask for the same repository, with the settings that containerd would use,
// and gives back only bytes that hash to the digest under which they were named.
//
// What it finds can be saved to a folder ([SaveAll]) that answers the same questions again ([Layout]), is kept on disk
// for when a registry is away ([Store]), and can be completed with proofs from a transparency log ([Logs]).
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
	"bytes"
	"errors"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/limits"
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
	// ErrNotSaved says that a folder of saved evidence does not tell what was asked. It says nothing about what a
	// registry would.
	ErrNotSaved = errors.New("not in the saved evidence")
)

// Question is what is asked about one digest, and where.
type Question struct {
	// Repository is registry and path, in their canonical form. It is where signatures are looked for, which may be
	// another place than the image's.
	Repository string
	Digest     digest.Digest
	// Credentials are tried first, in order: those of the request, or those that a policy names for the repository.
	// After them come those of the node's docker config for the repository, and none.
	Credentials []Credentials
	// TagPrefix is put directly before cosign's tags sha256-<hex>.sig and sha256-<hex>.att. Lists of referrers have no
	// prefix, here as in cosign: the fallback tag is the distribution specification's and not cosign's.
	TagPrefix string
	// Attestations asks for attestations of the classic form (tag sha256-<hex>.att) as well, and lets bundles be as
	// large as attestations are. Those in bundles are always among Bundles.
	Attestations bool
	// Config asks for the image's config files as well. They are looked for in Repository, so it must be the image's own.
	Config bool
}

// Evidence is the signature material about one digest.
type Evidence struct {
	// What was asked, but for the credentials.
	Repository        string
	Digest            digest.Digest
	TagPrefix         string
	AskedAttestations bool
	AskedConfig       bool
	// Signatures are of the classic form, in the order of their manifest.
	Signatures []Signature
	// Bundles are of the new form, in the order in which they are listed. Attestations that are no signatures
	// are among them: to tell them apart is to judge.
	Bundles []Bundle
	// Attestations are of the classic form: Payload is a DSSE envelope, Base64Signature is empty.
	Attestations []Signature
	// Configs are the image's config files (JSON) by platform, as "linux/amd64" or "linux/arm/v7": those of all
	// platforms, or nil. Each hashes to what a manifest of the image names, up to Digest. They are to be read with
	// encoding/json, as a runtime reads them.
	Configs map[string][]byte
	// Image is what leads from Digest to Configs: the image's index, if it has one, and its manifests, as they were
	// given. It is here so that config files that were kept can be held against the digest again.
	Image [][]byte
	// Incomplete is nil when every question was answered. Otherwise it says what could not be learnt; the
	// material found beside it is as good as ever. It reads as one line, in which Digest is shortened.
	Incomplete error
}

// asked is evidence about nothing yet, which knows its question.
func (q Question) asked() *Evidence {
	return &Evidence{
		Repository: q.Repository, Digest: q.Digest, TagPrefix: q.TagPrefix,
		AskedAttestations: q.Attestations, AskedConfig: q.Config,
	}
}

// Answers says whether e is about what q asks, and all that q asks for was asked for.
func (e *Evidence) Answers(q Question) bool {
	return e.Repository == q.Repository && e.Digest == q.Digest && e.TagPrefix == q.TagPrefix &&
		(e.AskedAttestations || !q.Attestations) && (e.AskedConfig || !q.Config)
}

// Bound is on the size of all material that there may be in answer to what was asked.
func (e *Evidence) Bound() limits.Bound {
	if e.AskedAttestations {
		return limits.AttestedMaterial
	}
	return limits.Material
}

// With is e and what kept holds beside it, if that is about the same digest. It is for what was kept from when a
// registry answered: e stays as incomplete as it is. Neither of the two is changed.
func (e *Evidence) With(kept *Evidence) *Evidence {
	if kept == nil || kept.Digest != e.Digest {
		return e
	}
	both := *e
	both.Signatures = distinct(slices.Concat(e.Signatures, kept.Signatures), Signature.same)
	both.Bundles = distinct(slices.Concat(e.Bundles, kept.Bundles), Bundle.same)
	both.Attestations = distinct(slices.Concat(e.Attestations, kept.Attestations), Signature.same)
	if both.Configs == nil {
		both.Configs, both.Image = kept.Configs, kept.Image
	}
	return &both
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

func (s Signature) same(t Signature) bool {
	return s.Source == t.Source && s.Base64Signature == t.Base64Signature && maps.Equal(s.Annotations, t.Annotations) && bytes.Equal(s.Payload, t.Payload)
}

// Bundle is one sigstore bundle, as JSON.
type Bundle struct {
	Raw []byte
	// Source is the digest of the manifest that refers to the image.
	Source digest.Digest
}

// same: by which referrer it was found says nothing about it.
func (b Bundle) same(c Bundle) bool { return bytes.Equal(b.Raw, c.Raw) }

// distinct keeps the first of each. A blob is read once, and any number of manifests may name it; whoever judges would
// make, and keep, as many of it.
func distinct[T any](all []T, same func(a, b T) bool) []T {
	var out []T
	for _, one := range all {
		if !slices.ContainsFunc(out, func(have T) bool { return same(have, one) }) {
			out = append(out, one)
		}
	}
	return out
}
