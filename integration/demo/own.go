package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/cosentry/cosentry/integration/harness"
)

// ownImage is where a mirror of cosentry's image is: in a repository of a policy of its own.
const ownImage = "cosentry/cosentry:devel"

// ownPolicy asks of cosentry's own image what is asked of everybody's: a signature, by the key that its makers sign with. There
// is no exemption and no `static: pass` for it.
func ownPolicy(glob, publicPEM string) string {
	return strings.Replace(harness.KeyPolicy("cosentry", glob, publicPEM), "name: release-key", "name: cosentry-key", 1)
}

// readOwn reads the image that deploy/image packed of the binary that the stage runs.
func readOwn(tools harness.Tools) (v1.ImageIndex, error) {
	packed := filepath.Join(filepath.Dir(tools.Cosentry), "demo-image")
	all, err := layout.ImageIndexFromPath(packed)
	if err != nil {
		return nil, fmt.Errorf("reading cosentry's own image, run `make demo`: %w", err)
	}
	manifest, err := all.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("reading cosentry's own image: %w", err)
	}
	if len(manifest.Manifests) != 1 {
		return nil, fmt.Errorf("%s holds %d images, not cosentry's alone: run `make demo`", packed, len(manifest.Manifests))
	}
	return all.ImageIndex(manifest.Manifests[0].Digest)
}

// pushOwn puts cosentry's image in place and signs it as its makers do.
func pushOwn(ctx context.Context, s *stage) (harness.Container, error) {
	digest, err := s.node.Registry.Push(ownImage, s.own)
	if err != nil {
		return harness.Container{}, err
	}
	return harness.Container{Image: s.image(ownImage)}, s.ownKey.SignBundle(ctx, s.node.Registry, digest)
}

// admittedByPolicy makes sure that it was the signature by which cosentry's image came in, at pull and at create.
func admittedByPolicy(s *stage) (string, error) {
	records, err := s.agent.Records()
	if err != nil {
		return "", err
	}
	seen := map[string]bool{}
	for _, r := range records {
		if r["image"] != s.image(ownImage) {
			continue
		}
		results, _ := r["policies"].([]any)
		if r["decision"] != "allow" || len(results) != 1 {
			return "", fmt.Errorf("the audit log does not say that one policy allowed it: %v", r)
		}
		result, _ := results[0].(map[string]any)
		if result["policy"] != "cosentry" || result["authority"] != "cosentry-key" {
			return "", fmt.Errorf("the audit log says that it was allowed by %v", result)
		}
		seen[fmt.Sprint(r["action"])] = true
	}
	if !seen["pull"] || !seen["create"] {
		return "", errors.New("the audit log does not say that it was judged at pull and at create")
	}
	return `; allowed by policy "cosentry"`, nil
}

// pushToOwn puts an image where cosentry's is, signed by a key that is trusted with everything else.
func pushToOwn(ctx context.Context, s *stage) (harness.Container, error) {
	const path = "cosentry/cosentry:other"
	_, err := s.push(ctx, path, "not cosentry", classic)
	return harness.Container{Image: s.image(path)}, err
}
