package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cosentry/cosentry/integration/harness"
)

// attempt is one row: how the node is brought to it, the container that is
// then asked for, and what has to become of it.
type attempt struct {
	tried string
	// prepare returns the container to run; what it does is not timed.
	prepare func(ctx context.Context, s *stage) (harness.Container, error)
	// raw has CreateContainer name the image as written, without a pull or a look-up before it.
	raw bool
	// prints is what the container must print; refused is how the refusal must begin.
	prints, refused string
	// own says that the container is cosentry itself, and prints what the agent on the node says that it is.
	own bool
	// at says which call refuses.
	at call
	// after checks what else must be true, and says so.
	after func(s *stage) (note string, err error)
}

type call string

const (
	pull   call = "pull"
	create call = "create"
)

type result struct {
	tried, happened, words, problem string
	took                            time.Duration
}

// try makes the attempt and compares.
func (a attempt) try(ctx context.Context, s *stage) result {
	r := result{tried: a.tried}
	c, err := a.prepare(ctx, s)
	if err != nil {
		r.problem = "preparing: " + err.Error()
		return r
	}
	c.Name = "main"
	if a.own {
		a.prints = s.version
	}
	pod, err := s.pod(ctx)
	if err != nil {
		r.problem = err.Error()
		return r
	}
	defer func() {
		if err := s.kubelet.RemovePod(ctx, pod); err != nil && r.problem == "" {
			r.problem = err.Error()
		}
	}()
	began := time.Now()
	var out harness.Outcome
	if a.raw {
		out.ID, err = s.kubelet.Create(ctx, pod, c, c.Image, nil)
	} else {
		out, err = s.kubelet.Run(ctx, pod, c)
	}
	r.took = time.Since(began)
	a.judge(&r, c, out, err)
	if a.after != nil && r.problem == "" {
		note, err := a.after(s)
		r.happened += note
		if err != nil {
			r.problem = err.Error()
		}
	}
	return r
}

// judge says what happened and whether it should have.
func (a attempt) judge(r *result, c harness.Container, out harness.Outcome, err error) {
	if err == nil {
		r.happened = fmt.Sprintf("runs, and printed %q", out.Output)
		if a.prints == "" {
			r.problem = "it should have been refused"
		} else if out.Output != a.prints {
			r.problem = fmt.Sprintf("it should have printed %q", a.prints)
		}
		return
	}
	at := create
	if out.Ref == "" && !a.raw {
		at = pull
	}
	reason, message := harness.OwnerReads(err, c.Image, at == pull)
	r.happened = "refused at " + string(at)
	r.words = reason + ": " + message
	switch {
	case a.prints != "":
		r.problem = "it should have run"
	case at != a.at:
		r.problem = "it should have been refused at " + string(a.at)
	case !strings.Contains(err.Error(), "code = Unknown desc = "+a.refused):
		r.problem = fmt.Sprintf("the runtime's client should have read code Unknown and %q, not %q", a.refused, err)
	}
}

