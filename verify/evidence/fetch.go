package evidence

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/rescue"
)

// Fetch asks what signature material there is about a digest. "None" is an Evidence without any and with
// Incomplete nil. An error comes only if nothing could be asked: a name or digest that is none, or a host
// configuration that cannot be read.
//
// Everything is asked for at once. By digest the classic form takes two round trips and a bundle three. Of several
// hosts the first that has any material of a form is believed to have all of it, as containerd believes the first
// that has a tag.
func (f *Fetcher) Fetch(ctx context.Context, q Question) (e *Evidence, err error) {
	err = rescue.Do(f.log, "looking for signatures", func() (err error) {
		e, err = f.fetch(ctx, q)
		return err
	})
	return e, err
}

func (f *Fetcher) fetch(ctx context.Context, q Question) (*Evidence, error) {
	if err := q.check(); err != nil {
		return nil, fmt.Errorf("fetching evidence about %s: %w", escape(q.Repository), err)
	}
	g, err := f.begin(q)
	if err != nil {
		return nil, fmt.Errorf("fetching evidence about %s@%s: %w", escape(q.Repository), q.Digest, err)
	}
	e := q.asked()
	if len(g.set.with(docker.HostCapabilityPull)) == 0 {
		e.Incomplete = incomplete(q.Digest, fmt.Errorf("%w: the host configuration of %s names no host to pull from", ErrUnavailable, g.repo.registry))
		return e, nil
	}
	// Once there is too much of it the rest is not asked for.
	ctx, g.budget.stop = context.WithCancel(ctx)
	defer g.budget.stop()
	var left []ways
	work := []func() error{
		func() (err error) { e.Signatures, err = g.classic(ctx, signatures); return err },
		func() (err error) { e.Bundles, left, err = g.bundles(ctx); return err },
	}
	if q.Attestations {
		work = append(work, func() (err error) { e.Attestations, err = g.classic(ctx, attestations); return err })
	}
	if q.Config {
		work = append(work, func() (err error) { e.Configs, e.Image, err = g.configs(ctx); return err })
	}
	errs := g.together("looking for signatures", work...)
	// Signatures in either form are enough to go by, but they do not stand for attestations.
	if len(e.Bundles) == 0 && (len(e.Signatures) == 0 || q.Attestations) {
		var rest error
		e.Bundles, rest = g.bundlesLeft(ctx, left)
		errs = append(errs, rest)
	}
	if err := g.budget.exceeded(); err != nil {
		// What was read before is chance, and a verdict must not depend on it.
		e = q.asked()
		e.Incomplete = incomplete(q.Digest, fmt.Errorf("all there is about %s: %w", q.Digest, err))
		return e, nil
	}
	e.Incomplete = incomplete(q.Digest, errs...)
	return e, nil
}

// classicKind is one of the two things that cosign's classic form keeps under a tag: the layers of a manifest, each
// with all that belongs to it in its annotations.
type classicKind struct {
	what      string
	tag       func(Question) string
	layerType string
	bound     limits.Bound // on one payload
}

var (
	signatures   = classicKind{"signature", Question.signatureTag, simpleSigningType, limits.Payload}
	attestations = classicKind{"attestation", Question.attestationTag, dsseType, limits.Attestation}
)

