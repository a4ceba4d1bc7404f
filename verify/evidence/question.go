package evidence

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// check refuses a question about what is no place or no digest, before anybody is asked.
func (q Question) check() error {
	if err := checkDigest(q.Digest); err != nil {
		return err
	}
	for _, tag := range []string{q.signatureTag(), q.attestationTag()} {
		// A prefix is the word of a policy; with a slash in it the request would be about another object.
		if !isTag(tag) {
			return fmt.Errorf("tag prefix %s: with it there is no tag that a registry could have", escape(q.TagPrefix))
		}
	}
	return nil
}

// signatureTag is where cosign's classic form keeps the signatures of an image.
func (q Question) signatureTag() string { return q.TagPrefix + fallbackTag(q.Digest) + ".sig" }

// attestationTag is where it keeps the attestations.
func (q Question) attestationTag() string { return q.TagPrefix + fallbackTag(q.Digest) + ".att" }

// fallbackTag is where clients keep the list of referrers at registries without the API.
func fallbackTag(d digest.Digest) string { return strings.Replace(d.String(), ":", "-", 1) }
