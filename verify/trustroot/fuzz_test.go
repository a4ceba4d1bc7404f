package trustroot

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trustroot/tuftest"
)

// whole checks what holds for any input: a root or an error, never both or neither, and nothing unescaped in the words.
func whole(t *testing.T, r *Root, err error) {
	t.Helper()
	switch {
	case err == nil:
		accepted(t, r, err)
	default:
		refused(t, r, err, "")
	}
}

func FuzzFromJSON(f *testing.F) {
	f.Add(trustedRoot(f))
	f.Add(publicGoodTrustedRoot)
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := FromJSON(data)
		whole(t, r, err)
	})
}

func FuzzFromKeys(f *testing.F) {
	keys := keysOf(f, newSigstore(f))
	f.Add(keys.CertificateAuthorities[0].CertChain, keys.TLogs[0].PublicKey, keys.TimestampAuthorities[0].CertChain, "sha256")
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), []byte("-----BEGIN "), []byte{}, "")
	f.Fuzz(func(t *testing.T, chain, key, tsa []byte, hash string) {
		r, err := FromKeys(&policy.SigstoreKeys{
			CertificateAuthorities: []policy.CertificateAuthority{{CertChain: chain}},
			TimestampAuthorities:   []policy.CertificateAuthority{{CertChain: tsa}},
			TLogs:                  []policy.LogInstance{{PublicKey: key, HashAlgorithm: hash}},
		})
		whole(t, r, err)
	})
}

// fuzzed is the same repository in each of a fuzzer's processes.
func fuzzed(f *testing.F) (*tuftest.Repository, time.Time) {
	f.Helper()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	repository := tuftest.NewFrom(f, strings.NewReader(strings.Repeat("not random, so that it is the same", 8)), now)
	repository.Set("trusted_root.json", publicGoodTrustedRoot, nil)
	repository.Publish()
	return repository, now
}

// Whatever archive comes with a root, what is trusted is what that root's keys signed.
func FuzzFromRepository(f *testing.F) {
	repository, now := fuzzed(f)
	initial, want := repository.Root(), PublicGood().Revision
	f.Add(initial, repository.Archive())
	f.Add(initial, tuftest.Pack(f, "", map[string][]byte{"timestamp.json": []byte("{}"), "2.root.json": initial}))
	f.Fuzz(func(t *testing.T, root, archive []byte) {
		r, err := FromRepository(&policy.TUFRepository{Root: root, MirrorFS: archive}, now)
		whole(t, r, err)
		if err == nil && bytes.Equal(root, initial) && r.Revision != want {
			t.Error("something is trusted that the keys did not sign")
		}
	})
}

// The metadata of a repository, each file for itself: gzip would keep a fuzzer from reaching the parsers.
func FuzzMetadata(f *testing.F) {
	repository, now := fuzzed(f)
	initial, want := repository.Root(), PublicGood().Revision
	all := repository.Files()
	f.Add(initial, all["timestamp.json"], all["2.snapshot.json"], all["2.targets.json"])
	f.Add(initial, []byte("{}"), []byte("[]"), []byte("null"))
	f.Fuzz(func(t *testing.T, root, timestamp, snapshot, targets []byte) {
		files := repository.Files()
		files["timestamp.json"], files["2.snapshot.json"], files["2.targets.json"] = timestamp, snapshot, targets
		r, err := FromRepository(&policy.TUFRepository{Root: root, MirrorFS: tuftest.Pack(t, "", files)}, now)
		whole(t, r, err)
		if err == nil && bytes.Equal(root, initial) && r.Revision != want {
			t.Error("something is trusted that the keys did not sign")
		}
	})
}
