package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rescue"
)

// place is where signatures about a subject are looked for.
type place struct {
	repository, prefix string
	secrets            string // names of pull secrets, a line each
}

// placeOf is where an authority has its signatures.
func placeOf(s Subject, a *policy.Authority) place {
	at := place{repository: s.Repository}
	if a.Source == nil {
		return at
	}
	if a.Source.Repository != "" {
		at.repository = a.Source.Repository
	}
	at.prefix, at.secrets = a.Source.TagPrefix, strings.Join(a.Source.PullSecrets, "\n")
	return at
}

// gathered is the evidence by place. An authority whose place is not there was not to be asked.
type gathered map[place]*evidence.Evidence

// plan says what has to be asked, and where. It is empty if no policy needs evidence: a static pass must not
// contact a registry, and an image under no policy costs nothing.
func plan(policies []*policy.Policy, s Subject) map[place]evidence.Question {
	asks := map[place]evidence.Question{}
	ask := func(at place, more func(*evidence.Question)) {
		q, ok := asks[at]
		if !ok {
			q = evidence.Question{Repository: at.repository, Digest: s.Digest, TagPrefix: at.prefix}
		}
		more(&q)
		asks[at] = q
	}
	for _, p := range policies {
		if p.Rule == nil && passesStatically(p) {
			continue
		}
		for i := range p.Authorities {
			a := &p.Authorities[i]
			if a.Key == nil && a.Keyless == nil {
				continue
			}
			ask(placeOf(s, a), func(q *evidence.Question) { q.Attestations = q.Attestations || len(a.Attestations) > 0 })
		}
		if p.Rule != nil && p.FetchConfigFile {
			ask(place{repository: s.Repository}, func(q *evidence.Question) { q.Config = true })
		}
	}
	return asks
}

func passesStatically(p *policy.Policy) bool {
	return slices.ContainsFunc(p.Authorities, func(a policy.Authority) bool { return a.Static != nil && a.Static.Pass })
}

// maxPlaces is how many places are asked at once about one image.
const maxPlaces = 4

// gatherAll fetches what the plan asks. It does not fail: what could not be had is in each Evidence.Incomplete.
func (v *Verifier) gatherAll(ctx context.Context, l *layer, asks map[place]evidence.Question, s Subject, err error) gathered {
	type found struct {
		at place
		ev *evidence.Evidence
	}
	all := make(chan found, len(asks))
	var group errgroup.Group
	group.SetLimit(maxPlaces)
	for at, q := range asks {
		group.Go(func() error {
			var ev *evidence.Evidence
			// A goroutine of its own: a panic on a stranger's bytes would end the agent.
			if perr := rescue.Do(v.opts.Log, "looking for signatures", func() error {
				ev = v.gatherAt(ctx, l, at, q, s, err)
				return nil
			}); perr != nil {
				ev = nothing(q, perr)
			}
			all <- found{at, ev}
			return nil
		})
	}
	_ = group.Wait() // none fails
	close(all)
	g := gathered{}
	for f := range all {
		g[f.at] = f.ev
	}
	return g
}

// gatherAt asks at one place, with the secrets that the policy names for it or else those of the request.
func (v *Verifier) gatherAt(ctx context.Context, l *layer, at place, q evidence.Question, s Subject, err error) *evidence.Evidence {
	if registry(at.repository) == registry(s.Repository) && !s.Credentials.IsZero() {
		// They were sent for the image's registry; another one may be anybody's.
		q.Credentials = []evidence.Credentials{s.Credentials}
	}
	if at.secrets != "" {
		secrets, serr := pullSecrets(l, at, s.Pod)
		q.Credentials = append(secrets, q.Credentials...)
		ev := v.gather(ctx, l, q, err)
		if serr == nil || ev.Incomplete == nil {
			return ev
		}
		more := *ev // evidence is not changed once it was handed out
		// What the owner can mend comes first. It makes no refusal undecided.
		more.Incomplete = fmt.Errorf("%w; %w", serr, ev.Incomplete)
		if definite(ev.Incomplete) {
			more.Incomplete = fmt.Errorf("%v; %w", serr, ev.Incomplete)
		}
		return &more
	}
	return v.gather(ctx, l, q, err)
}

// pullSecrets reads the secrets of the pod's namespace. Those that are not there are told of only if
// the registry does not answer without.
func pullSecrets(l *layer, at place, pod *policy.Pod) (all []evidence.Credentials, err error) {
	if pod == nil {
		return nil, errors.New("the pull secrets are those of a pod's namespace, and the request is for no pod")
	}
	for name := range strings.SplitSeq(at.secrets, "\n") {
		c, wrong := pullSecret(l, at, pod.Namespace, name)
		all = append(all, c...)
		switch {
		case wrong == nil:
		case err == nil:
			err = wrong
		default:
			err = fmt.Errorf("%w; %w", err, wrong) // on one line
		}
	}
	return all, err
}

func pullSecret(l *layer, at place, namespace, name string) ([]evidence.Credentials, error) {
	raw, err := l.refs.PullSecret(namespace, name)
	if err != nil {
		return nil, fmt.Errorf("pull secret %q: %w", name, err)
	}
	c, err := evidence.FromDockerConfig(raw, at.repository)
	if err != nil {
		return nil, fmt.Errorf("pull secret %q: %w", name, err)
	}
	return c, nil
}

func registry(repository string) string {
	host, _, _ := strings.Cut(repository, "/")
	return host
}

// gather asks one question. What a registry could not be asked about for the moment is
// filled up from what was kept: a pod must be able to restart while its registry is away, or
// when its pull secret came with the pull and not with the restart. Kept evidence is signed
// data like any other and is judged like it; that some is missing stays on record in Incomplete, so that
// without a good signature among it the outcome is "could not find out" and not "unsigned". err says why
// nobody can be asked, if that is so.
func (v *Verifier) gather(ctx context.Context, l *layer, q evidence.Question, err error) *evidence.Evidence {
	var ev *evidence.Evidence
	if err == nil {
		ev, err = v.opts.Source.Fetch(ctx, q)
		if err == nil && ev == nil {
			err = errors.New("no evidence was given, and no reason")
		}
	}
	if err != nil {
		// Policies that need no evidence, or only warn, are still judged.
		ev = nothing(q, err)
	}
	if ev.Incomplete == nil || definite(ev.Incomplete) || l.keeper == nil {
		return ev
	}
	if ev.Digest != q.Digest {
		return ev
	}
	// The fetch may have used up its own time, and others wait for a place while this one is held.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recallTimeout)
	defer cancel()
	return ev.With(l.keeper.Recall(ctx, q))
}

// recallTimeout bounds the reading of what was kept in answer to one question, on a disk that is slow or hangs.
const recallTimeout = 5 * time.Second

// nothing is the evidence of who learnt nothing, because of err.
func nothing(q evidence.Question, err error) *evidence.Evidence {
	return &evidence.Evidence{
		Repository: q.Repository, Digest: q.Digest, TagPrefix: q.TagPrefix,
		AskedAttestations: q.Attestations, AskedConfig: q.Config, Incomplete: err,
	}
}
