package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust"
)

// trial judges one image for a command.
type trial struct {
	config config.Config
	image  string
	pod    *policy.Pod // nil: not known
	load   func() (*policy.Set, error)
	// added has the cluster's policies, as they come on top of what load gives; nil: there are none.
	added func(context.Context) (clusterLayer, error)
	// withoutCluster says that they do not hold in the pod's namespace.
	withoutCluster bool
	// online fetches what the policies refer to. Without it only what is in files and was kept on disk counts.
	online bool
	// evidence is a folder of saved evidence, which is asked in place of registries and logs.
	evidence string
	// save is a folder to which what was fetched is written.
	save string
	say  func(string)
}

// sources are where a trial asks.
type sources interface {
	verify.Source
	gate.Resolver
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// explain judges. Its error is about a folder that was to be written, and not about the image.
func (t trial) explain(ctx context.Context) (explanation, error) {
	defer t.say("")
	if t.save != "" {
		if err := emptyFolder(t.save); err != nil {
			return explanation{}, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(t.config.Verification.PullTimeout))
	defer cancel()
	kept := &recorder{}
	v, err := t.judge(ctx, kept)
	e := explained(t.image, v, err)
	if t.save == "" {
		return e, nil
	}
	t.say("saving")
	return e, kept.save(ctx, t.save)
}

// judge is a pull without a pull.
func (t trial) judge(ctx context.Context, kept *recorder) (verify.Verdict, error) {
	ref, err := gate.ParseReference(t.image)
	if err != nil {
		return verify.Verdict{}, err
	}
	set, err := t.load()
	if err != nil {
		return verify.Verdict{}, err
	}
	from, err := t.sources()
	if err != nil {
		return verify.Verdict{}, err
	}
	kept.from = from
	var prover verify.Prover
	if t.evidence == "" {
		kept.logs, prover = newLogs(nil), kept
	}
	verifier, err := newVerifier(t.config, kept, prover, evidenceKept{}, nil)
	if err != nil {
		return verify.Verdict{}, err
	}
	t.say("fetching what policies refer to")
	refs, err := references(ctx, t.config.Trust, set, t.online)
	if err != nil {
		return verify.Verdict{}, err
	}
	verifier.SetPolicies(set, refs)
	if err := t.addCluster(ctx, verifier); err != nil {
		return verify.Verdict{}, err
	}
	d := ref.Digest
	if d == "" {
		t.say("resolving " + t.image)
		if d, err = from.Resolve(ctx, ref.Repository, ref.Tag, evidence.Credentials{}); err != nil {
			return verify.Verdict{}, err // it says what was being resolved
		}
	}
	kept.image(ref, d)
	t.say("fetching signatures of " + d.String())
	return verifier.Verify(ctx, verify.Subject{Image: t.image, Repository: ref.Repository, Digest: d, Pod: t.pod, WithoutCluster: t.withoutCluster})
}

func (t trial) sources() (sources, error) {
	if t.evidence != "" {
		return evidence.Open(t.evidence)
	}
	return newFetcher(t.config, quiet(), nil)
}

// references finds what the policies of a set refer to.
func references(ctx context.Context, c config.Trust, set *policy.Set, online bool) (*trust.Snapshot, error) {
	return referencesIn(ctx, c, trust.Folder(c.Dir), set, online)
}

// referencesIn is references with other Secrets and ConfigMaps than those of c.
func referencesIn(ctx context.Context, c config.Trust, held trust.Files, set *policy.Set, online bool) (*trust.Snapshot, error) {
	if online && c.CacheDir == "" {
		// A TUF repository is kept somewhere while it is read.
		dir, err := os.MkdirTemp("", "cosentry-trust-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		c.CacheDir = dir
	}
	keeper, err := newKeeper(c, !online, quiet(), nil)
	if err != nil {
		return nil, err
	}
	if online {
		keeper.FetchNow(ctx, set)
	}
	return keeper.ResolveIn(set, held), nil
}

// emptyFolder refuses a folder that holds anything, before any work is done.
func emptyFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s is not empty", dir)
	}
	if err != nil {
		return fmt.Errorf("saving evidence: %w", err)
	}
	return nil
}