// classic looks for what is of the classic form. The error beside what was found tells of what could not be
// had; without any, it tells of hosts that did not answer.
func (g *gathering) classic(ctx context.Context, kind classicKind) ([]Signature, error) {
	var failed []error
	for _, ep := range g.set.with(docker.HostCapabilityPull | docker.HostCapabilityResolve) {
		raw, err := g.tagged(ctx, ep, kind.what+" tag", kind.tag(g.question))
		if errors.Is(err, ErrNotFound) {
			continue
		}
		var layers []descriptor
		if err == nil {
			layers, err = kind.layers(raw)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%ss of %s at %s: %w", kind.what, g.subject, ep.Host, err))
			continue
		}
		found, err := g.payloads(ctx, ep, kind, layers)
		if len(found) > 0 {
			return found, err
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	return nil, join(failed...)
}

// payloads gets what the layers sign.
func (g *gathering) payloads(ctx context.Context, ep *endpoint, kind classicKind, layers []descriptor) ([]Signature, error) {
	found := make([]*Signature, len(layers))
	work := make([]func() error, len(layers))
	for i, layer := range layers {
		work[i] = func() error {
			payload, err := g.blob(ctx, ep, layer, kind.bound)
			if err != nil {
				return fmt.Errorf("%s payload %s: %w", kind.what, escape(layer.Digest.String()), err)
			}
			s := kind.signature(payload, layer)
			found[i] = &s
			return nil
		}
	}
	err := join(g.together("getting a payload", work...)...)
	return present(found), err
}

// present drops those that are not there and keeps the order.
func present[T any](found []*T) []T {
	var out []T
	for _, one := range found {
		if one != nil {
			out = append(out, *one)
		}
	}
	return out
}

// bundles looks for bundles in the ways that are preferred at each host, host after host until there are some.
// left says for each host which ways have not been asked.
func (g *gathering) bundles(ctx context.Context) (found []Bundle, left []ways, err error) {
	left = make([]ways, len(g.set.endpoints))
	var failed []error
	for i, ep := range g.set.endpoints {
		var asked ways
		var err error
		found, asked, err = g.bundlesAt(ctx, ep, ep.preferred())
		left[i] = ep.possible().without(asked)
		if len(found) > 0 {
			return found, nil, err
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	return nil, left, join(failed...)
}

// bundlesLeft asks in the ways that were left out for what was known of the hosts. Nothing has been found anywhere,
// and that has to be true rather than a thing remembered: a registry may have gained the API, or claim to have it.
func (g *gathering) bundlesLeft(ctx context.Context, left []ways) ([]Bundle, error) {
	var failed []error
	for i, ep := range g.set.endpoints {
		if i >= len(left) || left[i] == (ways{}) {
			continue
		}
		found, _, err := g.bundlesAt(ctx, ep, left[i])
		if len(found) > 0 {
			ep.learnReferrers(apiUnknown)
			return found, err
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	return nil, join(failed...)
}

// bundlesAt asks one host in some of the ways, at the same time, and looks into whatever is listed as soon as it is.
func (g *gathering) bundlesAt(ctx context.Context, ep *endpoint, w ways) (found []Bundle, asked ways, err error) {
	asked = w
	var byAPI, byTag []Bundle
	tag := func() error {
		list, err := g.listByTag(ctx, ep)
		if err == nil {
			byTag, err = g.referred(ctx, ep, list)
		}
		if errors.Is(err, ErrNotFound) && len(list) == 0 {
			return nil
		}
		return err
	}
	api := func() error {
		list, absent, err := g.listByAPI(ctx, ep)
		var tagErr error
		if absent && !w.tag && ep.possible().tag {
			asked.tag = true // it was believed to have the API, and has not
			tagErr = tag()
		}
		if err == nil {
			byAPI, err = g.referred(ctx, ep, list)
		}
		return join(err, tagErr)
	}
	var work []func() error
	if w.api {
		work = append(work, api)
	}
	if w.tag {
		work = append(work, tag)
	}
	err = join(g.together("looking for bundles", work...)...)
	if err := g.tooManyBundles(); err != nil {
		// Which of them came first is chance, and a verdict must not depend on it.
		return nil, asked, fmt.Errorf("bundles of %s at %s: %w", g.subject, ep.Host, err)
	}
	return distinct(append(byAPI, byTag...), Bundle.same), asked, err
}

// referred looks into every referrer that is listed: what the list says about them is not believed.
func (g *gathering) referred(ctx context.Context, ep *endpoint, list []descriptor) ([]Bundle, error) {
	var entries []digest.Digest
	for _, entry := range list {
		if !slices.Contains(entries, entry.Digest) {
			entries = append(entries, entry.Digest)
		}
	}
	found := make([][]Bundle, len(entries))
	work := make([]func() error, len(entries))
	for i, entry := range entries {
		work[i] = func() (err error) {
			if found[i], err = g.bundlesOf(ctx, ep, entry); err != nil {
				return fmt.Errorf("referrer %s of %s: %w", escape(entry.String()), g.subject, err)
			}
			return nil
		}
	}
	err := join(g.together("looking into a referrer", work...)...)
	return slices.Concat(found...), err
}

// bundlesOf gets the bundles in one referrer.
func (g *gathering) bundlesOf(ctx context.Context, ep *endpoint, referrer digest.Digest) ([]Bundle, error) {
	m, err := g.manifest(ctx, ep, referrer)
	if err != nil {
		return nil, err
	}
	layers, err := bundleLayers(m, g.subject)
	if tooMany := g.countBundles(referrer, len(layers)); tooMany != nil {
		return nil, join(err, tooMany)
	}
	var bundles []Bundle
	for _, layer := range layers {
		blob, blobErr := g.blob(ctx, ep, layer, g.bundle)
		if blobErr != nil {
			err = join(err, fmt.Errorf("bundle %s: %w", escape(layer.Digest.String()), blobErr))
			continue
		}
		bundles = append(bundles, Bundle{Raw: blob, Source: referrer})
	}
	return bundles, err
}
