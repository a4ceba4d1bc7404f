package main

import (
	"log/slog"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/verify/evidence"
)

// TestWhatWasKeptIsOnDiskAfterTheEnd: an agent that is restarted has the evidence of what it allowed just before.
func TestWhatWasKeptIsOnDiskAfterTheEnd(t *testing.T) {
	begin := func(dir string) *agent {
		return &agent{config: config.Config{Evidence: config.Evidence{Dir: dir, Size: 4}}, log: slog.New(slog.DiscardHandler)}
	}
	e := &evidence.Evidence{
		Repository: "registry.example/app", Digest: digest.FromString("image"),
		Bundles: []evidence.Bundle{{Raw: []byte(`{"mediaType":"b"}`)}},
	}
	dir := t.TempDir()
	a := begin(dir)
	own, clusters := a.openStore(), a.openStore(clusterFolder)
	own.Keep(e)
	clusters.Keep(e)
	a.close()
	for _, parts := range [][]string{nil, {clusterFolder}} {
		a := begin(dir)
		if a.openStore(parts...).Recall(t.Context(), evidence.Question{Repository: e.Repository, Digest: e.Digest}) == nil {
			t.Errorf("%v: lost", parts)
		}
		a.close()
	}
	if a := begin(""); a.openStore() != nil {
		t.Error("evidence is kept in no folder")
	}
}