// attempts are the rows, in order: some build on what an earlier one left on the node.
var attempts = []attempt{
	{
		tried: "a signed image, seen for the first time",
		prepare: func(ctx context.Context, s *stage) (harness.Container, error) {
			_, err := s.push(ctx, "app:1.0", "hello from signed bytes", classic)
			return harness.Container{Image: s.image("app:1.0")}, err
		},
		prints: "hello from signed bytes",
	},
	{
		tried:   "the same image in a second pod, everything warm",
		prepare: use("app:1.0"),
		prints:  "hello from signed bytes",
	},
	{
		tried: "an image signed in the newer bundle form",
		prepare: func(ctx context.Context, s *stage) (harness.Container, error) {
			_, err := s.push(ctx, "bundled:1.0", "hello from a bundle", bundle)
			return harness.Container{Image: s.image("bundled:1.0")}, err
		},
		prints: "hello from a bundle",
	},
	{
		tried: "an image signed without a key, by the release workflow",
		prepare: func(ctx context.Context, s *stage) (harness.Container, error) {
			err := s.pushSignedAs(ctx, "released/app:1.0", "hello from a workflow", workflow)
			return harness.Container{Image: s.image("released/app:1.0")}, err
		},
		prints: "hello from a workflow",
	},
	{
		tried: "an image signed without a key, by a workflow of somebody else's",
		prepare: func(ctx context.Context, s *stage) (harness.Container, error) {
			other := workflow
			other.URI = strings.Replace(workflow.URI, "/example/", "/example-fork/", 1)
			err := s.pushSignedAs(ctx, "released/fork:1.0", "hello from a fork", other)
			return harness.Container{Image: s.image("released/fork:1.0")}, err
		},
		at: pull, refused: harness.Refused,
	},
	{
		tried: "a signed image without the provenance that its policy asks for",
		prepare: func(ctx context.Context, s *stage) (harness.Container, error) {
			_, err := s.push(ctx, "attested/app:1.0", "signed and no more", classic)
			return harness.Container{Image: s.image("attested/app:1.0")}, err
		},
		at: pull, refused: harness.Refused,
	},
	{
		tried: "an unsigned image",
		prepare: func(ctx context.Context, s *stage) (harness.Container, error) {
			_, err := s.push(ctx, "unsigned:1.0", "unsigned", unsigned)
			return harness.Container{Image: s.image("unsigned:1.0")}, err
		},
		at: pull, refused: harness.Refused,
	},
	{
		tried: "an image signed by another key",
		prepare: func(ctx context.Context, s *stage) (harness.Container, error) {
			_, err := s.push(ctx, "stranger:1.0", "signed by a stranger", byStranger)
			return harness.Container{Image: s.image("stranger:1.0")}, err
		},
		at: pull, refused: harness.Refused,
	},
	{
		tried:   "cosentry's own image, signed by a key of its own",
		prepare: pushOwn,
		own:     true,
		after:   admittedByPolicy,
	},
	{
		tried:   "another image in cosentry's repository, signed by the release key",
		prepare: pushToOwn,
		at:      pull, refused: harness.Refused,
	},
	{
		tried:   "a tag that the registry moves to other bytes right after it was looked up",
		prepare: moveAfterLookup,
		prints:  "the bytes that were judged",
		after:   tagMoved,
	},
	{
		tried: "an unsigned image that was pulled around cosentry and is on the node",
		prepare: func(ctx context.Context, s *stage) (harness.Container, error) {
			if _, err := s.push(ctx, "stowaway:1.0", "unsigned", unsigned); err != nil {
				return harness.Container{}, err
			}
			return harness.Container{Image: s.image("stowaway:1.0")}, s.pullAround(ctx, "stowaway:1.0")
		},
		at: create, refused: harness.Refused,
	},
	{
		tried: "an image imported by hand",
		prepare: func(ctx context.Context, s *stage) (harness.Container, error) {
			img, err := s.node.Images.Saying("imported")
			if err != nil {
				return harness.Container{}, err
			}
			return harness.Container{Image: s.image("imported:1.0")}, s.node.Import(ctx, img, s.image("imported:1.0"))
		},
		at: create, refused: harness.Refused,
	},
	{
		tried: "an import that calls itself by the digest of a signed image",
		prepare: func(ctx context.Context, s *stage) (harness.Container, error) {
			digest, err := s.push(ctx, "claimed:1.0", "the true one", classic)
			if err != nil {
				return harness.Container{}, err
			}
			img, err := s.node.Images.Saying("the false one")
			if err != nil {
				return harness.Container{}, err
			}
			return harness.Container{Image: digest.String()}, s.node.Import(ctx, img, digest.String())
		},
		at: create, refused: harness.Refused,
	},
	{
		tried: "a signed image with an unsigned image as its volume",
		prepare: func(ctx context.Context, s *stage) (harness.Container, error) {
			if _, err := s.push(ctx, "data:1.0", "unsigned data", unsigned); err != nil {
				return harness.Container{}, err
			}
			c := harness.Container{Image: s.image("app:1.0"), Volumes: map[string]string{"/data": s.image("data:1.0")}}
			return c, s.pullAround(ctx, "data:1.0")
		},
		at: create, refused: harness.Refused,
	},
	{
		tried: "a signed image with a signed image as its volume",
		prepare: func(ctx context.Context, s *stage) (harness.Container, error) {
			_, err := s.push(ctx, "signed-data:1.0", "signed data", bundle)
			return harness.Container{
				Image: s.image("app:1.0"), Command: []string{"/bin/cat", "/data/words"},
				Volumes: map[string]string{"/data": s.image("signed-data:1.0")},
			}, err
		},
		prints: "signed data",
	},
	{
		tried: "a checkpoint archive in place of an image",
		prepare: func(ctx context.Context, s *stage) (harness.Container, error) {
			img, err := s.node.Images.Saying("restored")
			if err != nil {
				return harness.Container{}, err
			}
			path, err := s.node.Archive(img, "checkpoint")
			return harness.Container{Image: path}, err
		},
		raw: true, at: create, refused: harness.Refused,
	},
	{
		tried: "the registry is gone: the signed image is started again",
		prepare: func(_ context.Context, s *stage) (harness.Container, error) {
			s.node.Registry.Stop()
			return harness.Container{Image: s.image("app:1.0")}, nil
		},
		prints: "hello from signed bytes",
	},
	{
		tried:   "the registry is gone: an image that is not on the node",
		prepare: use("other:1.0"),
		at:      pull, refused: harness.Unavailable,
	},
}

// use runs an image that an earlier attempt pushed, or that nobody did.
func use(path string) func(context.Context, *stage) (harness.Container, error) {
	return func(_ context.Context, s *stage) (harness.Container, error) {
		return harness.Container{Image: s.image(path)}, nil
	}
}

// moveAfterLookup has the registry answer the first request for the tag's
// manifest with signed bytes, and every later one with others.
func moveAfterLookup(ctx context.Context, s *stage) (harness.Container, error) {
	if _, err := s.push(ctx, "moving:other", "other bytes", unsigned); err != nil {
		return harness.Container{}, err
	}
	other, err := s.node.Images.Saying("other bytes")
	if err != nil {
		return harness.Container{}, err
	}
	digest, err := other.Digest()
	if err != nil {
		return harness.Container{}, err
	}
	if _, err := s.push(ctx, "moving:1.0", "the bytes that were judged", classic); err != nil {
		return harness.Container{}, err
	}
	s.node.Registry.SetIntercept(moveOnce(s.node.Registry, digest))
	return harness.Container{Image: s.image("moving:1.0")}, nil
}

func moveOnce(r *harness.Registry, to v1.Hash) harness.Intercept {
	var once sync.Once
	return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		next.ServeHTTP(w, req)
		if req.URL.Path == "/v2/moving/manifests/1.0" {
			once.Do(func() { _ = r.Retag("moving", "1.0", to) }) // seen by tagMoved if it failed
		}
	}
}

// tagMoved makes sure that the attack took place.
func tagMoved(s *stage) (string, error) {
	s.node.Registry.SetIntercept(nil)
	now, _, err := s.node.Registry.Manifest("moving", "1.0")
	if err != nil {
		return "", err
	}
	other, _, err := s.node.Registry.Manifest("moving", "other")
	if err != nil {
		return "", err
	}
	if string(now) != string(other) {
		return "", errors.New("the tag was not moved")
	}
	return "; at the registry the tag names the other bytes by now", nil
}
