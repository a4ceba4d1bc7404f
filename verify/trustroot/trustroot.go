// Package trustroot reads trust roots: which certificate authorities, transparency logs and timestamp authorities
// count. A root comes as keys written out in a TrustRoot document ([FromKeys]), as sigstore's trusted_root.json
// ([FromJSON]), as a TUF repository that came with a document ([FromRepository]) or lies on a server ([Remote]), or it is
// the public-good instance's, which is part of this program ([PublicGood]).
//
// It promises that what it gives back was written in the node's own files or is signed, by TUF's rules, by the keys of a
// root.json that was. What it cannot read or prove gives an error and no root. A TUF repository on a server is
// only believed while all of its metadata is fresh; a copy that was fetched so is used without a network until its
// root, snapshot or targets expires (see [Remote] for why not until its timestamp does).
//
// Whatever is read is bounded, and a panic in a parser is an error.
//
// Formats: TrustRoot as github.com/sigstore/policy-controller defines it (policy.sigstore.dev/v1alpha1), TrustedRoot of
// github.com/sigstore/protobuf-specs, and The Update Framework's specification 1.0.
package trustroot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/rescue"
)

// Root is one trust root. It is shared between goroutines and must not be changed.
type Root struct {
	root.TrustedMaterial
	// Expires is when the root is not to be used any more: Expired is an error from then on. Zero: never. Only roots that
	// come by TUF have such an end.
	Expires time.Time
	// Ends is when no authority of some kind (certificate authorities, logs, timestamps) is left that still signs. What
	// was signed before is accepted afterwards as well, because it is judged at the time of its proof, so nothing is refused
	// for this. It is worth a warning, because nothing new will be accepted. Zero: no end is known.
	Ends time.Time
	// Revision is the hash of the authorities themselves. It stays the same as long as the same is trusted, however
	// often a repository is signed anew.
	Revision string
	// From says in a few words where the root is from.
	From string
}

// Due is the moment to warn before: the earlier of Expires and Ends, zero if there is neither.
func (r *Root) Due() time.Time {
	if r.Expires.IsZero() || !r.Ends.IsZero() && r.Ends.Before(r.Expires) {
		return r.Ends
	}
	return r.Expires
}

// Expired returns an [*ExpiredError] if the root is not to be used any more at that time. Whoever keeps a Root asks each
// time before it is used.
func (r *Root) Expired(now time.Time) error {
	if r.Expires.IsZero() || !now.After(r.Expires) {
		return nil
	}
	return &ExpiredError{What: r.From, When: r.Expires}
}

// ExpiredError is the error for a root, or metadata of one, whose time is over.
type ExpiredError struct {
	What string
	When time.Time
}

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("%s expired on %s: a newer trust root must be fetched or put in its place", e.What, e.When.UTC().Format(time.RFC3339))
}

// FromJSON reads a trusted_root.json of media type application/vnd.dev.sigstore.trustedroot+json;version=0.1.
func FromJSON(data []byte) (*Root, error) {
	return rescued("reading a trusted root", func() (*Root, error) { return fromJSON(data) })
}

func fromJSON(data []byte) (*Root, error) {
	if err := limits.TrustedRoot.Check(int64(len(data))); err != nil {
		return nil, fmt.Errorf("reading a trusted root: %w", err)
	}
	if err := limits.Elements.Check(limits.CountElements(data)); err != nil {
		return nil, fmt.Errorf("reading a trusted root: %w", err)
	}
	var p prototrustroot.TrustedRoot
	if err := protojson.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("reading a trusted root: not a trusted_root.json: %w", foreign(err))
	}
	r, err := fromProtobuf(&p)
	if err != nil {
		return nil, fmt.Errorf("reading a trusted root: %w", err)
	}
	r.From = "trusted_root.json"
	return r, nil
}

// fromProtobuf is the one way by which authorities become a Root.
func fromProtobuf(p *prototrustroot.TrustedRoot) (*Root, error) {
	var certificates int
	for _, authority := range slices.Concat(p.GetCertificateAuthorities(), p.GetTimestampAuthorities()) {
		certificates += len(authority.GetCertChain().GetCertificates())
	}
	if err := limits.Certificates.Check(int64(certificates)); err != nil {
		return nil, err
	}
	material, err := root.NewTrustedRootFromProtobuf(p)
	if err != nil {
		return nil, foreign(err)
	}
	for i, authority := range material.TimestampingAuthorities() {
		// A chain of one certificate that is no authority leaves no root to verify against.
		if a, ok := authority.(*root.SigstoreTimestampingAuthority); !ok || a.Root == nil {
			return nil, fmt.Errorf("timestamp authority %d has no root certificate: put its whole chain there, the root last", i)
		}
	}
	content, err := proto.MarshalOptions{Deterministic: true}.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("hashing the trusted root: %w", foreign(err))
	}
	sum := sha256.Sum256(content)
	return &Root{TrustedMaterial: material, Ends: ends(material), Revision: hex.EncodeToString(sum[:])}, nil
}

// rescued runs f and turns a panic into an error.
func rescued(what string, f func() (*Root, error)) (r *Root, err error) {
	err = rescue.Do(nil, what, func() (err error) {
		r, err = f()
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// foreignError holds an error whose words may quote what a stranger wrote: they are escaped and cut.
type foreignError struct{ err error }

// maxForeign is how much of such words a message carries, in bytes.
const maxForeign = 300

func foreign(err error) error {
	var exceeded *limits.Exceeded
	var expired *ExpiredError
	if errors.As(err, &exceeded) || errors.As(err, &expired) || errors.Is(err, rescue.ErrPanicked) {
		return err // our own words
	}
	return &foreignError{err}
}

func (e *foreignError) Error() string { return fmt.Sprintf("%.*q", maxForeign, e.err.Error()) }
func (e *foreignError) Unwrap() error { return e.err }
