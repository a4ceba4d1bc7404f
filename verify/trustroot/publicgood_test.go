package trustroot

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func TestPublicGoodFilesAreTheOnesTheReadmeNames(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"root.json":         {publicGoodTUFRoot, "27aea7e372aa7864065174f0661784fcf8b0e28b1dbfebeada31a0f1fb19167f"},
		"trusted_root.json": {publicGoodTrustedRoot, "6494e21ea73fa7ee769f85f57d5a3e6a08725eae1e38c755fc3517c9e6bc0b66"},
	} {
		if sum := sha256.Sum256(c.data); hex.EncodeToString(sum[:]) != c.want {
			t.Errorf("%s has the hash %x, want %s", name, sum, c.want)
		}
	}
}

// Enough key holders of a root that came by another way, with the module sigstore-go and its checksum, have signed the
// embedded one.
func TestPublicGoodTUFRootIsSignedByTheKeyHolders(t *testing.T) {
	older, err := metadata.Root().FromBytes(tuf.DefaultRoot())
	if err != nil {
		t.Fatal(err)
	}
	ours, err := metadata.Root().FromBytes(PublicGoodRemote().Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := older.VerifyDelegate(metadata.ROOT, ours); err != nil {
		t.Errorf("by root %d: %v", older.Signed.Version, err)
	}
	if err := ours.VerifyDelegate(metadata.ROOT, ours); err != nil {
		t.Errorf("by itself: %v", err)
	}
	if ours.Signed.Version < older.Signed.Version {
		t.Errorf("root %d is embedded, sigstore-go has %d already", ours.Signed.Version, older.Signed.Version)
	}
}

func TestPublicGoodHoldsTheKnownAuthorities(t *testing.T) {
	r := PublicGood()
	want := []string{
		"c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d", // rekor.sigstore.dev
		"cf1199155bddd051268d1f16ac5c0c75c009f6fb5a63f4177f8e18d7051e3fa0", // log2025-1.rekor.sigstore.dev
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(r.RekorLogs()))); diff != "" {
		t.Errorf("Rekor logs (-want +got):\n%s", diff)
	}
	want = []string{
		"086092f02852ff6845d1d16b27849c456718ac163dc338d26de6bc2206366f72", // ctfe.sigstore.dev/test
		"dd3d306ac6c7113263191e1c99673702a24a5eb8de3cadff878a72802f29ee8e", // ctfe.sigstore.dev/2022
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(r.CTLogs()))); diff != "" {
		t.Errorf("certificate transparency logs (-want +got):\n%s", diff)
	}
	var cas []string
	for _, authority := range r.FulcioCertificateAuthorities() {
		cas = append(cas, hexOf(authority.(*root.FulcioCertificateAuthority).Root.Raw))
	}
	want = []string{
		"03a38ffb1f450100c2596d1d10b900ac4d504058006dda58199576bbeb9c73d0", // fulcio.sigstore.dev until 2022
		"3ba7b6cc4e95469d4d334b49cb257ad8537076fa84b0ca87ff4ecfe6a54680c1", // fulcio.sigstore.dev
	}
	if diff := cmp.Diff(want, cas); diff != "" {
		t.Errorf("certificate authorities (-want +got):\n%s", diff)
	}
	if n := len(r.TimestampingAuthorities()); n != 1 {
		t.Errorf("%d timestamp authorities", n)
	}
}

func hexOf(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

func TestPublicGoodExpiresWithItsTUFRoot(t *testing.T) {
	r := PublicGood()
	want := time.Date(2027, 4, 22, 19, 27, 31, 0, time.UTC)
	if !r.Expires.Equal(want) || !r.Due().Equal(want) {
		t.Errorf("expires %v, due %v; want %v", r.Expires, r.Due(), want)
	}
	if err := r.Expired(want); err != nil {
		t.Errorf("in its last second: %v", err)
	}
	if r.Expired(want.Add(time.Second)) == nil {
		t.Error("is used after it expired")
	}
	// Its Fulcio goes on until 2031: signatures would go on being accepted.
	if r.Ends.Year() != 2031 {
		t.Errorf("ends %v", r.Ends)
	}
}

var lasts = flag.Duration("lasts", 0, "how long the embedded public-good root must still be good for; 0: that is only logged")

// A release asks for -lasts (publicgood/README.md). Otherwise the date fails nothing: a branch that passed passes for ever.
func TestPublicGoodLastsForARelease(t *testing.T) {
	end := PublicGood().Expires
	left := time.Until(end)
	t.Logf("the embedded root expires on %s, in %d days", end.Format(time.DateOnly), int(left.Hours()/24))
	if *lasts > 0 && left < *lasts {
		t.Errorf("that is less than %s: refresh it, see publicgood/README.md", *lasts)
	}
}

func TestPublicGoodIsGivenAnewEachTime(t *testing.T) {
	PublicGoodRemote().Root[0] = 'x'
	if PublicGoodRemote().Root[0] == 'x' {
		t.Error("a caller can change the embedded root")
	}
	a, b := PublicGood(), PublicGood()
	if a == b || a.Revision == "" || a.Revision != b.Revision {
		t.Errorf("revisions %q and %q", a.Revision, b.Revision)
	}
}
