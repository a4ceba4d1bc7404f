package sigstore

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

var someone = Identity{Issuer: "https://issuer.test", Email: "someone@example.test"}

func start(t *testing.T) *Instance {
	t.Helper()
	i, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Stop)
	return i
}

func statement(n int) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"x","digest":{"sha256":"%064x"}}],`+
		`"predicateType":"https://example.test/p","predicate":{}}`, n)
}

func (i *Instance) mustBundle(t *testing.T, who Identity, n int) *bundle.Bundle {
	t.Helper()
	data, err := i.Bundle(t.Context(), who, statement(n))
	if err != nil {
		t.Fatal(err)
	}
	b := &bundle.Bundle{}
	if err := b.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	return b
}

// judge has sigstore-go judge a bundle by everything that it can ask for.
func judge(t *testing.T, i *Instance, b *bundle.Bundle, who Identity, n int) error {
	t.Helper()
	data, err := i.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := root.NewTrustedRootFromJSON(data)
	if err != nil {
		t.Fatal(err)
	}
	v, err := verify.NewVerifier(trusted, verify.WithSignedCertificateTimestamps(1), verify.WithTransparencyLog(1),
		verify.WithIntegratedTimestamps(1), verify.WithSignedTimestamps(1))
	if err != nil {
		t.Fatal(err)
	}
	id, err := verify.NewShortCertificateIdentity(who.Issuer, "", who.Email+who.URI, "")
	if err != nil {
		t.Fatal(err)
	}
	digest, err := hex.DecodeString(fmt.Sprintf("%064x", n))
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(b, verify.NewPolicy(verify.WithArtifactDigest("sha256", digest), verify.WithCertificateIdentity(id)))
	return err
}

// TestLibraryAcceptsOwnBundles: what an instance gives out satisfies the library in full, whatever the log's size.
func TestLibraryAcceptsOwnBundles(t *testing.T) {
	i := start(t)
	workflow := Identity{
		Issuer: "https://token.actions.test", URI: "https://github.com/org/repo/.github/workflows/release.yaml@refs/tags/v1",
		Workflow: &Workflow{Trigger: "push", SHA: strings.Repeat("a", 40), Name: "release", Repository: "org/repo", Ref: "refs/tags/v1"},
	}
	for n := range 11 {
		who := []Identity{someone, workflow}[n%2]
		if err := judge(t, i, i.mustBundle(t, who, n), who, n); err != nil {
			t.Errorf("entry %d: %v", n, err)
		}
	}
}

// TestLibraryRefusesOtherBundles: the same library is not satisfied by anything.
func TestLibraryRefusesOtherBundles(t *testing.T) {
	i, other := start(t), start(t)
	b := i.mustBundle(t, someone, 1)
	if err := judge(t, other, b, someone, 1); err == nil {
		t.Error("another instance's bundle was accepted")
	}
	if err := judge(t, i, b, Identity{Issuer: someone.Issuer, Email: "other@example.test"}, 1); err == nil {
		t.Error("another identity was accepted")
	}
	if err := judge(t, i, b, someone, 2); err == nil {
		t.Error("another artifact was accepted")
	}
}

// TestInclusionProofs: every entry is proved at every later size of the log.
func TestInclusionProofs(t *testing.T) {
	l, err := newLedger()
	if err != nil {
		t.Fatal(err)
	}
	for size := 1; size <= 20; size++ {
		body := fmt.Appendf(nil, "entry %d", size)
		l.add(entry{body: body, leafHash: rfc6962.DefaultHasher.HashLeaf(body)})
		for place := range size {
			p, err := l.inclusion(t.Context(), place)
			if err != nil {
				t.Fatal(err)
			}
			var hashes [][]byte
			for _, h := range p.Hashes {
				raw, err := hex.DecodeString(h)
				if err != nil {
					t.Fatal(err)
				}
				hashes = append(hashes, raw)
			}
			rootHash, err := hex.DecodeString(*p.RootHash)
			if err != nil {
				t.Fatal(err)
			}
			if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(place), uint64(size), l.entries[place].leafHash, hashes, rootHash); err != nil {
				t.Errorf("entry %d of %d: %v", place, size, err)
			}
		}
	}
}

// TestForeignTokenIsRefused: a certificate is for whoever the provider says, not for whoever asks.
func TestForeignTokenIsRefused(t *testing.T) {
	i, other := start(t), start(t)
	token, err := other.Token(someone)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"publicKey": map[string]any{"content": []byte("x")}})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, i.Fulcio.URL+"/api/v1/signingCert", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("answered %s", resp.Status)
	}
}
