package verify

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cosentry/cosentry/verify/evidence"
)

// BenchmarkColdByDigest sets a decision on a digest never seen, its evidence fetched from a registry that takes 5 ms for
// each answer, beside the bare round trips that it cannot do without: the signature's manifest and the list of
// referrers at once, then the payload.
func BenchmarkColdByDigest(b *testing.B) {
	sig := classicFor("P-256", appDigest)
	manifest := must(json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Layers: []ocispec.Descriptor{{
			MediaType:   "application/vnd.dev.cosign.simplesigning.v1+json",
			Digest:      digest.FromBytes(sig.Payload),
			Size:        int64(len(sig.Payload)),
			Annotations: map[string]string{"dev.cosignproject.cosign/signature": sig.Base64Signature},
		}},
	}))
	const repository = "/v2/app"
	answers := map[string][]byte{
		repository + "/manifests/" + strings.Replace(appDigest.String(), ":", "-", 1) + ".sig": manifest,
		repository + "/referrers/" + appDigest.String():                                        []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`),
		repository + "/blobs/" + digest.FromBytes(sig.Payload).String():                        sig.Payload,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(5 * time.Millisecond)
		body, ok := answers[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(body)
	}))
	b.Cleanup(server.Close)

	b.Run("roundtrips", func(b *testing.B) {
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
		get := func(path string) {
			resp, err := client.Get(server.URL + path)
			if err != nil {
				b.Error(err)
				return
			}
			defer resp.Body.Close()
			if _, err := io.ReadAll(resp.Body); err != nil {
				b.Error(err)
			}
		}
		var first []string
		for path := range answers {
			if !strings.Contains(path, "/blobs/") {
				first = append(first, path)
			}
		}
		for b.Loop() {
			var round sync.WaitGroup
			for _, path := range first {
				round.Go(func() { get(path) })
			}
			round.Wait()
			get(repository + "/blobs/" + digest.FromBytes(sig.Payload).String())
		}
	})
	b.Run("decision", func(b *testing.B) {
		fetcher, err := evidence.New(evidence.Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		v := newVerifier(b, fetcher, policyFor("**", "signed", "enforce", keyAuthority("release-key", []string{"P-256"})))
		s := Subject{
			Image:      strings.TrimPrefix(server.URL, "http://") + "/app:1",
			Repository: strings.TrimPrefix(server.URL, "http://") + "/app",
			Digest:     appDigest,
		}
		for b.Loop() {
			v.cache.purge()
			got, err := v.Verify(context.Background(), s)
			if err != nil || !got.Allowed || got.Cached {
				b.Fatalf("%+v, %v", got, err)
			}
		}
	})
}
